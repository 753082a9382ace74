"""Networks by name."""

import functools
import inspect
from collections.abc import Mapping

import jax.numpy as jnp
from flax import linen as nn

from sdfl_jax.errors import InputError, article, fits, valid
from sdfl_jax.models import (
    catnet,
    classifier,
    mesorch,
    mvssnet,
    sdfl,
    segformer,
    simplenet,
    starter,
    trufor,
    unet,
    vit_lora,
)
from sdfl_jax.models.bayar import project
from sdfl_jax.models.encoders import ENCODERS, NOISE_ENCODERS
from sdfl_jax.models.lora import adapted, of_settings
from sdfl_jax.models.outputs import Outputs

__all__ = [
    "ENCODERS",
    "MODELS",
    "NOISE_ENCODERS",
    "Outputs",
    "blank_inputs",
    "build",
    "init_variables",
    "inputs_of",
    "project",
]

MODELS = {
    "sdfl": sdfl.build,
    "upernet": functools.partial(sdfl.build, noise_branch=False),
    "mvssnet": mvssnet.build,
    "starter": starter.build,
    "unet": unet.build,
    "segformer": segformer.build,
    "vit_lora": vit_lora.build,
    "catnet": catnet.build,
    "mesorch": mesorch.build,
    "trufor": trufor.build,
    # Image-level: these give no mask.
    "classifier": classifier.build,
    "densenet121": functools.partial(classifier.build, encoder="densenet121"),
    "resnet50": functools.partial(classifier.build, encoder="resnet50"),
    "simplenet": simplenet.build,
    "xception": functools.partial(
        classifier.build, encoder="xception", hidden=(1000, 256, 64)
    ),
}


def build(name: str, *, lora: Mapping | None = None, **settings) -> nn.Module:
    """The network `name`; `MODELS[name]` says what its settings mean.

    `lora` puts adapters beside dense layers: the fields of `lora.Lora`.

    Raises InputError for a name or a setting that there is not, or of another type.
    """
    if name not in MODELS:
        raise InputError(f"No model {name!r}; {valid(name, MODELS)}")
    known = inspect.signature(MODELS[name]).parameters
    for setting, value in settings.items():
        if setting not in known:
            raise InputError(
                f"Model {name!r} has no setting {setting!r}; {valid(setting, known)}"
            )
        default = known[setting].default
        plain = isinstance(default, bool | int | float | str | tuple)
        if plain and not fits(value, default):
            raise InputError(
                f"Model {name!r}, {setting}={value!r}: takes {article(default)}."
            )
    network = MODELS[name](**settings)
    if not lora:
        return network
    if hasattr(network, "lora"):
        raise InputError(f"Model {name!r} has adapters of its own; leave out lora.")
    return adapted(network, of_settings(lora))


def blank_inputs(model: nn.Module, image_size: int, count: int = 1) -> dict:
    """What `model` is applied to: black images, and whatever else it reads, by name."""
    side = image_size
    inputs = {"image": jnp.zeros((count, side, side, 3))}
    if "jpeg" in getattr(model, "inputs", ()):
        inputs["dct"] = jnp.zeros((count, side, side), jnp.int16)
        inputs["qtable"] = jnp.ones((count, 8, 8))
    return inputs


def inputs_of(arrays: dict) -> dict:
    """What a network reads beside the image: a JPEG's coefficients and table."""
    return {name: arrays[name] for name in ("dct", "qtable") if name in arrays}


def identity(model) -> str | None:
    """What tells a network of this package from any other: classes and settings.

    None where these are not all it is: where code is from elsewhere, which could change
    unseen, or where a setting is a function.
    """
    if not isinstance(model, nn.Module):
        return None
    settings = (getattr(model, name, None) for name in model.__dataclass_fields__)
    known = all(map(_ours, type(model).__mro__)) and all(map(_says_all, settings))
    return repr((type(model).__mro__, model)) if known else None


def _ours(kind: type) -> bool:
    package = kind.__module__.partition(".")[0]
    return not issubclass(kind, nn.Module) or package in ("flax", "sdfl_jax")


def _says_all(setting) -> bool:
    """Whether its text leaves nothing out."""
    if isinstance(setting, nn.Module):
        return identity(setting) is not None
    if isinstance(setting, functools.partial):
        setting = setting.func
    if isinstance(setting, type):
        return _ours(setting)
    return not callable(setting) and " at 0x" not in repr(setting)


def init_variables(model: nn.Module, image_size: int, rng) -> dict:
    """Fresh `params` and `batch_stats`; runs under `jax.jit` and `jax.eval_shape`."""
    variables = model.init(rng, **blank_inputs(model, image_size), train=False)
    return {
        "params": variables["params"],
        "batch_stats": variables.get("batch_stats", {}),
    }

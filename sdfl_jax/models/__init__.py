"""Networks by name."""

import functools
import inspect

from flax import linen as nn

from sdfl_jax.errors import InputError, valid
from sdfl_jax.models import classifier, mvssnet, sdfl, simplenet, starter, unet
from sdfl_jax.models.bayar import project
from sdfl_jax.models.encoders import ENCODERS
from sdfl_jax.models.outputs import Outputs

__all__ = ["ENCODERS", "MODELS", "Outputs", "build", "project"]

MODELS = {
    "sdfl": sdfl.build,
    "upernet": functools.partial(sdfl.build, noise_branch=False),
    "mvssnet": mvssnet.build,
    "starter": starter.build,
    "unet": unet.build,
    # Image-level: these give no mask.
    "classifier": classifier.build,
    "densenet121": functools.partial(classifier.build, encoder="densenet121"),
    "resnet50": functools.partial(classifier.build, encoder="resnet50"),
    "simplenet": simplenet.build,
    "xception": functools.partial(
        classifier.build, encoder="xception", hidden=(1000, 256, 64)
    ),
}


def build(name: str, **settings) -> nn.Module:
    """The network `name`; `MODELS[name]` says what its settings mean.

    Raises InputError for a name or a setting that there is not.
    """
    if name not in MODELS:
        raise InputError(f"No model {name!r}; {valid(name, MODELS)}")
    known = inspect.signature(MODELS[name]).parameters
    for setting in settings:
        if setting not in known:
            raise InputError(
                f"Model {name!r} has no setting {setting!r}; {valid(setting, known)}"
            )
    return MODELS[name](**settings)

"""A run that starts within seconds: `--config=tests/tiny_config.py --config.data...`"""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from sdfl_jax.models import MODELS, Outputs
from tests import tiny


class Dot(nn.Module):
    """Two layers: tracing and compiling are what a tiny run spends its time on."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image, *, train: bool):
        # A bias before batch norm has no gradient but rounding.
        x = nn.Conv(8, (5, 5), use_bias=False, name="conv")(image)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, name="bn")(x))
        mask_logits = nn.Conv(1, (1, 1), name="mask_head")(x)
        return Outputs(mask_logits=mask_logits, label_logits=mask_logits.max((1, 2, 3)))


MODELS["dot"] = Dot


def get_config(arg=None):
    """A dozen steps, validated twice, saved every other step; data come by flags."""
    config = tiny.config(
        "", "", total_steps=12, validate_every=6, save_every=2, batch_size=8
    )
    config.model = {"name": "dot"}
    config.data.workers = 0  # a field that flags may set
    return config

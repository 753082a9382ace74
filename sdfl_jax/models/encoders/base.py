"""What every encoder has."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn

from sdfl_jax.models.layers import BatchNorm
from sdfl_jax.models.names import TorchNames

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Encoder(nn.Module, kw_only=True):
    """RGB in, features at strides 4, 8, 16 and 32 out.

    A `plain` one returns a single map instead, at the stride of its `patch`.
    """

    torch_names: ClassVar[TorchNames] = TorchNames()
    plain: ClassVar[bool] = False

    mean: Sequence[float] = IMAGENET_MEAN  # of RGB in [0, 1], as published weights
    std: Sequence[float] = IMAGENET_STD  # expect it
    norm: Callable[..., nn.Module] = BatchNorm  # with its settings
    dtype: Any = jnp.float32
    remat: bool = False  # of blocks, see `layers.run_block`

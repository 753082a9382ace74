"""Operations below the networks: convolution, pooling."""

from sdfl_jax.ops.conv import conv2d
from sdfl_jax.ops.pooling import prroi_pool, pyramid_pool

__all__ = ["conv2d", "prroi_pool", "pyramid_pool"]

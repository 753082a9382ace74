"""ConvNeXt (Liu et al., 2022): a ResNet rebuilt with what transformers use."""

import functools
from collections.abc import Sequence
from typing import Any

from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import Conv, run_block

LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-6)


class Block(nn.Module):
    """Filters each channel, then mixes them in a hidden layer four times as wide.

    The result is scaled by 1e-6 at first, channel by channel. Blocks are never left
    out at random, as the original training does.
    """

    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], *, train: bool
    ) -> Float[Array, "B h w C"]:
        del train  # the same in both modes
        width = x.shape[-1]
        conv = functools.partial(Conv, use_bias=True, dtype=self.dtype)
        y = conv(width, 7, groups=width, name="depthwise")(x)
        y = LayerNorm(dtype=self.dtype, name="norm")(y)
        y = nn.Dense(4 * width, dtype=self.dtype, name="expand")(y)
        y = nn.gelu(y, approximate=False)
        y = nn.Dense(width, dtype=self.dtype, name="project")(y)
        scale = self.param("layer_scale", nn.initializers.constant(1e-6), (width,))
        return x + y * scale.astype(self.dtype)[None, None, None]


class ConvNeXt(Encoder):
    """Returns the features of each stage, at strides 4, 8, 16 and 32.

    `stages` are (blocks, features). There is no batch norm: `norm` is not used.
    """

    stages: Sequence[tuple[int, int]]

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], *, train: bool
    ) -> list[Float[Array, "B _ _ _"]]:
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        conv = functools.partial(Conv, padding=0, use_bias=True, dtype=self.dtype)
        levels = []
        for stage, (blocks, features) in enumerate(self.stages):
            # Named by their order in PyTorch: convolution first in the stem alone.
            if stage == 0:
                x = norm(name="down0_1")(conv(features, 4, 4, name="down0_0")(x))
            else:
                x = norm(name=f"down{stage}_0")(x)
                x = conv(features, 2, 2, name=f"down{stage}_1")(x)
            for i in range(blocks):
                block = Block(self.dtype, name=f"stage{stage}_{i}")
                x = run_block(block, x, train=train, remat=self.remat)
            levels.append(x)
        return levels


convnext_tiny = functools.partial(
    ConvNeXt, stages=((3, 96), (3, 192), (9, 384), (3, 768))
)

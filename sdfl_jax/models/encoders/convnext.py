"""ConvNeXt (Liu et al., 2022): a ResNet rebuilt with what transformers use."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import Conv, Dense, LayerNorm, run_block
from sdfl_jax.models.names import HEADS, TorchNames

TORCH_NAMES = TorchNames(
    to_path=(
        # torchvision's: features.0.1.bias, features.3.2.block.5.weight
        *((rf"^features\.{2 * i + 1}\.(\d)\.", rf"stage{i}_\1/") for i in range(4)),
        *((rf"^features\.{2 * i}\.([01])\.", rf"down{i}_\1/") for i in range(4)),
        (r"/block\.0\.", "/depthwise/"),
        (r"/block\.2\.", "/norm/"),
        (r"/block\.3\.", "/expand/"),
        (r"/block\.5\.", "/project/"),
        # timm's: stem.0.weight, stages.1.blocks.2.mlp.fc1.bias
        (r"^stem\.([01])\.", r"down0_\1/"),
        (r"^stages\.(\d)\.downsample\.([01])\.", r"down\1_\2/"),
        (r"^stages\.(\d)\.blocks\.(\d)\.", r"stage\1_\2/"),
        (r"/conv_dw\.", "/depthwise/"),
        (r"/mlp\.fc1\.", "/expand/"),
        (r"/mlp\.fc2\.", "/project/"),
        (r"/gamma$", "/layer_scale"),
    ),
    to_torch=(
        *((rf"^stage{i}_(\d+)/", rf"features/{2 * i + 1}/\1/") for i in range(4)),
        *((rf"^down{i}_(\d)/", rf"features/{2 * i}/\1/") for i in range(4)),
        (r"/depthwise/", "/block/0/"),
        (r"(features/\d/\d+)/norm/", r"\1/block/2/"),
        (r"/expand/", "/block/3/"),
        (r"/project/", "/block/5/"),
    ),
    unused=HEADS,
)


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
        y = Dense(4 * width, dtype=self.dtype, name="expand")(y)
        y = nn.gelu(y, approximate=False)
        y = Dense(width, dtype=self.dtype, name="project")(y)
        scale = self.param("layer_scale", nn.initializers.constant(1e-6), (width,))
        return x + y * scale.astype(self.dtype)[None, None, None]


class ConvNeXt(Encoder):
    """Returns the features of each stage, at strides 4, 8, 16 and 32.

    `stages` are (blocks, features). There is no batch norm: `norm` is not used.
    """

    stages: Sequence[tuple[int, int]]
    stem_bias: bool = True

    torch_names: ClassVar = TORCH_NAMES

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W _"], *, train: bool
    ) -> list[Float[Array, "B _ _ _"]]:
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        conv = functools.partial(Conv, padding=0, use_bias=True, dtype=self.dtype)
        maps = []
        for stage, (blocks, features) in enumerate(self.stages):
            # Named by their order in PyTorch: convolution first in the stem alone.
            if stage == 0:
                stem = conv(features, 4, 4, use_bias=self.stem_bias, name="down0_0")
                x = norm(name="down0_1")(stem(x))
            else:
                x = norm(name=f"down{stage}_0")(x)
                x = conv(features, 2, 2, name=f"down{stage}_1")(x)
            for i in range(blocks):
                block = Block(self.dtype, name=f"stage{stage}_{i}")
                x = run_block(block, x, train=train, remat=self.remat)
            maps.append(x)
        return maps


convnext_tiny = functools.partial(
    ConvNeXt, stages=((3, 96), (3, 192), (9, 384), (3, 768))
)

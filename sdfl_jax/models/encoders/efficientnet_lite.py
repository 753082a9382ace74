"""EfficientNet-Lite (Google, 2020): no squeeze-and-excite, ReLU6, a fixed stem."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import Conv, run_block
from sdfl_jax.models.names import HEADS, TorchNames

# efficientnet_pytorch's: _blocks.0._depthwise_conv.weight, _bn0.bias
TORCH_NAMES = TorchNames(
    to_path=(
        (r"^_blocks\.(\d+)\.", r"block\1/"),
        (r"\b_([a-z]+_conv|conv_stem|bn\d)\.", r"\1/"),
    ),
    to_torch=(
        (r"^block(\d+)/(\w+_conv|bn\d)/", r"_blocks/\1/_\2/"),
        (r"^(conv_stem|bn0)/", r"_\1/"),
    ),
    unused=(*HEADS, "_conv_head.", "_bn1."),
    classifier="_fc",
)


class InvertedBottleneck(nn.Module):
    """Widens, filters each channel by itself, narrows; linear at both ends."""

    features: int
    kernel: int
    strides: int
    expansion: int
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train: bool):
        conv = functools.partial(Conv, padding="SAME", dtype=self.dtype)
        wide = x.shape[-1] * self.expansion
        y = x
        if self.expansion > 1:
            y = conv(wide, 1, name="expand_conv")(y)
            y = nn.relu6(self.norm(name="bn0")(y, train=train))
        y = conv(wide, self.kernel, self.strides, groups=wide, name="depthwise_conv")(y)
        y = nn.relu6(self.norm(name="bn1")(y, train=train))
        y = conv(self.features, 1, name="project_conv")(y)
        y = self.norm(name="bn2")(y, train=train)
        return x + y if x.shape == y.shape else y


class EfficientNetLite(Encoder):
    """Returns the features before each halving, at strides 4, 8, 16 and 32.

    `stages` are (blocks, kernel, first stride, expansion, features). Padding and the
    epsilon of the batch norm are TensorFlow's, which the weights come from.
    """

    stages: Sequence[tuple[int, int, int, int, int]]

    torch_names: ClassVar = TORCH_NAMES
    on_canvas: ClassVar = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], *, train: bool
    ) -> list[Float[Array, "B _ _ _"]]:
        norm = functools.partial(self.norm, eps=1e-3)
        x = Conv(32, 3, 2, padding="SAME", dtype=self.dtype, name="conv_stem")(x)
        x = nn.relu6(norm(name="bn0")(x, train=train))

        maps, number = [x], 0
        for blocks, kernel, strides, expansion, features in self.stages:
            for i in range(blocks):
                block = InvertedBottleneck(
                    features=features,
                    kernel=kernel,
                    strides=strides if i == 0 else 1,
                    expansion=expansion,
                    norm=norm,
                    dtype=self.dtype,
                    name=f"block{number}",
                )
                x = run_block(block, x, train=train, remat=self.remat)
                number += 1
            if strides == 2:
                maps.append(x)
            else:
                maps[-1] = x
        return maps[1:]  # stride 2 is left to itself


efficientnet_lite0 = functools.partial(
    EfficientNetLite,
    stages=(
        (1, 3, 1, 1, 16),
        (2, 3, 2, 6, 24),
        (2, 5, 2, 6, 40),
        (3, 3, 2, 6, 80),
        (3, 5, 1, 6, 112),
        (4, 5, 2, 6, 192),
        (1, 3, 1, 6, 320),
    ),
)

"""ResNets (He et al., 2016), with the plain stem or with the deep one."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import Conv, max_pool, relu, run_block
from sdfl_jax.models.names import HEADS, TorchNames

# CSAIL's and torchvision's: layer1.0.downsample.1.bias, conv1.weight
TORCH_NAMES = TorchNames(
    to_path=(
        (r"^layer(\d)\.(\d+)\.", r"layer\1_\2/"),
        (r"/downsample\.0\.", "/downsample_conv/"),
        (r"/downsample\.1\.", "/downsample_bn/"),
    ),
    to_torch=(
        (r"^layer(\d)_(\d+)/", r"layer\1/\2/"),
        (r"/downsample_conv/", "/downsample/0/"),
        (r"/downsample_bn/", "/downsample/1/"),
    ),
    unused=HEADS,
)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    features: int
    strides: int
    dilation: int
    norm: Callable[..., nn.Module]
    dtype: Any

    expansion = 1

    @nn.compact
    def __call__(self, x, *, train: bool):
        conv = functools.partial(Conv, dtype=self.dtype)
        y = conv(self.features, 3, self.strides, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y, train=train))
        y = conv(self.features, 3, dilation=self.dilation, name="conv2")(y)
        y = self.norm(name="bn2")(y, train=train)
        return relu(y + _shortcut(self, x, y, train=train))


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided, dilated) and 1x1 convolutions beside a shortcut."""

    features: int
    strides: int
    dilation: int
    norm: Callable[..., nn.Module]
    dtype: Any

    expansion = 4

    @nn.compact
    def __call__(self, x, *, train: bool):
        conv = functools.partial(Conv, dtype=self.dtype)
        y = conv(self.features, 1, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y, train=train))
        y = conv(self.features, 3, self.strides, dilation=self.dilation, name="conv2")(
            y
        )
        y = relu(self.norm(name="bn2")(y, train=train))
        y = conv(self.features * self.expansion, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y, train=train)
        return relu(y + _shortcut(self, x, y, train=train))


def _shortcut(block, x, y, *, train: bool):
    """The block's input `x`, projected only where its shape is not that of `y`."""
    if x.shape == y.shape:
        return x
    conv = Conv(
        y.shape[-1], 1, block.strides, dtype=block.dtype, name="downsample_conv"
    )
    return block.norm(name="downsample_bn")(conv(x), train=train)


class ResNet(Encoder):
    """Returns the last features of each stage, at strides 4, 8, 16 and 32.

    With `dilations`, one for each block of the last stage, that stage stays at 16.
    """

    stages: Sequence[int]
    block: type[nn.Module]
    deep_stem: bool = False
    dilations: Sequence[int] = ()
    width: int = 64  # of the first stage, before a bottleneck's expansion

    torch_names: ClassVar = TORCH_NAMES
    on_canvas: ClassVar = True

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], *, train: bool
    ) -> list[Float[Array, "B _ _ _"]]:
        width = self.width
        stem = [(width, 7, 2)]
        if self.deep_stem:
            stem = [(width, 3, 2), (width, 3, 1), (2 * width, 3, 1)]
        for i, (features, kernel, strides) in enumerate(stem, 1):
            conv = Conv(features, kernel, strides, dtype=self.dtype, name=f"conv{i}")
            x = relu(self.norm(name=f"bn{i}")(conv(x), train=train))
        x = max_pool(x, 3, 2, padding=1)

        maps = []
        for stage, blocks in enumerate(self.stages):
            dilations = self.dilations if stage + 1 == len(self.stages) else ()
            for i in range(blocks):
                block = self.block(
                    features=width * 2**stage,
                    strides=2 if stage > 0 and i == 0 and not dilations else 1,
                    dilation=dilations[i] if dilations else 1,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"layer{stage + 1}_{i}",
                )
                x = run_block(block, x, train=train, remat=self.remat)
            maps.append(x)
        return maps


# For studies within minutes on a CPU; nobody publishes weights of it.
resnet10_narrow = functools.partial(
    ResNet, stages=(1, 1, 1, 1), block=BasicBlock, width=16
)
resnet18 = functools.partial(ResNet, stages=(2, 2, 2, 2), block=BasicBlock)
resnet50 = functools.partial(ResNet, stages=(3, 4, 6, 3), block=Bottleneck)
resnet101 = functools.partial(ResNet, stages=(3, 4, 23, 3), block=Bottleneck)

# CSAIL's variant of the scene-parsing networks; the reference feeds it plain RGB.
resnet50_deep = functools.partial(
    ResNet,
    stages=(3, 4, 6, 3),
    block=Bottleneck,
    deep_stem=True,
    mean=(0.0, 0.0, 0.0),
    std=(1.0, 1.0, 1.0),
)

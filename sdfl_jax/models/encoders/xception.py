"""Xception (Chollet, 2017): each channel filtered by itself, then all of them mixed."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import Conv, max_pool, run_block
from sdfl_jax.models.names import HEADS, TorchNames

# timm's: block1.rep.0.pointwise.weight, block1.skipbn.bias
TORCH_NAMES = TorchNames(
    to_path=((r"^block(\d+)\.rep\.(\d)\.", r"block\1/rep\2/"),),
    to_torch=((r"^block(\d+)/rep(\d)/", r"block\1/rep/\2/"),),
    unused=HEADS,
)

# Features of each block of the middle and of both ends. The children of a block are
# numbered as in timm's `legacy_xception`, where activations and pooling count too.
BLOCKS = (
    (128, 128),
    (256, 256),
    (728, 728),
    *[(728, 728, 728)] * 8,
    (728, 1024),
)
STRIDED = (0, 1, 2, 11)


class SeparableConv(nn.Module):
    """A 3x3 convolution of each channel, then a 1x1 convolution."""

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w _"]:
        width = x.shape[-1]
        x = Conv(width, 3, groups=width, dtype=self.dtype, name="conv1")(x)
        return Conv(self.features, 1, dtype=self.dtype, name="pointwise")(x)


class Block(nn.Module):
    """Separable convolutions beside a shortcut, which strides where they pool."""

    features: Sequence[int]
    strides: int
    relu_first: bool
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, x, *, train: bool):
        y, number = x, 0
        for i, features in enumerate(self.features):
            if i > 0 or self.relu_first:
                y, number = nn.relu(y), number + 1
            y = SeparableConv(features, self.dtype, name=f"rep{number}")(y)
            y = self.norm(name=f"rep{number + 1}")(y, train=train)
            number += 2
        if self.strides > 1:
            y = max_pool(y, 3, self.strides, padding=1)
        if x.shape == y.shape:
            return x + y
        skip = Conv(y.shape[-1], 1, self.strides, dtype=self.dtype, name="skip")(x)
        return self.norm(name="skipbn")(skip, train=train) + y


class Xception(Encoder):
    """Returns features at strides 4, 8, 16 and 32.

    The first two convolutions are not padded, so that a map is smaller than the
    image over its stride by one position at most.
    """

    mean: Sequence[float] = (0.5, 0.5, 0.5)
    std: Sequence[float] = (0.5, 0.5, 0.5)

    torch_names: ClassVar = TORCH_NAMES

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], *, train: bool
    ) -> list[Float[Array, "B _ _ _"]]:
        for i, (features, strides) in enumerate([(32, 2), (64, 1)], 1):
            conv = Conv(
                features, 3, strides, padding=0, dtype=self.dtype, name=f"conv{i}"
            )
            x = nn.relu(self.norm(name=f"bn{i}")(conv(x), train=train))

        maps = []
        for i, features in enumerate(BLOCKS):
            if i in STRIDED[1:]:
                maps.append(nn.relu(x))
            block = Block(
                features=features,
                strides=2 if i in STRIDED else 1,
                relu_first=i > 0,
                norm=self.norm,
                dtype=self.dtype,
                name=f"block{i + 1}",
            )
            x = run_block(block, x, train=train, remat=self.remat)

        for i, features in enumerate([1536, 2048], 3):
            x = SeparableConv(features, self.dtype, name=f"conv{i}")(x)
            x = nn.relu(self.norm(name=f"bn{i}")(x, train=train))
        return [*maps, x]

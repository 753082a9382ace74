"""DenseNet (Huang et al., 2017): every layer reads what all before it wrote."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import Conv, max_pool, run_block
from sdfl_jax.models.names import HEADS, TorchNames

# torchvision's, whose older files have norm.1 for norm1:
# features.denseblock1.denselayer1.norm1.weight, features.transition1.conv.weight
TORCH_NAMES = TorchNames(
    to_path=(
        (r"^features\.denseblock(\d)\.denselayer(\d+)\.", r"block\1_\2/"),
        (r"^features\.", ""),
        (r"\b(conv|norm)\.(\d)\.", r"\1\2/"),
    ),
    to_torch=(
        (r"^block(\d)_(\d+)/", r"features/denseblock\1/denselayer\2/"),
        (r"^(transition\d|conv0|norm0|norm5)/", r"features/\1/"),
    ),
    unused=HEADS,
    classifier="classifier",
)


class DenseLayer(nn.Module):
    """Adds `growth` features: norm, 1x1 convolution, norm, 3x3 convolution."""

    growth: int
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], *, train: bool
    ) -> Float[Array, "B h w {self.growth}"]:
        conv = functools.partial(Conv, dtype=self.dtype)
        y = nn.relu(self.norm(name="norm1")(x, train=train))
        y = conv(4 * self.growth, 1, name="conv1")(y)
        y = nn.relu(self.norm(name="norm2")(y, train=train))
        return conv(self.growth, 3, name="conv2")(y)


class Transition(nn.Module):
    """Ends a block: returns its normalised features, and half of them at half size."""

    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], *, train: bool
    ) -> tuple[Float[Array, "B h w C"], Float[Array, "B _ _ _"]]:
        out = nn.relu(self.norm(name="norm")(x, train=train))
        x = Conv(x.shape[-1] // 2, 1, dtype=self.dtype, name="conv")(out)
        return out, nn.avg_pool(x, window_shape=(2, 2), strides=(2, 2))


class DenseNet(Encoder):
    """Returns each block's normalised features, at strides 4, 8, 16 and 32."""

    blocks: Sequence[int]
    growth: int = 32
    stem: int = 64

    torch_names: ClassVar = TORCH_NAMES

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], *, train: bool
    ) -> list[Float[Array, "B _ _ _"]]:
        x = Conv(self.stem, 7, 2, dtype=self.dtype, name="conv0")(x)
        x = nn.relu(self.norm(name="norm0")(x, train=train))
        x = max_pool(x, 3, 2, padding=1)

        maps = []
        for block, layers in enumerate(self.blocks, 1):
            for i in range(1, layers + 1):
                layer = DenseLayer(
                    self.growth, self.norm, self.dtype, name=f"block{block}_{i}"
                )
                new = run_block(layer, x, train=train, remat=self.remat)
                x = jnp.concatenate([x, new], axis=-1)
            if block < len(self.blocks):
                out, x = Transition(self.norm, self.dtype, name=f"transition{block}")(
                    x, train=train
                )
            else:
                out = nn.relu(self.norm(name="norm5")(x, train=train))
            maps.append(out)
        return maps


densenet121 = functools.partial(DenseNet, blocks=(6, 12, 24, 16))

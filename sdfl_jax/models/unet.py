"""A small U-Net (Ronneberger et al., 2015): two poolings, two skips, dropout."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.layers import BatchNorm, Conv, ConvBlock, max_pool, resize
from sdfl_jax.models.outputs import Outputs, of_mask


class DoubleConv(nn.Module):
    """Twice a 3x3 convolution, batch norm and ReLU; then dropout."""

    features: int
    dropout: float
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], *, train: bool
    ) -> Float[Array, "B h w {self.features}"]:
        block = functools.partial(
            ConvBlock, self.features, norm=self.norm, dtype=self.dtype
        )
        x = block(name="block1")(x, train=train)
        x = block(name="block2")(x, train=train)
        return nn.Dropout(self.dropout, deterministic=not train)(x)


class UNet(nn.Module):
    """Made by `build`, which says what the settings mean."""

    widths: Sequence[int]
    dropout: float
    norm: Callable[..., nn.Module]
    dtype: Any
    on_canvas = True

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool) -> Outputs:
        """Logits for RGB in [0, 1]; the label's is the highest of the mask's."""
        double = functools.partial(
            DoubleConv, dropout=self.dropout, norm=self.norm, dtype=self.dtype
        )
        *outer, inner = self.widths
        x, skips = image, []
        for i, width in enumerate(outer):
            x = double(width, name=f"down{i}")(x, train=train)
            skips.append(x)
            x = max_pool(x, 2, 2)
        x = double(inner, name="inner")(x, train=train)
        for i, skip in reversed(list(enumerate(skips))):
            x = jnp.concatenate([skip, resize(x, *skip.shape[1:3])], axis=-1)
            x = double(skip.shape[-1], name=f"up{i}")(x, train=train)
        x = Conv(1, 1, use_bias=True, dtype=self.dtype, name="out")(x)
        return of_mask(x.astype(jnp.float32))


def build(
    *,
    widths: Sequence[int] = (64, 128, 256),
    dropout: float = 0.2,
    bn_group: int = 0,
    bn_momentum: float = 0.9,
    dtype: Any = jnp.float32,
) -> UNet:
    """The U-Net of the inpainting study: three double convolutions, and two back up.

    widths     channels at full, half and quarter size. The study does not state its
               own; these are the original's first
    dropout    share of each double convolution's features that training leaves out
    bn_group, bn_momentum, dtype    as in `sdfl.build`
    """
    dtype = jnp.dtype(dtype)
    norm = functools.partial(
        BatchNorm, momentum=bn_momentum, group=bn_group, dtype=dtype
    )
    return UNet(widths=tuple(widths), dropout=dropout, norm=norm, dtype=dtype)

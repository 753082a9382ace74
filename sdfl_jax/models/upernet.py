"""UPerNet (Xiao et al., 2018): a pyramid of grids on top, a feature pyramid below."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models import canvas
from sdfl_jax.models.layers import (
    BatchNorm,
    Conv,
    ConvBlock,
    ConvTranspose,
    highest_means,
    max_pool,
    resize,
)
from sdfl_jax.ops.pooling import prroi_pool, pyramid_pool


class Decoder(nn.Module):
    """Joins an encoder's four maps into features at the finest and the coarsest."""

    width: int = 256
    pyramid_width: int = 512
    bins: Sequence[int] = (1, 2, 3, 6)
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32
    pooling: str = "auto"
    grid_norm: Callable[..., nn.Module] | None = None  # of the pyramid's grids; or norm

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "B _ _ _"]], *, train: bool
    ) -> tuple[Float[Array, "B h w F"], Float[Array, "B g k F"]]:
        def block(features, kernel, name, norm=self.norm):
            return ConvBlock(features, kernel, norm, self.dtype, name=name)

        *finer, top = maps
        parts = [top]
        for i, cells in enumerate(_grids(top, self.bins, self.pooling)):
            # Each grid is resized before its batch norm, as in the reference: so the
            # statistics count a cell as often as it covers positions.
            norm = self.grid_norm or self.norm
            grid = block(self.pyramid_width, 1, f"pyramid{i}", norm)
            parts.append(grid(cells, size=top.shape[1:3], train=train))
        pyramid = jnp.concatenate(parts, axis=-1)
        pyramid = block(self.width, 3, "pyramid_out")(pyramid, train=train)

        x = pyramid
        for i in reversed(range(len(finer))):
            lateral = block(self.width, 1, f"lateral{i}")(finer[i], train=train)
            x = TopDown(name=f"fpn{i}")(lateral, x)
        return block(self.width, 3, "finest_out")(x, train=train), pyramid


def _grids(x, bins, pooling):
    """`pyramid_pool` of what belongs to each image."""
    own = canvas.extent(*x.shape[1:3])
    if own is None:
        return pyramid_pool(x, bins, pooling)
    rows, columns = own[:, 0], own[:, 1]
    start = jnp.zeros_like(rows)
    boxes = jnp.stack([jnp.arange(len(x)), start, start, columns, rows], axis=-1)
    boxes, x = boxes.astype(jnp.float32), canvas.cut_off(x)
    return [prroi_pool(x, boxes, size) for size in bins]


class FeaturePyramid(nn.Module):
    """Four maps of a plain encoder's one: 4, 2, 1 and 1/2 times its size.

    The simple feature pyramid of ViTDet (Li et al., 2022).
    """

    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], *, train: bool
    ) -> list[Float[Array, "B _ _ _"]]:
        up = functools.partial(ConvTranspose, dtype=self.dtype)
        C = x.shape[-1]
        finest = up(C // 2, name="up4_1")(x)
        finest = nn.gelu(self.norm(name="up4_bn")(finest, train=train))
        finest = up(C // 4, name="up4_2")(finest)
        return [finest, up(C // 2, name="up2")(x), x, max_pool(x, 2, 2)]


class TopDown(nn.Module):
    """A map with the coarser one added; a module so that it can be looked at."""

    @nn.compact
    def __call__(
        self, finer: Float[Array, "B h w F"], coarser: Float[Array, "B _ _ F"]
    ) -> Float[Array, "B h w F"]:
        return finer + resize(coarser, *finer.shape[1:3])


class MaskHead(nn.Module):
    """One logit per position, in float32."""

    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w F"], *, train: bool
    ) -> Float[Array, "B h w 1"]:
        block = ConvBlock(x.shape[-1], 3, self.norm, self.dtype, name="block")
        out = Conv(1, 1, use_bias=True, dtype=self.dtype, name="out")
        return out(block(x, train=train)).astype(jnp.float32)


class LabelHead(nn.Module):
    """One logit per image, in float32, from the averaged features.

    Given the mask's logits as well, it also reads the mean of their highest 5 %: on
    small inputs the coarsest map has few positions to tell anything from.
    """

    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B g k F"],
        mask_logits: Float[Array, "B h w 1"] | None = None,
        *,
        train: bool,
    ) -> Float[Array, "B"]:
        block = ConvBlock(x.shape[-1], 3, self.norm, self.dtype, name="block")
        x = block(x, train=train).astype(jnp.float32)
        x = canvas.mean(x)[:, None, None]  # B 1 1 F
        if mask_logits is not None:
            highest = highest_means(mask_logits, [0.05])[:, None, None]
            x = jnp.concatenate([x, highest], axis=-1)
        out = Conv(1, 1, use_bias=True, dtype=self.dtype, name="out")
        return out(x).astype(jnp.float32)[:, 0, 0, 0]

"""Mesorch (Zhu et al., AAAI 2025): convolutions on what is fine, attention on the rest.

Two encoders read the image beside its high and its low frequencies; each of their eight
maps gives a mask, and a gate weighs the eight at every position.
"""

import functools
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError
from sdfl_jax.models.encoders.convnext import convnext_tiny
from sdfl_jax.models.encoders.mit import mit_b3
from sdfl_jax.models.layers import (
    Conv,
    ConvTranspose,
    LayerNorm,
    normalised,
    resize_corners,
)
from sdfl_jax.models.names import TorchNames
from sdfl_jax.models.outputs import Outputs, of_mask

TORCH_NAMES = TorchNames(
    to_path=(
        (r"^(convnext|segformer)\.", r"\1/"),
        (r"^upsample\.upsample([cs])2\.", r"up_\g<1>2/0/"),
        (r"^upsample\.upsample([cs])(\d)\.(\d)\.", r"up_\1\2/\3/"),
        *((rf"^inverse\.{i}\.", f"mask_c{i + 1}/") for i in range(4)),
        *((rf"^inverse\.{i + 4}\.", f"mask_s{i + 1}/") for i in range(4)),
        (r"^gate\.invert\.(\d)\.", r"gate/invert\1/"),
    ),
    to_torch=(
        (r"^up_([cs])2/0/", r"upsample/upsample\g<1>2/"),
        (r"^up_([cs])(\d)/", r"upsample/upsample\1\2/"),
        *((rf"^mask_c{i + 1}/", f"inverse/{i}/") for i in range(4)),
        *((rf"^mask_s{i + 1}/", f"inverse/{i + 4}/") for i in range(4)),
        (r"^gate/invert(\d)/", r"gate/invert/\1/"),
    ),
)
SHARE = 0.05  # of the frequencies of each axis, from the lowest, that count as low


class Mesorch(nn.Module):
    """Made by `build`, which says what the settings mean."""

    convnext: nn.Module
    segformer: nn.Module
    dtype: Any

    torch_names: ClassVar = TORCH_NAMES

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool) -> Outputs:
        """Logits for RGB in [0, 1]; the label's is the highest of the mask's.

        Raises InputError for sizes that are not multiples of 32.
        """
        H, W = image.shape[1:3]
        if H % 32 or W % 32:
            raise InputError(f"mesorch takes sizes of whole 32s, not {H}x{W}.")
        x = normalised(image, self.convnext)
        high, low = frequency_images(x)
        fine = self.convnext(jnp.concatenate([x, high], axis=-1), train=train)
        coarse = self.segformer(jnp.concatenate([x, low], axis=-1), train=train)

        masks = []
        for letter, maps in (("c", fine), ("s", coarse)):
            widths = tuple(x.shape[-1] for x in maps)
            for i, y in enumerate(maps, 1):
                if i > 1:
                    up = Upsample(
                        widths[i - 2 :: -1], self.dtype, name=f"up_{letter}{i}"
                    )
                    y = up(y)
                mask = Conv(
                    1, 1, use_bias=True, dtype=self.dtype, name=f"mask_{letter}{i}"
                )
                masks.append(mask(y))
        masks = jnp.concatenate(masks, axis=-1).astype(jnp.float32)
        gate = Gate(self.dtype, name="gate")(jnp.concatenate([x, high, low], axis=-1))
        logits = jnp.sum(gate * masks, axis=-1, keepdims=True)
        return of_mask(resize_corners(logits, H, W))


class Upsample(nn.Module):
    """Doubles a map once for each of `widths`, nothing in between."""

    widths: tuple[int, ...]
    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B h w _"]) -> Float[Array, "B _ _ _"]:
        for i, width in enumerate(self.widths):
            x = ConvTranspose(width, 4, 2, 1, dtype=self.dtype, name=str(i))(x)
        return x


class Gate(nn.Module):
    """At every fourth position eight weights of sum 1, float32."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 9"]) -> Float[Array, "B h w 8"]:
        conv = functools.partial(Conv, use_bias=True, dtype=self.dtype)
        x = conv(192, 7, 2, name="conv1")(x)
        y = LayerNorm(dtype=self.dtype, name="invert0")(x)
        for i, (features, kernel) in enumerate([(192, 3), (768, 1), (192, 1)], 1):
            y = conv(features, kernel, name=f"invert{i}")(y)
        x = x + nn.gelu(y, approximate=False)
        x = conv(8, 7, 2, name="conv2")(x)
        return nn.softmax(x.astype(jnp.float32))


def frequency_images(
    x: Float[Array, "B H W C"],
) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W C"]]:
    """What is left of an image without low and without high frequencies, in [0, 1].

    Of the cosine transform of the whole image. Without low: not those that are low
    along both axes. Without high: not those that are high along both. Each image is
    scaled by its own extremes.
    """
    H, W = x.shape[1:3]
    low_rows, low_columns = (_lowest(n, int(SHARE * n)) for n in (H, W))
    rows, columns = (_lowest(n, n - int((1 - SHARE) * n)) for n in (H, W))
    product = functools.partial(jnp.einsum, precision=jax.lax.Precision.HIGHEST)
    along_rows = lambda a, x: product("kh,kg,bgwc->bhwc", a, a, x)
    along_columns = lambda a, x: product("kw,kv,bhvc->bhwc", a, a, x)

    without_low = x - along_columns(low_columns, along_rows(low_rows, x))
    of_rows = along_rows(rows, x)
    without_high = of_rows + along_columns(columns, x - of_rows)
    return _to_unit_range(without_low), _to_unit_range(without_high)


def _lowest(size: int, count: int) -> np.ndarray:
    """The first `count` rows of the orthonormal cosine transform, count x size."""
    k, n = np.arange(count)[:, None], np.arange(size)[None]
    rows = np.sqrt(2 / size) * np.cos(np.pi * k * (2 * n + 1) / (2 * size))
    rows[:1] = np.sqrt(1 / size)
    return rows.astype(np.float32)


def _to_unit_range(x):
    low, high = (f(x, axis=(1, 2, 3), keepdims=True) for f in (jnp.min, jnp.max))
    return (x - low) / (high - low)


def build(
    *, drop_path: float = 0.1, dtype: Any = jnp.float32, remat: bool = False
) -> Mesorch:
    """The network of its authors: ConvNeXt-Tiny and MiT-B3.

    drop_path       share of examples whose last block of the MiT training leaves out
    dtype, remat    as in `sdfl.build`
    """
    make = dict(stem_bias=False, dtype=jnp.dtype(dtype), remat=remat)
    return Mesorch(
        convnext=convnext_tiny(**make),
        segformer=mit_b3(drop_path=drop_path, **make),
        dtype=jnp.dtype(dtype),
    )

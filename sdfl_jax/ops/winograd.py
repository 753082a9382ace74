"""Convolutions with 3x3 kernels in fewer products, for a CPU: Winograd's F(2x2, 3x3).

Of a tile of 4x4 values an output of 2x2 positions takes 16 products instead of 36
(Lavin and Gray, 2016); the next tile begins two values on. Before and after, tiles,
kernels and products go through fixed sums of few terms, so float32 loses hardly more
than by the convolution itself. Strips of tiles that stay in the cache are worked off
one after the other, which takes little memory.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from sdfl_jax.ops.apart import apart

# With fewer channels or features the sums cost what the products save; with fewer
# output positions the kernels' sums do, and these take memory; and for fewer
# multiply-adds it does not pay to compile the sixteen products one by one.
CHANNELS, POSITIONS, WORK = 128, 4096, 2**32
# Values that a strip has of one place of its tiles (512 KiB), but no fewer tiles, for
# each strip reads all kernels anew.
_STRIP_VALUES, _STRIP_TILES = 2**17, 512

# What the sums along one axis take: of four values, of three weights, of four products.
_VALUES = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_WEIGHTS = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_PRODUCTS = ((1, 1, 1, 0), (0, 1, -1, -1))
_KERNELS = np.kron(_WEIGHTS, _WEIGHTS).astype(np.float32)  # 16 9

_Padding = tuple[tuple[int, int], tuple[int, int]]


def pays(positions: int, channels: int, features: int) -> bool:
    """Whether so many output positions take less time this way."""
    return (
        min(channels, features) >= CHANNELS
        and positions >= POSITIONS
        and 9 * positions * channels * features >= WORK
    )


def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C F"], padding: _Padding
) -> Float[Array, "B h w F"]:
    """Stride 1; `padding` is ((top, bottom), (left, right))."""
    (B, _, _, C), F = x.shape, kernel.shape[-1]
    h, w = (n + sum(more) - 2 for n, more in zip(x.shape[1:3], padding, strict=True))
    count, rows, columns = _strips(B, h, w, C)
    x = _filled(x, padding, 2 * count * rows + 2, 2 * columns + 2)
    kernels = _transformed(_KERNELS, kernel)

    def one(i, out):
        products = [
            tile @ kernels[place] for place, tile in enumerate(_tiles(x, i, rows))
        ]
        shape = (B, rows, 1, columns, 1, F)
        lines = [
            jnp.concatenate(
                [_sum(products, above, left).reshape(shape) for left in _PRODUCTS], 4
            )
            for above in _PRODUCTS
        ]
        strip = jnp.concatenate(lines, 2).reshape(B, 2 * rows, 2 * columns, F)
        return lax.dynamic_update_slice(out, strip, (0, 2 * rows * i, 0, 0))

    out = jnp.zeros((B, 2 * count * rows, 2 * columns, F), x.dtype)
    return lax.fori_loop(0, count, one, out)[:, :h, :w]


def kernel_gradient(
    x: Float[Array, "B H W C"], gradient: Float[Array, "B h w F"], padding: _Padding
) -> Float[Array, "3 3 C F"]:
    """That of `convolve`, from the gradient of its result."""
    (B, h, w, F), C = gradient.shape, x.shape[-1]
    count, rows, columns = _strips(B, h, w, C)
    x = _filled(x, padding, 2 * count * rows + 2, 2 * columns + 2)
    gradient = _filled(gradient, ((0, 0), (0, 0)), 2 * count * rows, 2 * columns)
    products = tuple(zip(*_PRODUCTS, strict=True))

    def one(i, total):
        size = (B, 2 * rows, 2 * columns, F)
        strip = lax.dynamic_slice(gradient, (0, 2 * rows * i, 0, 0), size)
        strip = strip.reshape(B, rows, 2, columns, 2, F)
        outputs = [strip[:, :, i, :, j] for i in (0, 1) for j in (0, 1)]
        # Turned while they are written; XLA would make turned copies of the tiles.
        spread = (
            _sum(outputs, above, left).reshape(-1, F).T
            for above in products
            for left in products
        )
        return [
            before + seen @ tile
            for before, seen, tile in zip(
                total, spread, _tiles(x, i, rows), strict=True
            )
        ]

    total = lax.fori_loop(0, count, one, [jnp.zeros((F, C), x.dtype)] * 16)
    return _transformed(_KERNELS.T, jnp.stack(total)).reshape(3, 3, F, C).swapaxes(2, 3)


def _strips(B: int, h: int, w: int, C: int) -> tuple[int, int, int]:
    """How many strips, rows of tiles in each, and tiles in a row."""
    down, columns = -(-h // 2), -(-w // 2)
    rows = max(_STRIP_VALUES // C, _STRIP_TILES) // (B * columns)
    count = -(-down // max(1, rows))
    return count, -(-down // count), columns


def _filled(x, padding: _Padding, height: int, width: int):
    """With its padding, and more zeros below and to the right up to that size."""
    (top, _), (left, _) = padding
    below, right = height - x.shape[1] - top, width - x.shape[2] - left
    sides = ((0, 0, 0), (top, below, 0), (left, right, 0), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), sides)  # which may be negative


def _tiles(x, i: int | jax.Array, rows: int) -> list[Float[Array, "tiles C"]]:
    """Of the tiles of the i-th strip the 16 places, summed along both axes."""
    B, _, W, C = x.shape
    strip = lax.dynamic_slice(x, (0, 2 * rows * i, 0, 0), (B, 2 * rows + 2, W, C))
    down = [strip[:, k : k + 2 * rows - 1 : 2] for k in range(4)]
    down = [apart(_sum(down, signs)) for signs in _VALUES]
    return [
        _sum([line[:, :, k : k + W - 3 : 2] for k in range(4)], signs).reshape(-1, C)
        for line in down
        for signs in _VALUES
    ]


def _sum(parts: Sequence, *signs: Sequence[int]):
    """Of the parts, in rows where there are signs for rows and columns."""
    factors = signs[0] if len(signs) == 1 else np.outer(*signs).ravel()
    return sum(
        part if factor > 0 else -part
        for part, factor in zip(parts, factors, strict=True)
        if factor
    )


def _transformed(matrix: np.ndarray, kernels: Float[Array, "... C F"]):
    """Sums of kernels, all in one product: n C F for a matrix of n rows."""
    shape = kernels.shape[-2:]
    flat = kernels.reshape(matrix.shape[1], -1)
    return (jnp.asarray(matrix, kernels.dtype) @ flat).reshape(-1, *shape)

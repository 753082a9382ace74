"""Precise RoI pooling (Jiang et al., 2018) in closed form.

Features at whole numbers span a bilinear surface, zero beyond the map: the sum of
products of hat functions, one along each axis. So the average over a cell is a weighted
sum along one axis and then along the other, with the hats' integrals as weights.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

IMPLEMENTATIONS = ("auto", "xla", "pallas")


def pyramid_pool(
    features: Float[ArrayLike, "B H W C"],
    bins: Sequence[int] = (1, 2, 3, 6),
    implementation: str = "auto",
) -> tuple[Float[Array, "B g g C"], ...]:
    """Averages over the cells of g x g grids on the whole map, for each g of `bins`.

    The map reaches from 0 to H and from 0 to W. Two constant matrices per grid; sums
    are float32 in any dtype.
    """
    H, W = features.shape[1:3]
    pooled = []
    for g in bins:
        rows = _weights(np.arange(g + 1) * (H / g), H, np) * (g / H)
        columns = _weights(np.arange(g + 1) * (W / g), W, np) * (g / W)
        cells = jnp.einsum(
            "bhwc,gh,kw->bgkc",
            features,
            rows.astype(np.float32),
            columns.astype(np.float32),
            precision=jax.lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )
        pooled.append(cells.astype(features.dtype))
    return tuple(pooled)


def prroi_pool(
    features: Float[ArrayLike, "B H W C"],
    rois: Float[ArrayLike, "R 5"],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
) -> Float[Array, "R h w C"]:
    """Averages over the h x w cells of each box, with gradients to the box as well.

    A row of `rois` is the index into the batch, then x0, y0, x1, y1, which
    `spatial_scale` turns into positions on the map. Beyond the map the surface is zero;
    a box without area gives zeros and no gradients.
    """
    h, w = (output_size,) * 2 if isinstance(output_size, int) else output_size
    H, W = features.shape[1:3]
    x0, y0, x1, y1 = jnp.moveaxis(rois[:, 1:] * spatial_scale, 1, 0)  # R each
    return jnp.einsum(
        "rhwc,rgh,rkw->rgkc",
        features[rois[:, 0].astype(jnp.int32)],
        _averages(y0, y1, h, H),
        _averages(x0, x1, w, W),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    ).astype(features.dtype)


def _averages(start, end, cells: int, size: int) -> Float[Array, "R cells size"]:
    """Weights of the average over each of `cells` equal parts from start to end."""
    length = end - start
    inside = length > 0
    length = jnp.where(inside, length, 1)
    edges = start[:, None] + length[:, None] * jnp.linspace(0, 1, cells + 1)[None]
    weights = _weights(edges, size, jnp) * (cells / length)[:, None, None]
    return jnp.where(inside[:, None, None], weights, 0)


def _weights(
    edges: Float[ArrayLike, "*R edges"], size: int, xp
) -> Float[ArrayLike, "*R edges-1 size"]:
    """Each sample's hat function integrated from edge to edge (xp: numpy or jax's)."""
    positions = xp.arange(size).reshape((1,) * edges.ndim + (size,))
    distance = xp.clip(edges[..., None] - positions, -1, 1)
    integral = distance - xp.sign(distance) * distance**2 / 2
    return integral[..., 1:, :] - integral[..., :-1, :]

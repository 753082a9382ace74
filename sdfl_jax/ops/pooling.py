"""Precise RoI pooling (Jiang et al., 2018) in closed form.

Features at whole numbers span a bilinear surface, zero beyond the map: the sum of
products of hat functions, one along each axis. So the average over a cell is a weighted
sum along one axis and then along the other, with the hats' integrals as weights.
"""

import functools
import logging
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError, valid
from sdfl_jax.ops.atoms import Grids, adjoint, integrals
from sdfl_jax.ops.platforms import by_platform

IMPLEMENTATIONS = ("auto", "xla", "pallas")

# On a CPU, maps with more rows or columns are pooled by products: the program of the
# sums has a term for each.
SUMMED_ROWS = 64
# Where `auto` takes the kernel: compute capabilities of GPUs on which
# `python -m benchmarks.pooling` shows it faster than XLA's form, forward and with
# gradient, with what it showed. Nothing has been measured on a GPU yet.
KERNEL_WINS: dict[str, str] = {}  # {"9.0": "1.2 times faster on an H100 at B = 64"}


def pyramid_pool(
    features: Float[ArrayLike, "B H W C"],
    bins: Sequence[int] = (1, 2, 3, 6),
    implementation: str = "auto",
) -> tuple[Float[Array, "B g g C"], ...]:
    """Averages over the cells of g x g grids on the whole map, for each g of `bins`.

    The map reaches from 0 to H and from 0 to W. The features are read once for all
    grids, and their gradient is written once; sums are float32 in any shorter type.

    `implementation` is "xla" (constant weights), "pallas" (a kernel for GPUs) or
    "auto", which takes the kernel where it runs and has been measured to win, and logs
    once what it took. Reverse-mode gradients only, of any order.

    Raises InputError for an implementation that there is not, or that cannot run here.
    """
    bins = tuple(int(g) for g in bins)
    if not bins or min(bins) < 1:
        raise InputError(f"bins={bins}: takes grid sizes of 1 or more, at least one.")
    features = jnp.asarray(features)
    if chosen(implementation) == "pallas":
        from sdfl_jax.ops import pooling_kernel

        return pooling_kernel.pyramid_pool(features, bins)
    return _pyramid_pool(features, Grids(*features.shape[1:3], bins))


def chosen(implementation: str) -> str:
    """The implementation of `pyramid_pool` that runs here: "xla" or "pallas".

    Raises InputError for one that there is not, or that cannot run here.
    """
    if implementation not in IMPLEMENTATIONS:
        raise InputError(
            f"No implementation {implementation!r}; "
            f"{valid(implementation, IMPLEMENTATIONS)}"
        )
    # Imported late: Pallas takes a tenth of a second, which each command would wait.
    from sdfl_jax.ops import pooling_kernel

    missing = pooling_kernel.missing() if implementation != "xla" else ""
    if implementation == "pallas" and missing:
        raise InputError(
            f"Pooling with 'pallas': {missing}; use 'xla' or 'auto' instead."
        )
    if implementation != "auto":
        return implementation
    if missing:
        name, reason = "xla", missing
    else:
        capability = pooling_kernel.capability()
        name = "pallas" if capability in KERNEL_WINS else "xla"
        reason = KERNEL_WINS.get(
            capability,
            "no benchmark has shown the kernel to win at compute capability "
            f"{capability} (python -m benchmarks.pooling)",
        )
    _log_once(f"Pooling with {name!r}: {reason}.")
    return name


@functools.cache
def _log_once(message: str):
    logging.info(message)


def _pool(features, grids: Grids):
    """Weighted sums over rows, then over columns, then over atoms."""
    by_products = functools.partial(_atoms_by_products, grids=grids)
    by_sums = functools.partial(_atoms_by_sums, grids=grids)
    few = max(grids.height, grids.width) <= SUMMED_ROWS
    atoms = by_platform(
        features, cpu=by_sums if few else by_products, default=by_products
    )
    count = range(atoms.shape[1])
    return tuple(
        _stacked(cells).astype(features.dtype)
        for cells in grids.cells([[atoms[:, i, j] for j in count] for i in count])
    )


def _atoms_by_products(features, *, grids: Grids) -> Float[Array, "B a b C"]:
    """Two products with constant matrices; what a GPU does best."""
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    atoms = _product("bih,bhwc->biwc", grids.rows, features.astype(dtype))
    return _product("bijw,biwc->bijc", grids.columns, atoms)


def _atoms_by_sums(features, *, grids: Grids) -> Float[Array, "B a b C"]:
    """The same, term by term: most weights are zero, and nothing is converted apart.

    On a CPU these loops take half the time of the products, and in half precision a
    ninth, because a product would need a float32 copy of all features.
    """
    dtype = jnp.promote_types(features.dtype, jnp.float32)

    def sums(x, weights):
        """Of B n ... over n, one for each row of weights."""
        return [
            sum(x[:, i].astype(dtype) * jnp.asarray(row[i], dtype) for i in used)
            for row in weights
            for used in [np.flatnonzero(row)]
        ]

    return _stacked([sums(row, grids.columns) for row in sums(features, grids.rows)])


def _spread(cells, grids: Grids):
    """The same from the last step to the first, each transposed."""
    dtype = jnp.promote_types(cells[0].dtype, jnp.float32)
    atoms = grids.atoms(
        [
            [[part[:, i, j].astype(dtype) for j in range(g)] for i in range(g)]
            for part, g in zip(cells, grids.bins, strict=True)
        ]
    )
    features = _product("biwj,bijc->biwc", grids.columns.T, _stacked(atoms))
    features = _product("bhi,biwc->bhwc", grids.rows.T, features)
    return features.astype(cells[0].dtype)


_pyramid_pool = adjoint(_pool, _spread)


def _product(subscripts: str, matrix, x: Float[Array, "B *axes"]):
    """The einsum of one matrix, repeated along the first axes of x, with x.

    Repeated, the matrix makes a batched product of contiguous parts of x. Without, XLA
    on a CPU first brings the contracted axis of all of x to the front, at many times
    the cost of the product.
    """
    axes = subscripts.index(",") - matrix.ndim
    repeated = jnp.broadcast_to(
        jnp.asarray(matrix, x.dtype)[(None,) * axes], (*x.shape[:axes], *matrix.shape)
    )
    return jnp.einsum(subscripts, repeated, x, precision=jax.lax.Precision.HIGHEST)


def _stacked(cells: list[list[Float[Array, "B C"]]]) -> Float[Array, "B g g C"]:
    return jnp.stack([jnp.stack(row, axis=1) for row in cells], axis=1)


def prroi_pool(
    features: Float[ArrayLike, "B H W C"],
    rois: Float[ArrayLike, "R 5"],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    implementation: str = "auto",
) -> Float[Array, "R h w C"]:
    """Averages over the h x w cells of each box, with gradients to the box as well.

    A row of `rois` is the index into the batch, then x0, y0, x1, y1, which
    `spatial_scale` turns into positions on the map. Beyond the map the surface is zero;
    a box without area gives zeros and no gradients. Sums are float32 in any shorter
    type.

    `implementation` is "xla" or "auto", which is the same: no kernel exists, because
    the networks pool whole maps alone (`pyramid_pool`). Raises InputError for another.
    """
    if implementation not in IMPLEMENTATIONS:
        raise InputError(
            f"No implementation {implementation!r}; {valid(implementation, _OF_BOXES)}"
        )
    if implementation not in _OF_BOXES:
        raise InputError(
            f"prroi_pool with {implementation!r}: only pyramid_pool has such a kernel; "
            "use 'xla' or 'auto' instead."
        )
    features, rois = jnp.asarray(features), jnp.asarray(rois)
    dtype = jnp.promote_types(features.dtype, jnp.float32)
    h, w = (output_size,) * 2 if isinstance(output_size, int) else output_size
    H, W = features.shape[1:3]
    boxes = rois[:, 1:].astype(dtype) * spatial_scale
    x0, y0, x1, y1 = jnp.moveaxis(boxes, 1, 0)  # R each
    return jnp.einsum(
        "rhwc,rgh,rkw->rgkc",
        features[rois[:, 0].astype(jnp.int32)].astype(dtype),
        _averages(y0, y1, h, H),
        _averages(x0, x1, w, W),
        precision=jax.lax.Precision.HIGHEST,
    ).astype(features.dtype)


_OF_BOXES = ("auto", "xla")


def _averages(start, end, cells: int, size: int) -> Float[Array, "R cells size"]:
    """Weights of the average over each of `cells` equal parts from start to end."""
    length = end - start
    inside = length > 0
    length = jnp.where(inside, length, 1)
    edges = start[:, None] + length[:, None] * jnp.linspace(0, 1, cells + 1)[None]
    weights = integrals(edges, size, jnp) * (cells / length)[:, None, None]
    return jnp.where(inside[:, None, None], weights, 0)

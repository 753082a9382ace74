"""What the grids of a pyramid share: one partition of the map, finer than each of them.

The edges of all grids together cut the map into atoms, and every cell of every grid is
a block of whole atoms: for 1, 2, 3 and 6 bins, 6 x 6 of them. So the features are read
once, into the atoms' integrals, whatever the number of grids, and the rest is a few
additions; for gradients the same holds the other way around.
"""

import functools
from fractions import Fraction
from typing import NamedTuple

import jax
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Float


class Grids(NamedTuple):
    """g x g cells on the whole of a map, for each g of `bins`; hashable, so static.

    The map reaches from 0 to `height` and from 0 to `width`; the lists of lists below
    hold arrays of any one shape, by row and column.
    """

    height: int
    width: int
    bins: tuple[int, ...]

    @property
    def rows(self) -> np.ndarray:
        """What each row of the map gives to each row of atoms; atoms x height."""
        return _weights(self.bins, self.height)

    @property
    def columns(self) -> np.ndarray:
        """What each column of the map gives to each column of atoms; atoms x width."""
        return _weights(self.bins, self.width)

    def cells(self, atoms: list[list]) -> list[list[list]]:
        """The cells' averages from the atoms' integrals, grid by grid."""
        return [
            [
                [
                    _total(_total(row[left:right]) for row in atoms[top:bottom]) * share
                    for left, right in spans
                ]
                for top, bottom in spans
            ]
            for spans, share in self._parts()
        ]

    def atoms(self, cells: list[list[list]]) -> list[list]:
        """The transpose of `cells`: gradients by atoms from gradients by cells."""
        count = len(_edges(self.bins)) - 1
        parts = [
            (grid, [_holder(spans, atom) for atom in range(count)], share)
            for grid, (spans, share) in zip(cells, self._parts(), strict=True)
        ]
        return [
            [
                _total(grid[at[i]][at[j]] * share for grid, at, share in parts)
                for j in range(count)
            ]
            for i in range(count)
        ]

    def _parts(self):
        """For each grid: from which to which atom a cell reaches; 1 / a cell's area."""
        for g in self.bins:
            yield _spans(self.bins, g), float(g * g / (self.height * self.width))


def adjoint(pool, spread):
    """`pool(features, grids)` with `spread(cells, grids)`, its transpose, as gradient.

    Each is the other's gradient, so reverse mode works to any order.
    """
    pool = jax.custom_vjp(pool, nondiff_argnums=(1,))
    spread = jax.custom_vjp(spread, nondiff_argnums=(1,))
    pool.defvjp(
        lambda features, grids: (pool(features, grids), None),
        lambda grids, _, gradients: (spread(gradients, grids),),
    )
    spread.defvjp(
        lambda cells, grids: (spread(cells, grids), None),
        lambda grids, _, gradient: (pool(gradient, grids),),
    )
    return pool


def integrals(
    edges: Float[ArrayLike, "*R edges"], size: int, xp
) -> Float[ArrayLike, "*R edges-1 size"]:
    """Each sample's hat function integrated from edge to edge (xp: numpy or jax's)."""
    positions = xp.arange(size, dtype=edges.dtype).reshape((1,) * edges.ndim + (size,))
    distance = xp.clip(edges[..., None] - positions, -1, 1)
    integral = distance - xp.sign(distance) * distance**2 / 2
    return integral[..., 1:, :] - integral[..., :-1, :]


@functools.cache
def _weights(bins: tuple[int, ...], size: int) -> np.ndarray:
    edges = np.array([float(edge * size) for edge in _edges(bins)])
    return integrals(edges, size, np)


@functools.cache
def _edges(bins: tuple[int, ...]) -> list[Fraction]:
    """Every edge of every grid, once, as a part of the whole length."""
    return sorted({Fraction(i, g) for g in bins for i in range(g + 1)})


def _spans(bins: tuple[int, ...], g: int) -> list[tuple[int, int]]:
    at = [_edges(bins).index(Fraction(i, g)) for i in range(g + 1)]
    return list(zip(at, at[1:], strict=False))


def _holder(spans: list[tuple[int, int]], atom: int) -> int:
    """Which cell holds the atom."""
    return next(i for i, (start, stop) in enumerate(spans) if start <= atom < stop)


def _total(terms):
    """A sum that starts with its first term, because `sum` would add a zero."""
    return functools.reduce(lambda a, b: a + b, terms)

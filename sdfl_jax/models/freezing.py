"""Parts of a network that training leaves alone, batch norm's statistics included.

`freeze` are patterns over the paths of params, see `sdfl_jax.trees.patterns`.
"""

import contextlib
from collections.abc import Sequence

import jax
from flax import linen as nn
from jaxtyping import PyTree

from sdfl_jax.models.layers import BatchNorm
from sdfl_jax.trees import patterns


def stop_gradients(params: PyTree, freeze: Sequence[str]) -> PyTree:
    """The same params; no gradient is worked out for those that are frozen."""
    return _where_frozen(jax.lax.stop_gradient, freeze, params)


def put_back(params: PyTree, before: PyTree, freeze: Sequence[str]) -> PyTree:
    """`params` with those that are frozen as they were `before`, to the bit."""
    return _where_frozen(lambda new, old: old, freeze, params, before)


@contextlib.contextmanager
def frozen_norms(freeze: Sequence[str]):
    """While a network is applied: frozen batch norm uses and keeps what it has.

    A batch norm is frozen where its scale is.
    """

    def evaluating(call, args, kwargs, context):
        layer = context.module
        if isinstance(layer, BatchNorm) and context.method_name == "__call__":
            if patterns.fits("/".join((*layer.path, "scale")), freeze):
                kwargs = kwargs | {"train": False}
        return call(*args, **kwargs)

    with nn.intercept_methods(evaluating) if freeze else contextlib.nullcontext():
        yield


def _where_frozen(function, freeze, tree, *others):
    def choose(path, leaf, *rest):
        return function(leaf, *rest) if patterns.fits(path, freeze) else leaf

    return patterns.map_paths(choose, tree, *others) if freeze else tree

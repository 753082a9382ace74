"""Max pooling and its gradient against XLA's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sdfl_jax.models.layers import max_pool
from sdfl_jax.ops.maximum import max_pool2d


def xla(x, window, strides):
    return nn.max_pool(x, (window, window), (strides, strides))


def value_and_gradient(function, x, *window):
    @jax.jit
    def run(x):
        out, pullback = jax.vjp(lambda x: function(x, *window), x)
        uneven = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return out, *pullback(uneven.astype(out.dtype))

    return run(x)


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (7, 5)])
@pytest.mark.parametrize("window", [(2, 2), (3, 2), (3, 1), (2, 3), (5, 2)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_values_and_gradients_are_xlas(size, window, dtype):
    x = np.random.default_rng(0).normal(size=(2, *size, 3))
    x = jnp.asarray(np.maximum(np.round(x, 1), 0), dtype)  # ReLU's many equal values
    ours = value_and_gradient(max_pool2d, x, *window)
    theirs = value_and_gradient(xla, x, *window)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
    np.testing.assert_array_equal(ours[0], theirs[0])
    # Where windows overlap XLA adds in another order.
    tolerance = 1e-6 if dtype == "float32" else 2e-2
    ours, theirs = (np.asarray(a[1], np.float32) for a in (ours, theirs))
    np.testing.assert_allclose(ours, theirs, atol=tolerance)


@pytest.mark.parametrize("place", [(0, 0), (1, 2), (2, 2)])
def test_no_value_that_is_none_is_lost(place):
    x = jnp.zeros((1, 4, 4, 1)).at[0, *place, 0].set(jnp.nan)
    run = lambda function: jax.vjp(lambda x: function(x, 3, 1), x)[0]
    np.testing.assert_array_equal(run(max_pool2d), xla(x, 3, 1))


def test_padding_gets_no_gradient_and_is_never_the_highest():
    x = -1 - jnp.abs(jnp.asarray(np.random.default_rng(1).normal(size=(1, 6, 6, 2))))
    y, pullback = jax.vjp(lambda x: max_pool(x, 3, 2, padding=1), x)
    assert y.shape == (1, 3, 3, 2) and (y < 0).all()
    (gradient,) = pullback(jnp.ones_like(y))
    assert gradient.sum() == y.size


def test_batches_of_batches_and_second_gradients():
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2, 6, 6, 2)))
    squared = lambda f: lambda x: jnp.sum(f(x, 3, 2) ** 3)
    one, other = (jax.vmap(jax.grad(squared(f)))(x) for f in (max_pool2d, xla))
    np.testing.assert_allclose(one, other, atol=1e-5)
    second = lambda f: jax.grad(lambda x: jnp.sum(jax.grad(squared(f))(x) ** 2))
    one, other = (second(f)(x[0]) for f in (max_pool2d, xla))
    np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-4)

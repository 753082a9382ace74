"""Arrays that XLA's CPU compiler computes once, however many others need them."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped

from sdfl_jax.ops.platforms import by_platform


@jax.custom_vjp
def apart(x: Shaped[Array, "B n ..."]) -> Shaped[Array, "B n ..."]:
    """`x`, and on a CPU an array of its own; so is its gradient.

    XLA fuses what is cheap into whatever reads it, anew for each reader, and what comes
    before that as well: some dozen residual blocks in a row, or the views that a
    convolution takes of its input, become a program of many times the length, which
    takes minutes to compile. It fuses no scatter, and drops an optimization barrier
    before it fuses. Costs a copy.
    """
    return by_platform(x, cpu=_scattered, default=lambda x: x)


def _scattered(x):
    rows = jnp.zeros_like(x).at[:, np.arange(x.shape[1])]
    return rows.set(
        x, indices_are_sorted=True, unique_indices=True, mode="promise_in_bounds"
    )


apart.defvjp(lambda x: (apart(x), None), lambda _, gradient: (apart(gradient),))

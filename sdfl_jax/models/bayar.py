"""A convolution that sees prediction errors, not content (Bayar & Stamm, 2018)."""

import functools
import math

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sdfl_jax.models import canvas

NAME = "bayar_conv"  # under which networks keep this layer, and `project` finds it


class BayarConv(nn.Module):
    """Weights of -1 in the centre and of sum 1 around it, for each pair of channels.

    Stored are the surrounding weights, normalised on every use. Their gradient is that
    of the normalised weights, not divided by the sum: the reference overwrites the
    stored weights by the normalised ones before it uses them. A train step does the
    same by `params = project(params)` before it takes the gradient, so that the
    optimizer moves the normalised values.
    """

    features: int = 3
    kernel: int = 5

    @nn.compact
    def __call__(
        self, x: Float[ArrayLike, "B H W C"]
    ) -> Float[Array, "B H W {self.features}"]:
        shape = (self.kernel**2 - 1, x.shape[-1], self.features)
        stored = self.param("kernel", nn.initializers.uniform(1.0), shape, jnp.float32)
        weights = stored + jax.lax.stop_gradient(normalise(stored) - stored)
        return constrained_conv(x, weights)


def constrained_conv(
    x: Float[Array, "B H W C"], weights: Float[Array, "n C F"]
) -> Float[Array, "B H W F"]:
    """Convolves with `weights` around a centre of -1, in float32, zeros beyond the map.

    The result is a small difference of large values, which a batch norm magnifies. So
    each neighbour is first compared with the centre; what this leaves of the centre's
    weight is the sum of `weights` less 1, almost nothing.
    """
    size = math.isqrt(len(weights) + 1)
    (_, H, W, _), reach = x.shape, size // 2
    x = canvas.cut_off(x.astype(jnp.float32))
    padded = jnp.pad(x, ((0, 0), (reach, reach), (reach, reach), (0, 0)))
    places = [divmod(i, size) for i in range(size**2) if i != size**2 // 2]
    differences = jnp.concatenate(
        [padded[:, i : i + H, j : j + W] - x for i, j in places], axis=-1
    )  # B H W n*C
    product = functools.partial(jnp.dot, precision=jax.lax.Precision.HIGHEST)
    return product(differences, weights.reshape(-1, weights.shape[-1])) + product(
        x, jnp.sum(weights, axis=0) - 1
    )


def normalise(kernel: Float[ArrayLike, "n I O"]) -> Float[Array, "n I O"]:
    """The weights divided by their sum over the first axis.

    Where the sum is almost zero the division would explode: there they are moved to
    the nearest weights of sum 1 instead, by adding the same number to each.
    """
    total = jnp.sum(kernel, axis=0, keepdims=True)
    small = jnp.abs(total) < 1e-3
    shifted = kernel + (1 - total) / len(kernel)
    return jnp.where(small, shifted, kernel / jnp.where(small, 1, total))


def project(params: dict) -> dict:
    """`params` with the kernel of every BayarConv normalised; the rest untouched."""
    return {
        name: value | {"kernel": normalise(value["kernel"])}
        if name == NAME
        else project(value)
        if isinstance(value, dict)
        else value
        for name, value in params.items()
    }

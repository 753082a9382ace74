"""A convolution that sees prediction errors, not content (Bayar & Stamm, 2018)."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.ops.conv import conv2d

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
        self, x: Float[Array, "B H W C"]
    ) -> Float[Array, "B H W {self.features}"]:
        around = self.kernel**2 - 1
        stored = self.param(
            "kernel",
            nn.initializers.uniform(1.0),
            (around, x.shape[-1], self.features),
            jnp.float32,
        )
        weights = stored + jax.lax.stop_gradient(normalise(stored) - stored)
        centre = -jnp.ones((1, *weights.shape[1:]))
        before, after = weights[: around // 2], weights[around // 2 :]
        kernel = jnp.concatenate([before, centre, after])
        kernel = kernel.reshape(self.kernel, self.kernel, *weights.shape[1:])
        # In float32 in any network: the result is a small difference of large values.
        return conv2d(x.astype(jnp.float32), kernel, padding=self.kernel // 2)


def normalise(kernel: Float[Array, "n I O"]) -> Float[Array, "n I O"]:
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

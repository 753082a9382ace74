"""Which pixels a score depends on, by its gradient with respect to the image."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdfl_jax.explain.score import Label, class_score


def saliency(
    model,
    variables: Mapping,
    image: Float[Array, "B H W 3"],
    label: Label = 1,
    *,
    inputs: Mapping[str, Array] | None = None,
) -> Float[Array, "B H W"]:
    """|d score of class `label` / d image|, the maximum over channels.

    In score per unit of brightness (Simonyan et al., 2014). `inputs` is what the
    network reads beside the image; it stays as it is.
    """
    gradient = jax.grad(lambda x: _total(model, variables, x, label, inputs))(image)
    return jnp.max(jnp.abs(gradient), axis=-1)


def integrated_gradients(
    model,
    variables: Mapping,
    image: Float[Array, "B H W 3"],
    label: Label = 1,
    *,
    baseline: Float[Array, "B H W 3"] | None = None,
    steps: int = 32,
    inputs: Mapping[str, Array] | None = None,
) -> Float[Array, "B H W 3"]:
    """Contribution of each value to the score, on the path from `baseline` (black).

    Their sum approaches the score of the image minus that of the baseline with more
    `steps` (Sundararajan et al., 2017). `inputs` as in `saliency`.
    """
    baseline = jnp.zeros_like(image) if baseline is None else baseline
    gradient = jax.grad(lambda x: _total(model, variables, x, label, inputs))

    def add(total, share):
        return total + gradient(baseline + share * (image - baseline)), None

    middles = (jnp.arange(steps, dtype=image.dtype) + 0.5) / steps
    total, _ = jax.lax.scan(add, jnp.zeros_like(image), middles)
    return (image - baseline) * total / steps


def _total(model, variables, image, label, inputs):
    """Summed over the batch, whose images are independent in evaluation."""
    outputs = model.apply(variables, image, **(inputs or {}), train=False)
    return jnp.sum(class_score(outputs, label))

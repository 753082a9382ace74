"""The score of a class, which explanations are of."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sdfl_jax.models import Outputs

Label = int | Int[Array, "B"]


def class_score(outputs: Outputs, label: Label) -> Float[Array, "B"]:
    """How much each image looks like class `label`, 1 manipulated and 0 authentic.

    The class's own logit where the network has one for each; otherwise the one logit
    that it has, which is that of "manipulated", and less than zero for "authentic".
    """
    label = jnp.broadcast_to(jnp.asarray(label, jnp.int32), outputs.label_logits.shape)
    if outputs.class_logits is not None:
        return jnp.take_along_axis(outputs.class_logits, label[:, None], axis=1)[:, 0]
    return outputs.label_logits * (2 * label - 1).astype(outputs.label_logits.dtype)


def predicted_class(outputs: Outputs) -> Int[Array, "B"]:
    """1 where an image is called manipulated, at 0.5."""
    return (outputs.image_score() >= 0.5).astype(jnp.int32)

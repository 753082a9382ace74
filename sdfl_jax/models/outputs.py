"""What every network returns."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sdfl_jax.models import canvas


@flax.struct.dataclass
class Outputs:
    """Raw scores; a sigmoid makes probabilities of the logits. Always float32."""

    # B H W 1, at the size of the image. None of a network whose class says
    # `gives_mask = False`.
    mask_logits: PyTree
    label_logits: PyTree  # B; of being manipulated
    edge_logits: PyTree = None  # B h w 1, of networks that have an edge branch
    class_logits: PyTree = None  # B classes, of networks that tell classes apart
    # B H W 1, of networks that say where their mask is to be believed: a sigmoid makes
    # the probability that they gave the true class.
    confidence_logits: PyTree = None
    label_loss_input: PyTree = None  # B; what the label's loss takes, if not the logits

    def image_score(self) -> Float[Array, "B"]:
        """Each image's probability of being manipulated."""
        return jax.nn.sigmoid(self.label_logits)


def of_mask(mask_logits: Float[Array, "B H W 1"]) -> Outputs:
    """What a mask alone says: the image's logit is its highest."""
    own = canvas.cut_off(mask_logits, -jnp.inf)
    return Outputs(mask_logits, label_logits=jnp.max(own, axis=(1, 2, 3)))

"""What every network returns."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from sdfl_jax.errors import InputError, valid
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
    score_probs: PyTree = None  # B; each image's score, if not the label's probability

    def image_score(self) -> Float[Array, "B"]:
        """Each image's probability of being manipulated."""
        if self.score_probs is not None:
            return self.score_probs
        return jax.nn.sigmoid(self.label_logits)


SCORES = ("label", "confidence")


def with_confidence(
    outputs: Outputs, confidence_logits: Float[Array, "B H W 1"], score: str
) -> Outputs:
    """`outputs` that say where their mask is to be believed.

    `score`, one of SCORES: "confidence" makes the image's score the highest probability
    of its mask, each weighted by the confidence in it, "label" leaves it as it is.
    """
    outputs = outputs.replace(confidence_logits=confidence_logits)
    if score == "label":
        return outputs
    probs = jax.nn.sigmoid(outputs.mask_logits) * jax.nn.sigmoid(confidence_logits)
    own = canvas.cut_off(probs, 0.0)
    return outputs.replace(score_probs=jnp.max(own, axis=(1, 2, 3)))


def check_score(score: str, confidence: bool):
    """Raises `InputError` for a `score` that there is not, or not without the head."""
    if score not in SCORES:
        raise InputError(f"No score {score!r}; {valid(score, SCORES)}")
    if score == "confidence" and not confidence:
        raise InputError("score='confidence' needs a confidence; set confidence=True.")


def of_mask(mask_logits: Float[Array, "B H W 1"]) -> Outputs:
    """What a mask alone says: the image's logit is its highest."""
    own = canvas.cut_off(mask_logits, -jnp.inf)
    return Outputs(mask_logits, label_logits=jnp.max(own, axis=(1, 2, 3)))

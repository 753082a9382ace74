"""What every network returns."""

import flax.struct
import jax
from jaxtyping import Array, Float, PyTree


@flax.struct.dataclass
class Outputs:
    """Raw scores; a sigmoid makes probabilities of the logits. Always float32."""

    # B H W 1, at the size of the image. None of a network whose class says
    # `gives_mask = False`.
    mask_logits: PyTree
    label_logits: PyTree  # B; what the label's loss takes
    edge_logits: PyTree = None  # B h w 1, of networks that have an edge branch
    class_logits: PyTree = None  # B classes, of networks that tell classes apart
    score: PyTree = None  # B in [0, 1], where it is not sigmoid(label_logits)

    def image_score(self) -> Float[Array, "B"]:
        """Each image's probability of being manipulated."""
        return jax.nn.sigmoid(self.label_logits) if self.score is None else self.score

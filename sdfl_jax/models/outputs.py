"""What every network returns."""

import flax.struct
from jaxtyping import PyTree


@flax.struct.dataclass
class Outputs:
    """Raw scores; a sigmoid makes probabilities of them. Always float32."""

    mask_logits: PyTree  # B H W 1, at the size of the image
    label_logits: PyTree  # B
    edge_logits: PyTree = None  # B h w 1, of networks that have an edge branch

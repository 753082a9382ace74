"""What every network returns."""

import flax.struct
from jaxtyping import Array, Float


@flax.struct.dataclass
class Outputs:
    """Raw scores; a sigmoid makes probabilities of them. Always float32."""

    mask_logits: Float[Array, "B H W 1"]
    label_logits: Float[Array, "B"]
    edge_logits: Float[Array, "B h w 1"] | None = None

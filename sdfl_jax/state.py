"""Everything a training step reads and writes."""

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

# Loss scaling of float16 starts here and looks for its height by itself.
FIRST_LOSS_SCALE = 2.0**15


@flax.struct.dataclass
class TrainState:
    step: PyTree  # scalar: steps taken
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    skipped: PyTree  # scalar: steps whose loss or gradient was not finite
    skipped_in_row: PyTree  # scalar: those since the last good step
    loss_scale: PyTree  # scalar: what float16 multiplies its loss by; 1 elsewhere
    good_in_row: PyTree  # scalar: steps since that moved; {} where nothing is scaled
    ema: PyTree  # moving average of params, which evaluation uses; {} without one

    @property
    def variables(self) -> dict:
        """What a Flax module applies in evaluation."""
        return {"params": self.ema or self.params, "batch_stats": self.batch_stats}

    def items(self) -> tuple[dict, dict]:
        """What evaluation needs, and what only training needs beside it."""
        rest = {name: getattr(self, name) for name in _COUNTERS}
        if isinstance(self.good_in_row, dict):  # runs of other precisions have none
            del rest["good_in_row"]
        # The raw params where the averaged ones are those of evaluation.
        return self.variables, rest | {"raw_params": self.params if self.ema else {}}

    @classmethod
    def from_items(cls, model: dict, training: dict) -> "TrainState":
        """The state that `items` took apart."""
        training = {"good_in_row": {}} | training
        raw = training.pop("raw_params")
        params, ema = (raw, model["params"]) if raw else (model["params"], {})
        return cls(params=params, ema=ema, batch_stats=model["batch_stats"], **training)


_COUNTERS = (
    "step",
    "opt_state",
    "skipped",
    "skipped_in_row",
    "loss_scale",
    "good_in_row",
)


def init_state(
    variables: dict, tx, *, precision: str = "float32", ema: bool = False
) -> TrainState:
    """The state before the first step, from a network's variables."""
    scaled = precision == "float16"
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
        loss_scale=jnp.float32(FIRST_LOSS_SCALE if scaled else 1.0),
        good_in_row=jnp.zeros((), jnp.int32) if scaled else {},
        # Copied, for a donated state may hold no array twice.
        ema=jax.tree.map(jnp.copy, variables["params"]) if ema else {},
    )

"""Everything a training step reads and writes."""

import flax.struct
import jax.numpy as jnp
from jaxtyping import PyTree


@flax.struct.dataclass
class TrainState:
    step: PyTree  # scalar: steps taken
    params: PyTree
    batch_stats: PyTree
    opt_state: PyTree
    skipped: PyTree  # scalar: steps whose loss or gradient was not finite
    skipped_in_row: PyTree  # scalar: those since the last good step

    @property
    def variables(self) -> dict:
        """What a Flax module applies."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def init_variables(model, image_size: int, rng) -> dict:
    """Fresh `params` and `batch_stats`; runs under `jax.jit` and `jax.eval_shape`."""
    image = jnp.zeros((1, image_size, image_size, 3))
    variables = model.init(rng, image, train=False)
    return {
        "params": variables["params"],
        "batch_stats": variables.get("batch_stats", {}),
    }


def init_state(variables: dict, tx) -> TrainState:
    """The state before the first step, from a network's variables."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=variables["params"],
        batch_stats=variables["batch_stats"],
        opt_state=tx.init(variables["params"]),
        skipped=jnp.zeros((), jnp.int32),
        skipped_in_row=jnp.zeros((), jnp.int32),
    )

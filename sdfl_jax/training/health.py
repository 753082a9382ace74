"""What tells at a validation that a run has gone bad, before its metrics are believed.

Batch norm has two faces: a batch's own statistics in training, running ones in
evaluation. Where the two drift apart, the training loss goes on looking well.
"""

import functools
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

# How many times the loss of one training batch may change when running statistics
# score it (losses below 0.05 count as that), and how many times a validation loss may
# exceed a training loss.
STATISTICS_FACTOR = 3.0
VALIDATION_FACTOR = 10.0
LEAST_LOSS = 0.05
DEAD_VARIANCE = 1e-6
_NAMED = 3  # layers in a line


def warnings(
    scalars: Mapping,
    statistics: PyTree,
    *,
    metric: str,
    train_loss: float | None = None,
    running_loss: float | None = None,
    furthest_off=lambda: [],
) -> list[str]:
    """One line for each sign.

    Args:
      scalars: of the validation, by name; `loss` and `metric` among them.
      statistics: running ones, `batch_stats` of a network.
      metric: that which decides which state is the best.
      train_loss: of the last training batch, as the step saw it; None before a step.
      running_loss: of the same batch with running statistics.
      furthest_off: called for the names of layers if those two disagree.
    """
    found = []
    if train_loss is not None:
        low, high = sorted(max(x, LEAST_LOSS) for x in (train_loss, running_loss))
        if not high <= STATISTICS_FACTOR * low:
            found.append(
                f"the loss of one training batch is {train_loss:.3g} with its own "
                f"statistics and {running_loss:.3g} with the running ones; furthest "
                f"off: {', '.join(furthest_off()) or 'no batch norm'}"
            )
        loss = scalars["loss"]
        if not loss <= VALIDATION_FACTOR * max(train_loss, LEAST_LOSS):
            found.append(
                f"the validation loss is {loss:.3g}, over {VALIDATION_FACTOR:.0f} "
                f"times that of a training batch, {train_loss:.3g}"
            )
    if dead := dead_layers(statistics):
        named = ", ".join(dead[:_NAMED])
        more = f" and {len(dead) - _NAMED} more" if len(dead) > _NAMED else ""
        found.append(
            f"nothing varies any more in {named}{more} (variances under "
            f"{DEAD_VARIANCE:g})"
        )
    if scalars.get(metric) in (0.0, 1.0):
        found.append(f"{metric} is exactly {scalars[metric]:.0f}")
    return found


def dead_layers(statistics: PyTree) -> list[str]:
    """Batch norms more than half of whose channels have next to no running variance."""
    return [
        name
        for name, layer in _layers(jax.device_get(statistics)).items()
        if np.mean(layer["var"] < DEAD_VARIANCE) > 0.5
    ]


def furthest_off(model, variables: dict, image, **inputs) -> list[str]:
    """The batch norms whose running statistics differ most from those of `image`.

    `image` is uint8 B H W 3, `inputs` what the network reads beside it. A layer's
    distance is the mean over its channels of how far the mean is off, in deviations,
    and of how far the variance, in powers of e.
    """
    moved = jax.jit(functools.partial(_moved, model))(
        variables, jnp.asarray(image), **inputs
    )
    before = _layers(jax.device_get(variables["batch_stats"]))
    after = _layers(jax.device_get(moved))
    distances = {}
    for name, old in before.items():
        new = after[name]
        deviation = np.sqrt(old["var"] + 1e-12)
        off = np.abs(new["mean"] - old["mean"]) / deviation
        spread = np.abs(np.log((new["var"] + 1e-12) / (old["var"] + 1e-12)))
        distances[name] = float(np.mean(off + spread))
    return sorted(distances, key=distances.get, reverse=True)[:_NAMED]


def _moved(model, variables, image, **inputs):
    """The running statistics after one more batch: each moves towards the batch's."""
    _, updated = model.apply(
        variables,
        image.astype(jnp.float32) / 255,
        **inputs,
        train=True,
        mutable=["batch_stats"],
        rngs={"dropout": jax.random.key(0)},
    )
    return updated["batch_stats"]


def _layers(tree: Mapping, path: str = "") -> dict[str, dict]:
    """Each batch norm's `mean` and `var` by its path."""
    if "var" in tree and "mean" in tree:
        return {path: tree}
    found = {}
    for name, part in tree.items():
        if isinstance(part, Mapping):
            found |= _layers(part, f"{path}/{name}" if path else name)
    return found

"""Training losses: each one function, each says what it averages over.

`keep` (B,) bool tells which examples count. It is False for padding and, in mask
losses, for manipulated images whose mask is not known; authentic images have a known,
empty mask. Where nothing counts a loss is 0 with gradient 0.
"""

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float

from sdfl_jax.errors import InputError

_SMOOTH = 1.0  # the reference's; keeps an empty mask with an empty prediction at 0


def dice_batch(
    logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
) -> Float[Array, ""]:
    """One minus the soft overlap over the flattened batch, as the reference's Dice.

    Squares in the denominator, smooth 1. Large regions outweigh small ones, and
    authentic images add their false alarms to the denominator.
    """
    overlap, area = _overlap_and_area(logits, mask, keep)
    return _dice(jnp.sum(overlap), jnp.sum(area))


def dice_per_image(
    logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
) -> Float[Array, ""]:
    """Dice of each image by itself, averaged over the images that count.

    With every image kept this is what the reference minimises on as many processes as
    images, since its gradients are averaged over processes.
    """
    return _mean(_dice(*_overlap_and_area(logits, mask, keep)), keep)


def dice_manipulated(
    logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
    label: Float[Array, "B"],
) -> Float[Array, ""]:
    """Dice of each image by itself, averaged over manipulated images that count."""
    return dice_per_image(logits, mask, keep & (label > 0.5))


def mask_bce(
    logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
) -> Float[Array, ""]:
    """Binary cross-entropy averaged over all pixels of the images that count."""
    logits = _zero_where_not(keep, logits)
    losses = optax.sigmoid_binary_cross_entropy(logits, mask.astype(jnp.float32))
    return _mean(jnp.mean(losses, axis=(1, 2, 3)), keep)


def label_bce(
    logits: Float[Array, "B"], label: Float[Array, "B"], keep: Bool[Array, "B"]
) -> Float[Array, ""]:
    """Binary cross-entropy averaged over the images that count."""
    logits = _zero_where_not(keep, logits)
    losses = optax.sigmoid_binary_cross_entropy(logits, label.astype(jnp.float32))
    return _mean(losses, keep)


DICE = {
    "batch": lambda logits, mask, keep, label: dice_batch(logits, mask, keep),
    "per_image": lambda logits, mask, keep, label: dice_per_image(logits, mask, keep),
    "manipulated": dice_manipulated,
}
MASK_LOSSES = ("dice", "bce")


def total(
    outputs,
    batch: Mapping[str, Array],
    *,
    weights: Mapping[str, float],
    mask_losses: Sequence[str] = ("dice",),
    dice: str = "batch",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weighted sum of the terms `mask` and `label`, and the terms, unweighted.

    `batch` holds `mask` (B H W 1, 0 or 1), `label` (B,), `has_mask` (B,) and, where
    rows are padding, `valid` (B,). The mask term is the sum of `mask_losses` ("dice",
    "bce"); `dice` says over what Dice is averaged ("batch", "per_image" or
    "manipulated"). Raises `InputError` for unknown names.
    """
    check(weights, mask_losses, dice)
    label, mask = batch["label"], batch["mask"]
    valid = batch["valid"] > 0 if "valid" in batch else jnp.ones(label.shape, bool)
    has_mask = valid & (batch["has_mask"] > 0)

    logits = outputs.mask_logits
    mask_terms = {
        "dice": lambda: DICE[dice](logits, mask, has_mask, label),
        "bce": lambda: mask_bce(logits, mask, has_mask),
    }
    terms = {
        "mask": sum(mask_terms[name]() for name in mask_losses),
        "label": label_bce(outputs.label_logits, label, valid),
    }
    return sum(weights[name] * term for name, term in terms.items()), terms


def check(weights: Mapping[str, float], mask_losses: Sequence[str], dice: str) -> None:
    """Raises `InputError` for settings that `total` has no loss for."""
    if dice not in DICE:
        raise InputError(f"No dice {dice!r}; there are {sorted(DICE)}.")
    unknown = [name for name in mask_losses if name not in MASK_LOSSES]
    if unknown or not mask_losses:
        raise InputError(
            f"No mask_losses {list(mask_losses)}; give some of {list(MASK_LOSSES)}."
        )
    if weights.get("edge", 0):
        raise InputError(
            f"loss_weights.edge is {weights['edge']}, but the model has no edge map;"
            " set it to 0."
        )


def _overlap_and_area(logits, mask, keep):
    """Sums of p m and of p² + m² over each image, (B,) each; 0 where not kept."""
    probs = _zero_where_not(keep, jax.nn.sigmoid(_zero_where_not(keep, logits)))
    mask = _zero_where_not(keep, mask)
    overlap = jnp.sum(probs * mask, axis=(1, 2, 3))
    return overlap, jnp.sum(probs**2 + mask**2, axis=(1, 2, 3))


def _dice(overlap, area):
    return 1 - (2 * overlap + _SMOOTH) / (area + _SMOOTH)


def _zero_where_not(keep, values):
    """Float32 values with dropped examples at 0, so that not even NaN comes through."""
    keep = keep.reshape((-1,) + (1,) * (values.ndim - 1))  # B 1 1 1
    return jnp.where(keep, values.astype(jnp.float32), 0.0)


def _mean(values: Float[Array, "B"], keep: Bool[Array, "B"]) -> Float[Array, ""]:
    return jnp.sum(jnp.where(keep, values, 0.0)) / jnp.maximum(jnp.sum(keep), 1)

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

from sdfl_jax import errors
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
    losses = optax.sigmoid_binary_cross_entropy(logits, _marked(mask))
    return _mean(_pixel_mean(losses, mask), keep)


def weighted_bce(
    logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
) -> Float[Array, ""]:
    """Cross-entropy as CAT-Net's and TruFor's: a manipulated pixel weighs five times.

    Weights 0.5 and 2.5; divided by their sum over the pixels of the batch that count.
    Where the mask is negative a pixel does not.
    """
    counted = (mask >= 0) & keep[:, None, None, None]
    logits = _zero_where_not(keep, logits)
    mask = jnp.where(counted, mask, 0.0)
    weight = jnp.where(counted, jnp.where(mask > 0.5, 2.5, 0.5), 0.0)
    losses = optax.sigmoid_binary_cross_entropy(logits, mask)
    return jnp.sum(weight * losses) / jnp.maximum(jnp.sum(weight), 1e-6)


def edge_bce(
    logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
) -> Float[Array, ""]:
    """Cross-entropy of the pixels in `edge_band`, averaged over all pixels.

    IML-ViT's and DINOv3-IML's, which weigh it by 20.
    """
    logits = _zero_where_not(keep, logits)
    losses = optax.sigmoid_binary_cross_entropy(logits, _marked(mask))
    return _mean(_pixel_mean(edge_band(mask) * losses, mask), keep)


def dice_exact(
    logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
) -> Float[Array, ""]:
    """TruFor's Dice: of each image by itself with nothing added, then averaged.

    Squares in the denominator; 1 for every authentic image. Where the mask is negative
    a pixel does not count.
    """
    probs = jax.nn.sigmoid(_zero_where_not(keep, logits))
    probs = jnp.where(mask >= 0, probs, 0.0)
    mask = jnp.maximum(_zero_where_not(keep, mask), 0.0)
    overlap = jnp.sum(probs * mask, axis=(1, 2, 3))
    area = jnp.sum(probs**2 + mask**2, axis=(1, 2, 3))
    return _mean(1 - 2 * overlap / (area + 1e-5), keep)


def confidence_mse(
    logits: Float[Array, "B H W 1"],
    mask_logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
) -> Float[Array, ""]:
    """How far a confidence is from the probability that the mask gave the true class.

    Mean square over the pixels of the images that count, without a band at the border
    of a region (TruFor's: eroded by 15 x 15 inside, dilated by 11 x 11 outside) and
    without those whose mask is negative. The mask's logits get no gradient.
    """
    known, marked = mask >= 0, jnp.maximum(mask, 0.0)
    inside = 1 - _highest_of(1 - marked, 15) > 0.5
    outside = _highest_of(marked, 11) < 0.5
    probs = jax.nn.sigmoid(jax.lax.stop_gradient(_zero_where_not(keep, mask_logits)))
    true = jnp.where(inside, probs, 1 - probs)
    counted = (inside | outside) & known & keep[:, None, None, None]
    error = jnp.square(jax.nn.sigmoid(_zero_where_not(keep, logits)) - true)
    return jnp.sum(jnp.where(counted, error, 0.0)) / jnp.maximum(jnp.sum(counted), 1)


def mask_focal(
    logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
) -> Float[Array, ""]:
    """Focal loss (Lin et al., 2017) averaged over all pixels of images that count.

    Cross-entropy times (1 - p)², p what the true class was given; no class weight.
    """
    logits = _zero_where_not(keep, logits)
    losses = optax.sigmoid_focal_loss(logits, _marked(mask), gamma=2.0)
    return _mean(_pixel_mean(losses, mask), keep)


def iou_per_image(
    logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
) -> Float[Array, ""]:
    """One minus the soft IoU of each image, averaged over the images that count.

    Smooth 1 as in Dice; no squares.
    """
    probs, mask = _probs_and_marked(logits, mask, keep)
    overlap = jnp.sum(probs * mask, axis=(1, 2, 3))
    union = jnp.sum(probs + mask, axis=(1, 2, 3)) - overlap
    return _mean(1 - (overlap + _SMOOTH) / (union + _SMOOTH), keep)


def lovasz_per_image(
    logits: Float[Array, "B H W 1"],
    mask: Float[Array, "B H W 1"],
    keep: Bool[Array, "B"],
) -> Float[Array, ""]:
    """Lovász hinge of each image, averaged over the images that count.

    Berman et al., 2018: a convex surface through the IoU loss of every set of wrong
    pixels. Sorts the pixels of each image by their hinge error.
    """
    size = logits[0].size
    logits = _zero_where_not(keep, logits).reshape(-1, size)
    mask = _zero_where_not(keep, mask).reshape(-1, size)
    errors = jnp.where(mask >= 0, 1 - logits * (2 * mask - 1), -jnp.inf)
    mask = _marked(mask)
    order = jnp.argsort(-errors, axis=1)
    errors = jnp.take_along_axis(errors, order, axis=1)
    mask = jnp.take_along_axis(mask, order, axis=1)
    # The IoU loss if the k worst pixels were wrong, and what the k-th adds to it.
    area = jnp.sum(mask, axis=1, keepdims=True)
    found = jax.lax.cumsum(mask, axis=1)
    iou = (area - found) / (area + jax.lax.cumsum(1 - mask, axis=1))
    added = jnp.diff(1 - iou, axis=1, prepend=0.0)
    return _mean(jnp.sum(jax.nn.relu(errors) * added, axis=1), keep)


def label_bce(
    logits: Float[Array, "B"], label: Float[Array, "B"], keep: Bool[Array, "B"]
) -> Float[Array, ""]:
    """Binary cross-entropy averaged over the images that count."""
    logits = _zero_where_not(keep, logits)
    losses = optax.sigmoid_binary_cross_entropy(logits, label.astype(jnp.float32))
    return _mean(losses, keep)


def label_focal(
    logits: Float[Array, "B"], label: Float[Array, "B"], keep: Bool[Array, "B"]
) -> Float[Array, ""]:
    """`mask_focal` of image scores, averaged over the images that count."""
    logits = _zero_where_not(keep, logits)
    losses = optax.sigmoid_focal_loss(logits, label.astype(jnp.float32), gamma=2.0)
    return _mean(losses, keep)


def label_balanced_bce(
    logits: Float[Array, "B"], label: Float[Array, "B"], keep: Bool[Array, "B"]
) -> Float[Array, ""]:
    """TruFor's: as where 0.7 of the images are manipulated, both classes weigh alike.

    Averaged over the images that count.
    """
    logits = _zero_where_not(keep, logits)
    losses = optax.sigmoid_binary_cross_entropy(logits, label.astype(jnp.float32))
    return _mean(losses * jnp.where(label > 0.5, 0.5 / 0.7, 0.5 / 0.3), keep)


# Over what Dice is averaged.
DICE = {
    "batch": lambda logits, mask, keep, label: dice_batch(logits, mask, keep),
    "per_image": lambda logits, mask, keep, label: dice_per_image(logits, mask, keep),
    "manipulated": dice_manipulated,
}
# By name, beside "dice".
MASK_LOSSES = {
    "bce": mask_bce,
    "focal": mask_focal,
    "iou": iou_per_image,
    "lovasz": lovasz_per_image,
    "weighted_bce": weighted_bce,
    "edge_bce": edge_bce,
    "dice_exact": dice_exact,
}
LABEL_LOSSES = {
    "bce": label_bce,
    "focal": label_focal,
    "balanced_bce": label_balanced_bce,
}


def total(
    outputs,
    batch: Mapping[str, Array],
    *,
    weights: Mapping[str, float],
    mask_losses: Sequence[str] = ("dice",),
    mask_loss_weights: Sequence[float] = (),
    label_loss: str = "bce",
    dice: str = "batch",
) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
    """Weighted sum of `mask`, `label`, `edge` and `confidence`, and these, unweighted.

    Args:
      outputs: of a network. Without `mask_logits` there is no term `mask`.
      batch: `mask` (B H W 1, 0 or 1), `label` (B,), `has_mask` (B,) and, where rows are
        padding, `valid` (B,). The target of `edge_logits` is `edge_of` the mask, at the
        size of these.
      weights: of the terms, by name; `edge` and `confidence` need one above 0.
      mask_losses: what the term `mask` sums: "dice" or any of MASK_LOSSES.
      mask_loss_weights: one for each of `mask_losses`; none for 1 each.
      label_loss: one of LABEL_LOSSES.
      dice: one of DICE: over what Dice is averaged, of masks and of edges.

    Raises `InputError` for names and weights that do not fit.
    """
    check(weights, mask_losses, dice, mask_loss_weights, label_loss)
    label = batch["label"]
    valid = batch.get("valid", jnp.ones(label.shape)).astype(bool)
    has_mask = valid & (batch["has_mask"] > 0)

    def mask_loss(name, logits, mask):
        if name == "dice":
            return DICE[dice](logits, mask, has_mask, label)
        return MASK_LOSSES[name](logits, mask, has_mask)

    terms = {}
    if outputs.mask_logits is not None:
        shares = mask_loss_weights or [1.0] * len(mask_losses)
        terms["mask"] = sum(
            share * mask_loss(name, outputs.mask_logits, batch["mask"])
            for name, share in zip(mask_losses, shares, strict=True)
        )
    logits = outputs.label_logits
    if getattr(outputs, "label_loss_input", None) is not None:
        logits = outputs.label_loss_input
    terms["label"] = LABEL_LOSSES[label_loss](logits, label, valid)
    if weights.get("confidence", 0):
        if getattr(outputs, "confidence_logits", None) is None:
            raise InputError(
                f"loss_weights.confidence is {weights['confidence']}, but the model has"
                " no confidence map; set it to 0."
            )
        terms["confidence"] = confidence_mse(
            outputs.confidence_logits, outputs.mask_logits, batch["mask"], has_mask
        )
    if weights.get("edge", 0):
        logits = getattr(outputs, "edge_logits", None)
        if logits is None:
            raise InputError(
                f"loss_weights.edge is {weights['edge']}, but the model has no edge"
                " map; set it to 0."
            )
        edge = edge_of(batch["mask"])
        terms["edge"] = mask_loss("dice", logits, nearest(edge, *logits.shape[1:3]))
    return sum(weights[name] * term for name, term in terms.items()), terms


def check(
    weights: Mapping[str, float],
    mask_losses: Sequence[str],
    dice: str,
    mask_loss_weights: Sequence[float] = (),
    label_loss: str = "bce",
) -> None:
    """Raises `InputError` for settings that `total` has no loss for."""
    if dice not in DICE:
        raise InputError(f"No dice {dice!r}; there are {sorted(DICE)}.")
    names = ["dice", *MASK_LOSSES]
    if not mask_losses or any(name not in names for name in mask_losses):
        raise InputError(f"No mask_losses {list(mask_losses)}; give some of {names}.")
    if label_loss not in LABEL_LOSSES:
        raise InputError(
            f"No label_loss {label_loss!r}; {errors.valid(label_loss, LABEL_LOSSES)}"
        )
    if mask_loss_weights and len(mask_loss_weights) != len(mask_losses):
        raise InputError(
            f"mask_loss_weights {list(mask_loss_weights)} for the mask_losses"
            f" {list(mask_losses)}: give one for each, or none."
        )
    if not all(weight >= 0 for weight in (*mask_loss_weights, *weights.values())):
        raise InputError(
            f"loss_weights {dict(weights)}, mask_loss_weights"
            f" {list(mask_loss_weights)}: must not be negative."
        )


def edge_of(mask: Float[Array, "B H W 1"]) -> Float[Array, "B H W 1"]:
    """1 along the border of the region: what a 3x3 dilation adds to a 3x3 erosion.

    The reference's edge maps. Beyond the image the mask goes on as at its rim.
    """
    grown = _highest_of_3x3(mask)
    shrunk = -_highest_of_3x3(-mask)
    return grown - shrunk


def edge_band(mask: Float[Array, "B H W 1"], reach: int = 3) -> Float[Array, "B H W 1"]:
    """1 where mask and background are both near: in the row or column of a pixel.

    IMDLBenCo's edges of width 7. Beyond the image there is neither.
    """

    def near(plane):
        size = 2 * reach + 1
        rows, columns = (
            jax.lax.reduce_window(
                plane, -jnp.inf, jax.lax.max, window, (1, 1, 1, 1), "SAME"
            )
            for window in ((1, size, 1, 1), (1, 1, size, 1))
        )
        return jnp.maximum(rows, columns)

    marked = (mask > 0.5).astype(jnp.float32)
    background = ((mask >= 0) & (mask <= 0.5)).astype(jnp.float32)
    return near(marked) * near(background)


def nearest(
    plane: Float[Array, "B H W 1"], height: int, width: int
) -> Float[Array, "B {height} {width} 1"]:
    """Resized by taking the pixel above and left, as OpenCV's INTER_NEAREST does."""
    H, W = plane.shape[1:3]
    rows, columns = jnp.arange(height) * H // height, jnp.arange(width) * W // width
    return plane[:, rows][:, :, columns]


def _highest_of_3x3(plane):
    return _highest_of(plane, 3)


def _highest_of(plane, size: int):
    """The highest value of the `size` x `size` pixels around each."""
    return jax.lax.reduce_window(
        plane, -jnp.inf, jax.lax.max, (1, size, size, 1), (1, 1, 1, 1), "SAME"
    )


def _overlap_and_area(logits, mask, keep):
    """Sums of p m and of p² + m² over each image, (B,) each; 0 where not kept."""
    probs, mask = _probs_and_marked(logits, mask, keep)
    overlap = jnp.sum(probs * mask, axis=(1, 2, 3))
    return overlap, jnp.sum(probs**2 + mask**2, axis=(1, 2, 3))


def _probs_and_marked(logits, mask, keep):
    """Both 0 where an image is not kept and where its mask is negative."""
    probs = _zero_where_not(keep, jax.nn.sigmoid(_zero_where_not(keep, logits)))
    return jnp.where(mask >= 0, probs, 0.0), _marked(_zero_where_not(keep, mask))


def _marked(mask):
    """The mask, 0 where it is negative and not known."""
    return jnp.maximum(mask.astype(jnp.float32), 0.0)


def _pixel_mean(losses, mask) -> Float[Array, "B"]:
    """Over the pixels of each image whose mask is not negative."""
    known = mask >= 0
    total = jnp.sum(jnp.where(known, losses, 0.0), axis=(1, 2, 3))
    count = jnp.sum(known, axis=(1, 2, 3), dtype=total.dtype)
    return total / jnp.maximum(count, 1)


def _dice(overlap, area):
    return 1 - (2 * overlap + _SMOOTH) / (area + _SMOOTH)


def _zero_where_not(keep, values):
    """Float32 values with dropped examples at 0, so that not even NaN comes through."""
    keep = keep.reshape((-1,) + (1,) * (values.ndim - 1))  # B 1 1 1
    return jnp.where(keep, values.astype(jnp.float32), 0.0)


def _mean(values: Float[Array, "B"], keep: Bool[Array, "B"]) -> Float[Array, ""]:
    count = jnp.sum(keep, dtype=values.dtype)
    return jnp.sum(jnp.where(keep, values, 0.0)) / jnp.maximum(count, 1)

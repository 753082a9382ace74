"""Figures from masks and scores, in the reference's protocol and in the field's.

All pixel figures come from one small table per image, `histogram`: 3 kB however large
the image, so that a whole data set fits in memory, every threshold can be tried
afterwards and ties are handled exactly. Probability maps therefore count in 256
levels, `round(255 p)`, which is also how they are saved.

A pixel or an image is taken as manipulated where its value is at least the threshold.
A figure without anything to average is None: pixel figures without a manipulated image
that has a mask; sensitivity (specificity) without manipulated (authentic) images and
what is made of it; AUC and thresholds where only one class is there.
"""

import functools
import math
from collections.abc import Sequence

import numpy as np
from sklearn import metrics as sklearn_metrics

from sdfl_jax.errors import InputError

LEVELS = 256

Numbers = np.ndarray | Sequence  # one per image

# The reference adds this to the denominators of its figures.
_EPSILON = 1e-6


# One table per image


def levels(mask_probs: np.ndarray) -> np.ndarray:
    """Probabilities as uint8 levels of the same shape: `round(255 p)`, halves up.

    uint8 input is returned as it is. Raises `InputError` for NaN, for values outside
    [0, 1] and for other types.
    """
    mask_probs = np.asarray(mask_probs)
    if mask_probs.dtype == np.uint8:
        return mask_probs
    if not np.issubdtype(mask_probs.dtype, np.floating):
        raise InputError(
            f"mask_probs has type {mask_probs.dtype}; give floats in [0, 1] or uint8."
        )
    # A blend of float32 probabilities may come out a rounding above 1.
    least, most = -1e-5, 1 + 1e-5
    if mask_probs.size and not (mask_probs.min() >= least and mask_probs.max() <= most):
        bad = np.count_nonzero(~((mask_probs >= least) & (mask_probs <= most)))
        raise InputError(
            f"mask_probs holds {bad} values that are NaN or outside [0, 1]; give"
            " probabilities (after the sigmoid), or uint8 with 255 for 1."
        )
    # Halves up, so that p >= 0.5 and level >= 128 are the same pixels.
    wide = mask_probs.astype(np.promote_types(mask_probs.dtype, np.float32), copy=False)
    return (wide * 255 + 0.5).astype(np.uint8)


def histogram(mask: np.ndarray, mask_probs: np.ndarray) -> np.ndarray:
    """Counts the pixels of one image by mask class and level, int32 (3, 256).

    Rows: mask == 0, 0 < mask < 128, mask >= 128 (the reference takes any value but
    zero as manipulated, the standard figures values from 128). Columns: `levels`.
    `mask` is uint8 0-255 or bool, H W or H W 1, `mask_probs` the same shape, uint8
    or float. Raises `InputError` where shapes or types do not fit.
    """
    mask, mask_probs = np.asarray(mask), np.asarray(mask_probs)
    if mask.dtype == bool:
        mask = mask.astype(np.uint8) * 255
    if mask.dtype != np.uint8:
        raise InputError(f"mask has type {mask.dtype}; give uint8 from 0 to 255.")
    mask, mask_probs = _plane(mask), _plane(mask_probs)
    if mask.shape != mask_probs.shape or mask.ndim != 2 or not mask.size:
        raise InputError(
            f"mask has shape {mask.shape} and mask_probs {mask_probs.shape}; both must"
            " be the same H W (or H W 1)."
        )
    classes = (mask > 0).astype(np.int32) + (mask >= 128)
    cells = classes * LEVELS + levels(mask_probs)
    counts = np.bincount(cells.ravel(), minlength=3 * LEVELS)
    return counts.reshape(3, LEVELS).astype(np.int32)


def constant_histograms(histograms: np.ndarray, level: int) -> np.ndarray:
    """The tables (N 3 256) of maps that say `level` everywhere, over the same masks."""
    constant = np.zeros_like(histograms)
    constant[:, :, level] = histograms.sum(axis=2)
    return constant


@functools.lru_cache(maxsize=32)
def centre_prior(height: int, width: int) -> np.ndarray:
    """A map that only knows that photographers and forgers centre, uint8 H W.

    A Gaussian with a deviation of a quarter of each side: one half or more on the
    ellipse that holds the middle 27 % of the image.
    """
    y, x = (
        np.exp(-0.5 * (((np.arange(n) + 0.5) / n - 0.5) / 0.25) ** 2)
        for n in (height, width)
    )
    prior = levels(np.outer(y, x))
    prior.flags.writeable = False  # it is shared by all callers
    return prior


# Figures per image


def per_image(
    histograms: np.ndarray, threshold: float = 0.5, *, reference: bool = False
) -> dict[str, np.ndarray]:
    """Pixel figures of each image by itself, arrays (N,).

    `pixel_f1` and `pixel_iou` at the threshold, `pixel_auc` with ties counted half
    (equal to scikit-learn on maps of 256 levels), `mask_area` and `predicted_area` as
    shares of the image. NaN where a figure has no meaning: F1 and IoU where mask and
    prediction are both empty, AUC where the mask is empty or full. `reference`: any
    mask value but zero counts as manipulated, not only values from 128.
    """
    manipulated, authentic = _split(histograms, reference)
    first = _first_level(threshold)
    tp = manipulated[:, first:].sum(axis=1)
    fp = authentic[:, first:].sum(axis=1)
    positive, negative = manipulated.sum(axis=1), authentic.sum(axis=1)
    # Pairs (manipulated pixel, authentic pixel) in the right order; ties count half.
    below = np.cumsum(authentic, axis=1) - authentic
    ordered = (manipulated * (below + authentic / 2)).sum(axis=1)
    size = positive + negative
    return {
        "pixel_f1": _ratio(2 * tp, positive + tp + fp),
        "pixel_iou": _ratio(tp, positive + fp),
        "pixel_auc": _ratio(ordered, positive.astype(float) * negative),
        "mask_area": _ratio(positive, size),
        "predicted_area": _ratio(tp + fp, size),
    }


def rows(
    histograms: np.ndarray,
    label: Numbers,
    score: Numbers,
    has_mask: Numbers | None = None,
    threshold: float = 0.5,
) -> list[dict]:
    """One dict per image for `per_image.csv`, in the standard protocol.

    Keys `label`, `score`, `has_mask` and those of `per_image`, None where a figure has
    no meaning. F1, IoU and AUC are those of manipulated images with a mask; authentic
    images keep `predicted_area`, which is their false-alarm area.
    """
    histograms, label, score, has_mask = _checked(histograms, label, score, has_mask)
    columns = per_image(histograms, threshold)
    scored = _scored(histograms, label, has_mask)
    for name in ("pixel_f1", "pixel_iou", "pixel_auc"):
        columns[name] = np.where(scored, columns[name], np.nan)
    columns["mask_area"] = np.where(has_mask, columns["mask_area"], np.nan)
    return [
        {
            "label": int(label[i]),
            "score": float(score[i]),
            "has_mask": bool(has_mask[i]),
        }
        | {name: _number(column[i]) for name, column in columns.items()}
        for i in range(len(label))
    ]


# Figures per data set


def report(
    mask: Numbers,
    mask_probs: Numbers,
    label: Numbers,
    score: Numbers,
    threshold: float = 0.5,
    has_mask: Numbers | None = None,
) -> dict[str, dict]:
    """`figures` of arrays: each pixel figure is a mean over images, each image once.

    `mask` uint8 0-255 and `mask_probs` (float in [0, 1], or uint8 with 255 = 1), both
    N H W [1] or sequences of images of any sizes; `label` (N,) 0 or 1; `score` (N,) in
    [0, 1]; `has_mask` (N,) False for images that count in image figures only. Raises
    `InputError` for NaN and for lengths, shapes or types that do not fit.
    """
    lengths = [len(mask), len(mask_probs), len(label), len(score)]
    if len(set(lengths)) > 1:
        raise InputError(
            "mask, mask_probs, label and score have lengths"
            f" {lengths}; there must be one of each per image."
        )
    tables = [histogram(m, p) for m, p in zip(mask, mask_probs, strict=True)]
    histograms = np.stack(tables) if tables else np.zeros((0, 3, LEVELS), np.int32)
    return figures(histograms, label, score, has_mask, threshold)


def figures(
    histograms: np.ndarray,
    label: Numbers,
    score: Numbers,
    has_mask: Numbers | None = None,
    threshold: float = 0.5,
    image_threshold: float | None = None,
) -> dict[str, dict]:
    """Both protocols, `{"reference": ..., "standard": ...}`: means over images.

    `histograms` int (N 3 256), `label`, `score` and `has_mask` (N,). Images without
    a mask count in image figures only. `threshold` cuts maps and scores alike, unless
    `image_threshold` is given for the scores. Figures are Python numbers, None where
    there is nothing to average.
    """
    histograms, label, score, has_mask = _checked(histograms, label, score, has_mask)
    image_threshold = threshold if image_threshold is None else image_threshold
    return {
        "reference": _reference(
            histograms, label, score, has_mask, threshold, image_threshold
        ),
        "standard": pixel_figures(histograms, label, has_mask, threshold)
        | image_figures(label, score, image_threshold),
    }


def pixel_figures(
    histograms: np.ndarray,
    label: Numbers,
    has_mask: np.ndarray,
    threshold: float = 0.5,
) -> dict[str, float | None]:
    """Standard F1, IoU and AUC: each a mean over the manipulated images with a region.

    Mask values from 128 count as manipulated. An image labelled manipulated whose mask
    is empty at that value holds nothing that could be found; it is left out. AUC also
    leaves out images that are manipulated all over.
    """
    kept = _scored(histograms, label, has_mask)
    columns = per_image(histograms[kept], threshold)
    return {
        "pixel_f1_manipulated": _mean(columns["pixel_f1"]),
        "pixel_iou_manipulated": _mean(columns["pixel_iou"]),
        "pixel_auc_manipulated": _mean(columns["pixel_auc"]),
    }


def image_figures(
    label: Numbers, score: Numbers, threshold: float = 0.5
) -> dict[str, float | None]:
    """Standard F1 and AUC of the image scores, counted over all images.

    F1 is 2 tp / (2 tp + fp + fn): None where no image is, or is called, manipulated.
    """
    tp, _, fp, fn = _confusion(label, score, threshold)
    return {
        "image_f1": 2 * tp / (2 * tp + fp + fn) if tp + fp + fn else None,
        "image_auc": image_auc(label, score),
    }


def image_auc(label: Numbers, score: Numbers) -> float | None:
    """Area under the ROC curve over all images; None where only one class is there."""
    if len(np.unique(label)) < 2:
        return None
    return float(sklearn_metrics.roc_auc_score(label, score))


def _reference(histograms, label, score, has_mask, threshold, image_threshold) -> dict:
    """The reference evaluator's figures, with its definitions and its epsilons.

    Pixel F1 is a mean over images with a mask, 1 where mask and prediction are both
    empty; `pixel_f1_all` averages authentic images in. `image_f1_sen_spe` is the
    harmonic mean of sensitivity and specificity, not F1.
    """
    manipulated, authentic = _split(histograms, reference=True)
    first = _first_level(threshold)
    tp = manipulated[:, first:].sum(axis=1)
    fp = authentic[:, first:].sum(axis=1)
    wrong = fp + manipulated[:, :first].sum(axis=1)
    pixel_f1 = np.where(tp + wrong == 0, 1.0, 2 * tp / (2 * tp + wrong + _EPSILON))

    tp, tn, fp, fn = _confusion(label, score, image_threshold)
    pixel_f1_all = _mean(pixel_f1[has_mask])
    sensitivity = tp / (tp + fn + _EPSILON) if tp + fn else None
    specificity = tn / (tn + fp + _EPSILON) if tn + fp else None
    image_f1 = _harmonic(sensitivity, specificity)
    best_threshold, g_mean = best_image_threshold(label, score)
    return {
        "n": len(label),
        "threshold": threshold,
        "pixel_f1_all": pixel_f1_all,
        "pixel_f1_manipulated": _mean(pixel_f1[has_mask & (label == 1)]),
        "image_accuracy": (tp + tn) / (len(label) + _EPSILON) if len(label) else None,
        "sensitivity": sensitivity,
        "specificity": specificity,
        "image_f1_sen_spe": image_f1,
        "image_auc": image_auc(label, score),
        "combined_f1": _harmonic(pixel_f1_all, image_f1),
        "best_threshold": best_threshold,
        "g_mean": g_mean,
        "confusion": {"tp": tp, "tn": tn, "fp": fp, "fn": fn},
    }


# Thresholds, to be chosen on validation data


def best_image_threshold(
    label: Numbers, score: Numbers
) -> tuple[float | None, float | None]:
    """The score with the largest geometric mean of sensitivity and specificity.

    Counted over all images; of equal ones the highest. Returns the threshold and its
    geometric mean; None, None where one class is missing or none separates at all.
    """
    if len(np.unique(label)) < 2:
        return None, None
    # scikit-learn's default leaves collinear points out, and so does the reference.
    fpr, tpr, thresholds = sklearn_metrics.roc_curve(label, score)
    g_means = np.sqrt(tpr * (1 - fpr))
    best = int(np.argmax(g_means))
    if not np.isfinite(thresholds[best]):  # the curve's first point: nothing is called
        return None, None
    return float(thresholds[best]), float(g_means[best])


def best_pixel_threshold(
    histograms: np.ndarray, label: Numbers, has_mask: Numbers | None = None
) -> tuple[float | None, float | None]:
    """The threshold with the largest mean pixel F1 over manipulated images.

    All 256 cuts between levels are tried, each one threshold for all images; of equal
    ones the nearest to 0.5. Returns the threshold, halfway between two levels so that
    it cuts floats and levels alike, and the mean F1 there; None, None without a
    manipulated image that has a mask.
    """
    label = np.asarray(label)
    has_mask = np.ones(len(label), bool) if has_mask is None else np.asarray(has_mask)
    kept = _scored(histograms, label, has_mask.astype(bool))
    if not kept.any():
        return None, None
    total = np.zeros(LEVELS)
    # A few hundred images at a time: 256 sums for each would be much memory at once.
    for chunk in np.array_split(histograms[kept], math.ceil(kept.sum() / 256)):
        manipulated, authentic = _split(chunk, reference=False)
        tp = manipulated[:, ::-1].cumsum(axis=1)[:, ::-1]
        fp = authentic[:, ::-1].cumsum(axis=1)[:, ::-1]
        total += (2 * tp / (tp[:, :1] + tp + fp)).sum(axis=0)
    mean = total / kept.sum()
    ties = np.flatnonzero(np.isclose(mean, mean.max(), rtol=0, atol=1e-12))
    best = int(ties[np.argmin(np.abs(ties - LEVELS / 2))])
    return max(best - 0.5, 0.0) / (LEVELS - 1), float(mean[best])


# Baselines


def baselines(
    histograms: np.ndarray,
    label: Numbers,
    has_mask: Numbers | None = None,
    centre_histograms: np.ndarray | None = None,
) -> dict[str, dict]:
    """Standard figures of predictions made without looking, at threshold 0.5.

    `everything_manipulated` and `nothing_manipulated` follow from the masks inside the
    histograms; `centre_prior` (pixel figures only) from the histograms of
    `centre_prior` maps on the same masks, where they are given.
    """
    n = len(label)
    result = {}
    for name, level in (("everything_manipulated", 255), ("nothing_manipulated", 0)):
        constant = constant_histograms(histograms, level)
        score = np.full(n, level / 255)
        result[name] = figures(constant, label, score, has_mask)["standard"]
    if centre_histograms is not None:
        checked, label, _, has_mask = _checked(
            centre_histograms, label, np.zeros(n), has_mask
        )
        result["centre_prior"] = pixel_figures(checked, label, has_mask)
    return result


# Parts


def _checked(histograms, label, score, has_mask):
    """The four arrays as int (N 3 256), int (N,), float64 (N,), bool (N,)."""
    histograms, label = np.asarray(histograms), np.asarray(label).reshape(-1)
    score = np.asarray(score, np.float64).reshape(-1)
    has_mask = np.ones(len(label)) if has_mask is None else np.asarray(has_mask)
    has_mask = has_mask.reshape(-1).astype(bool)
    if not len(histograms) == len(label) == len(score) == len(has_mask):
        raise InputError(
            f"There are {len(histograms)} masks, {len(label)} labels, {len(score)}"
            f" scores and {len(has_mask)} has_mask; there must be one per image."
        )
    if not np.isin(label, (0, 1)).all():
        odd = label[~np.isin(label, (0, 1))][0]
        raise InputError(f"label holds {odd}; it must be 0 or 1 (manipulated).")
    if not np.isfinite(score).all():
        raise InputError(
            f"score holds {np.count_nonzero(~np.isfinite(score))} values that are not"
            " finite; give one number per image."
        )
    return histograms, label.astype(np.int64), score, has_mask


def _plane(array):
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array


def _split(histograms, reference: bool):
    """Levels of the manipulated and of the authentic pixels, int64 (N 256) each."""
    authentic, grey, manipulated = histograms.astype(np.int64).transpose(1, 0, 2)
    if reference:
        return manipulated + grey, authentic
    return manipulated, authentic + grey


def _scored(histograms, label, has_mask):
    """Manipulated images with a region to find, bool (N,)."""
    return (label == 1) & has_mask & (histograms[:, 2].sum(axis=1) > 0)


def _first_level(threshold: float) -> int:
    """The lowest level that counts as manipulated, 256 where none does."""
    if not 0 <= threshold <= 1:
        raise InputError(f"The threshold is {threshold}; it must lie in [0, 1].")
    # Rounded first, because 255 * (k / 255) may come out a little above k.
    return math.ceil(round(255 * threshold, 9))


def _confusion(label, score, threshold) -> tuple[int, int, int, int]:
    called, true = score >= threshold, label == 1
    counts = (called & true, ~called & ~true, called & ~true, ~called & true)
    return tuple(int(np.count_nonzero(c)) for c in counts)


def _harmonic(a, b) -> float | None:
    return None if a is None or b is None else 2 * a * b / (a + b + _EPSILON)


def _ratio(a, b):
    """a / b in float64, NaN where b is 0."""
    b = np.asarray(b, np.float64)
    return np.divide(a, b, out=np.full(b.shape, np.nan), where=b > 0)


def _mean(values) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None


def _number(value) -> float | None:
    return None if np.isnan(value) else float(value)

"""Metrics of the image scores, each weighted R times over the N images."""

import numpy as np
from jaxtyping import Float, Integer, Num

from sdfl_jax.metrics.pixels import ratio

BINS = 15  # of the calibration error, as in Guo et al., ICML 2017

# Numbers that one array of a block may hold: 1 MB, so that a core's cache holds a few;
# 3.4 times as fast as 32 MB.
_BLOCK = 2**17


def confusion(
    label: Integer[np.ndarray, "N"],
    score: Float[np.ndarray, "N"],
    threshold: float,
    weights: Num[np.ndarray, "R N"],
) -> dict[str, Float[np.ndarray, "R"]]:
    """True and false positives and negatives; `threshold` itself calls an image."""
    called, true = score >= threshold, label == 1
    cells = {
        "tp": called & true,
        "tn": ~called & ~true,
        "fp": called & ~true,
        "fn": ~called & true,
    }
    return {name: weights @ cell.astype(np.float64) for name, cell in cells.items()}


def at_threshold(counts: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Metrics of a confusion matrix, NaN where their denominator is 0."""
    tp, tn, fp, fn = (counts[name] for name in ("tp", "tn", "fp", "fn"))
    recall, specificity = ratio(tp, tp + fn), ratio(tn, tn + fp)
    return {
        "image_f1": ratio(2 * tp, 2 * tp + fp + fn),
        "image_accuracy": ratio(tp + tn, tp + tn + fp + fn),
        "image_balanced_accuracy": (recall + specificity) / 2,
        "image_precision": ratio(tp, tp + fp),
        "image_recall": recall,
    }


def ranked(
    label: Integer[np.ndarray, "N"],
    score: Float[np.ndarray, "N"],
    weights: Num[np.ndarray, "R N"],
) -> dict[str, Float[np.ndarray, "R"]]:
    """Metrics over all thresholds: NaN where only one class is there.

    `auc` and `ap` count ties as scikit-learn does. `eer`, the equal error rate, lies
    where on the ROC curve, drawn in straight lines, the false-negative rate equals the
    false-positive rate. `threshold` has the largest geometric mean `g_mean` of
    sensitivity and specificity, of equal ones the highest; NaN where no score separates
    at all.
    """
    if not len(label):
        names = ("auc", "ap", "eer", "threshold", "g_mean")
        return {name: np.full(len(weights), np.nan) for name in names}
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(score[order]) != 0, True))
    values = score[order][ends]  # distinct, descending
    true = label[order] == 1
    rows = max(1, _BLOCK // len(label))
    parts = []
    for start in range(0, len(weights), rows):
        block = weights[start : start + rows, order].astype(np.float64)
        tp = np.cumsum(block * true, axis=1)[:, ends]
        fp = np.cumsum(block * ~true, axis=1)[:, ends]
        parts.append(_of_curve(tp, fp, values))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def calibration_error(
    label: Integer[np.ndarray, "N"],
    score: Float[np.ndarray, "N"],
    weights: Num[np.ndarray, "R N"],
) -> Float[np.ndarray, "R"]:
    """|mean score - share of manipulated images| in 15 equal bins of [0, 1].

    Averaged over the bins, each counting as many times as it has images. NaN where a
    score lies outside [0, 1], for then it is no probability.
    """
    if not len(score) or score.min() < 0 or score.max() > 1:
        return np.full(len(weights), np.nan)
    bins = np.minimum((score * BINS).astype(np.int64), BINS - 1)
    gaps = np.zeros((len(score), BINS))
    gaps[np.arange(len(score)), bins] = score - label
    return ratio(np.abs(weights @ gaps).sum(axis=1), weights.sum(axis=1))


def _of_curve(tp, fp, values) -> dict[str, np.ndarray]:
    """Metrics from counts (R U) of what is called at each of the U scores or above."""
    positive, negative = tp[:, -1:], fp[:, -1:]
    both = ((positive > 0) & (negative > 0))[:, 0]
    recall, alarm = ratio(tp, positive), ratio(fp, negative)
    step = lambda rate: np.diff(rate, axis=1, prepend=0.0)
    heights = recall - step(recall) / 2
    metrics = {
        "auc": (step(alarm) * heights).sum(axis=1),
        "ap": (step(recall) * ratio(tp, tp + fp, empty=0.0)).sum(axis=1),
        "eer": _equal_error(recall, alarm),
    }

    # The reference leaves points out that lie on a straight line of the curve, as
    # scikit-learn does by default; this may cost it the best one.
    g_means = np.where(_corners(step(tp), step(fp)), np.sqrt(recall * (1 - alarm)), 0)
    best = np.argmax(g_means, axis=1)
    top = np.take_along_axis(g_means, best[:, None], axis=1)[:, 0]
    separates = top > 0
    metrics["threshold"] = np.where(separates, values[best], np.nan)
    metrics["g_mean"] = np.where(separates, top, np.nan)
    return {name: np.where(both, metric, np.nan) for name, metric in metrics.items()}


def _equal_error(recall, alarm):
    """Where a ROC curve (R U) of straight lines has as many misses as false alarms."""
    start = np.zeros((len(recall), 1))
    recall, alarm = np.hstack([start, recall]), np.hstack([start, alarm])
    excess = 1 - recall - alarm  # falls from 1 to -1
    after = np.argmax(excess <= 0, axis=1)[:, None]
    take = lambda array, index: np.take_along_axis(array, index, axis=1)[:, 0]
    before = np.maximum(after - 1, 0)
    above, under = take(excess, before), take(excess, after)
    share = ratio(above, above - under, empty=0.0)
    return take(alarm, before) + share * (take(alarm, after) - take(alarm, before))


def _corners(dp, dn):
    """Points of a ROC curve (R U) at which it turns, its first and its last point.

    `dp` and `dn` are the counts that each score adds; where both are 0 (no image of
    the resample has this score) there is no point.
    """
    there = (dp > 0) | (dn > 0)
    size = dp.shape[1]
    place = np.where(there, np.arange(size), size)
    coming = np.minimum.accumulate(place[:, ::-1], axis=1)[:, ::-1]  # from here on
    after = np.hstack([coming[:, 1:], np.full((len(dp), 1), size)])
    following = np.minimum(after, size - 1)
    turns = (np.take_along_axis(dp, following, axis=1) != dp) | (
        np.take_along_axis(dn, following, axis=1) != dn
    )
    first = np.arange(size) == coming[:, :1]
    return there & (first | (after == size) | turns)

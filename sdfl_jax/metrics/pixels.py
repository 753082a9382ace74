"""Pixel metrics of each image, and their weighted means over images.

Every mean takes weights (R, N): R ways to count each of the N images, integers for the
resamples of a bootstrap, ones for the data set itself.
"""

import numpy as np
from jaxtyping import Float, Integer, Num

from sdfl_jax.metrics.histograms import BINS, first_bin, split, threshold_at

# Five measures of a map that is cut at a threshold.
MEASURES = ("f1", "iou", "precision", "recall", "mcc")

# Images worked on at a time: 256 thresholds for each are 2 kB and measure.
_CHUNK = 512


def measures(tp, fp, positive, negative) -> dict[str, np.ndarray]:
    """The `MEASURES` from counts of pixels: arrays of any shapes that broadcast.

    NaN where nothing is left to divide by: F1 and IoU where mask and prediction are
    both empty, recall where the mask is. Precision is 0 where nothing is called, MCC 0
    where one of its four sums is, as in scikit-learn.
    """
    tp, fp, positive, negative = (
        np.asarray(counts, np.float64) for counts in (tp, fp, positive, negative)
    )
    called, fn, tn = tp + fp, positive - tp, negative - fp
    # Two roots: the product of all four counts may pass what a float64 resolves.
    spread = np.sqrt(called * (tn + fn)) * np.sqrt(positive * negative)
    return {
        "f1": ratio(2 * tp, positive + called),
        "iou": ratio(tp, positive + fp),
        "precision": ratio(tp, called, empty=0.0),
        "recall": ratio(tp, positive),
        "mcc": ratio(tp * tn - fp * fn, spread, empty=0.0),
    }


def per_image(
    histograms: Integer[np.ndarray, "N 3 256"],
    threshold: float = 0.5,
    *,
    reference: bool = False,
) -> dict[str, Float[np.ndarray, "N"]]:
    """Pixel metrics of each image by itself.

    `pixel_f1`, `_iou`, `_precision`, `_recall` and `_mcc` at the threshold and, as
    `..._oracle`, at `pixel_threshold_oracle`, where the image's own F1 is largest (of
    equal ones the nearest to 0.5); `pixel_f1_inverse` of the pixels that are not
    called; `pixel_auc` and `pixel_ap` with ties as in scikit-learn; `mask_area` and
    `predicted_area` as shares of the image. NaN where a metric has no meaning: see
    `measures`; AUC where the mask is empty or full, average precision and the oracle's
    where it is empty. `reference`: any mask value but zero counts as manipulated, not
    only values from 128.
    """
    first = first_bin(threshold)
    parts = [
        _per_image(chunk, first, reference) for chunk in _chunks(histograms, keep=True)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _per_image(histograms, first: int, reference: bool) -> dict[str, np.ndarray]:
    manipulated, authentic = split(histograms, reference)
    positive, negative = manipulated.sum(axis=1), authentic.sum(axis=1)
    tp, fp = _called(manipulated), _called(authentic)
    curves = measures(tp, fp, positive[:, None], negative[:, None])  # n 256
    at = {f"pixel_{name}": curve[:, first] for name, curve in curves.items()}

    cut = best_cut(np.nan_to_num(curves["f1"]))
    empty = positive == 0
    oracle = {
        f"pixel_{name}_oracle": np.where(
            empty, np.nan, np.take_along_axis(curve, cut[:, None], axis=1)[:, 0]
        )
        for name, curve in curves.items()
    }
    thresholds = np.array([threshold_at(value) for value in range(BINS)])
    missed, right = positive - tp[:, first], negative - fp[:, first]
    # Pairs (manipulated pixel, authentic pixel) in the right order; ties count half.
    below = np.cumsum(authentic, axis=1) - authentic
    ordered = (manipulated * (below + authentic / 2)).sum(axis=1)
    precise = (manipulated * curves["precision"]).sum(axis=1)
    return (
        at
        | {
            "pixel_auc": ratio(ordered, positive.astype(float) * negative),
            "pixel_ap": ratio(precise, positive),
        }
        | oracle
        | {
            "pixel_threshold_oracle": np.where(empty, np.nan, thresholds[cut]),
            "pixel_f1_inverse": measures(missed, right, positive, negative)["f1"],
            "mask_area": ratio(positive, positive + negative),
            "predicted_area": ratio(tp[:, first] + fp[:, first], positive + negative),
        }
    )


def away_from_borders(
    inner_histograms: Integer[np.ndarray, "N 2 256"], threshold: float = 0.5
) -> dict[str, Float[np.ndarray, "N"]]:
    """TruFor's F1 of each image, of the better of the map and its inverse.

    `pixel_f1` at the threshold, `pixel_f1_oracle` at the image's own best one, both
    over the pixels that `inner_histogram` counts. As in its code: where no manipulated
    pixel is left, 0, but NaN at the threshold if mask and map are all of one class.
    """
    authentic, manipulated = inner_histograms.astype(np.int64).transpose(1, 0, 2)
    positive, negative = manipulated.sum(axis=1), authentic.sum(axis=1)
    tp, fp = _called(manipulated), _called(authentic)
    of = lambda tp, fp: ratio(2 * tp, positive[:, None] + tp + fp, empty=0.0)
    curve = np.maximum(
        of(tp, fp), of(positive[:, None] - tp, negative[:, None] - fp)
    )  # n 256
    # Its last cut is above every value: nothing is called, or everything inversely.
    best = np.maximum(curve.max(axis=1), ratio(2 * positive, 2 * positive + negative))
    first = first_bin(threshold)
    called = tp[:, first] + fp[:, first]
    both = (positive + called > 0) & (negative + positive + negative - called > 0)
    return {
        "pixel_f1": np.where(both, curve[:, first], np.nan),
        "pixel_f1_oracle": np.where(positive + negative > 0, best, np.nan),
    }


def curve_sums(
    histograms: Integer[np.ndarray, "N 3 256"], weights: Num[np.ndarray, "R N"]
) -> dict[str, Float[np.ndarray, "R 256"]]:
    """Sums over the images of each measure at each of the 256 cuts, weighted.

    A measure without meaning counts 0; every image should have a manipulated pixel.
    """
    sums = {name: np.zeros((len(weights), BINS)) for name in MEASURES}
    start = 0
    for chunk in _chunks(histograms):
        manipulated, authentic = split(chunk)
        positive = manipulated.sum(axis=1, keepdims=True)
        negative = authentic.sum(axis=1, keepdims=True)
        curves = measures(
            _called(manipulated), _called(authentic), positive, negative
        )  # n 256
        part = weights[:, start : start + len(chunk)].astype(np.float64)
        for name, curve in curves.items():
            sums[name] += part @ np.nan_to_num(curve)
        start += len(chunk)
    return sums


def best_cut(curves: Float[np.ndarray, "R 256"]) -> Integer[np.ndarray, "R"]:
    """The value at which each curve is largest, of equal ones the nearest to 0.5."""
    top = curves.max(axis=1, keepdims=True)
    ties = np.isclose(curves, top, rtol=0, atol=1e-12)
    distance = np.abs(np.arange(BINS) - BINS / 2)
    return np.argmin(np.where(ties, distance, np.inf), axis=1)


def weighted_mean(
    values: Float[np.ndarray, "N"], weights: Num[np.ndarray, "R N"]
) -> Float[np.ndarray, "R"]:
    """Means over the images that have a value, NaN where none does."""
    known = ~np.isnan(values)
    total = weights @ np.where(known, values, 0.0)
    return ratio(total, weights @ known.astype(np.float64))


def ratio(a, b, empty: float = np.nan) -> np.ndarray:
    """a / b in float64, `empty` where b is 0."""
    a, b = np.broadcast_arrays(np.asarray(a, np.float64), np.asarray(b, np.float64))
    return np.divide(a, b, out=np.full(b.shape, empty), where=b > 0)


def _called(counts):
    """How many pixels each of the 256 cuts calls manipulated, (n, 256)."""
    return counts[:, ::-1].cumsum(axis=1)[:, ::-1]


def _chunks(histograms, keep: bool = False):
    """A few hundred images at a time; `keep`: an empty chunk where there are none."""
    for start in range(0, max(len(histograms), int(keep)), _CHUNK):
        yield histograms[start : start + _CHUNK]

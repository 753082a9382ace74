"""The metrics of a data set, in the reference's protocol and in the field's."""

import numpy as np

from sdfl_jax.errors import InputError
from sdfl_jax.metrics import pixels, scores
from sdfl_jax.metrics.histograms import (
    BINS,
    constant_histograms,
    histogram,
    inner_histogram,
    threshold_at,
)
from sdfl_jax.metrics.sample import Numbers, Sample, number, plain


def report(
    mask: Numbers,
    mask_probs: Numbers,
    label: Numbers,
    score: Numbers,
    threshold: float = 0.5,
    has_mask: Numbers | None = None,
    *,
    empty_mask: str = "one",
    permute: bool = False,
) -> dict[str, dict]:
    """`from_histograms` of arrays, in all protocols; `METRICS` says what each one is.

    `mask` uint8 0-255 and `mask_probs` (float in [0, 1], or uint8 with 255 = 1), both
    N H W [1] or sequences of images of any sizes; `label` (N,) 0 or 1; `score` (N,) in
    [0, 1]; `has_mask` (N,) False for images that count in image metrics only. Raises
    `InputError` for NaN, with the place of the image, and for lengths, shapes or types
    that do not fit.
    """
    lengths = [len(mask), len(mask_probs), len(label), len(score)]
    if len(set(lengths)) > 1:
        raise InputError(
            "mask, mask_probs, label and score have lengths"
            f" {lengths}; there must be one of each per image."
        )
    tables, inner = [], []
    for i, (one_mask, one_map) in enumerate(zip(mask, mask_probs, strict=True)):
        try:
            tables.append(histogram(one_mask, one_map))
            inner.append(inner_histogram(one_mask, one_map))
        except InputError as error:
            raise InputError(f"Image {i}: {error}") from None
    histograms = np.stack(tables) if tables else np.zeros((0, 3, BINS), np.int32)
    return from_histograms(
        histograms,
        label,
        score,
        has_mask,
        threshold,
        empty_mask=empty_mask,
        permute=permute,
        inner_histograms=np.stack(inner) if inner else None,
    )


def from_histograms(
    histograms: np.ndarray,
    label: Numbers,
    score: Numbers,
    has_mask: Numbers | None = None,
    threshold: float = 0.5,
    image_threshold: float | None = None,
    *,
    empty_mask: str = "one",
    permute: bool = False,
    inner_histograms: np.ndarray | None = None,
) -> dict[str, dict]:
    """All protocols, `{"reference": ..., "standard": ..., ...}`: see `METRICS`.

    `histograms` int (N 3 256), `label`, `score` and `has_mask` (N,),
    `inner_histograms` int (N 2 256). Images without a mask count in image metrics
    only. The other settings are those of `Sample`.
    Metrics are Python numbers, None where there is nothing to average.
    """
    sample = Sample(
        histograms,
        label,
        score,
        has_mask,
        threshold,
        image_threshold,
        empty_mask,
        permute,
        inner_histograms,
    )
    return sample.by_protocol()


def rows(
    histograms: np.ndarray,
    label: Numbers,
    score: Numbers,
    has_mask: Numbers | None = None,
    threshold: float = 0.5,
) -> list[dict]:
    """One dict per image for `per_image.csv`, in the standard protocol.

    Keys `label`, `score`, `has_mask` and those of `per_image`, None where a metric has
    no meaning. Pixel metrics are those of manipulated images with a mask; authentic
    images keep `predicted_area`, which is their false-alarm area.
    """
    sample = Sample(histograms, label, score, has_mask, threshold)
    columns = {
        name: np.where(sample.scored, column, np.nan)
        for name, column in sample.columns.items()
    }
    area = sample.columns["mask_area"]
    columns["mask_area"] = np.where(sample.has_mask, area, np.nan)
    columns["predicted_area"] = sample.columns["predicted_area"]
    return [
        {
            "label": int(sample.label[i]),
            "score": float(sample.score[i]),
            "has_mask": bool(sample.has_mask[i]),
        }
        | {name: number(column[i]) for name, column in columns.items()}
        for i in range(len(sample.label))
    ]


def image_auc(label: Numbers, score: Numbers) -> float | None:
    """Area under the ROC curve over all images; None where only one class is there."""
    label, score = np.asarray(label), np.asarray(score, np.float64)
    return number(scores.ranked(label, score, np.ones((1, len(label))))["auc"][0])


# Thresholds, to be chosen on validation data


def best_image_threshold(
    label: Numbers, score: Numbers
) -> tuple[float | None, float | None]:
    """The score with the largest geometric mean of sensitivity and specificity.

    Counted over all images; of equal ones the highest. Returns the threshold and its
    geometric mean; None, None where one class is missing or none separates at all.
    """
    label, score = np.asarray(label), np.asarray(score, np.float64)
    found = scores.ranked(label, score, np.ones((1, len(label))))
    return number(found["threshold"][0]), number(found["g_mean"][0])


def best_pixel_threshold(
    histograms: np.ndarray, label: Numbers, has_mask: Numbers | None = None
) -> tuple[float | None, float | None]:
    """The threshold with the largest mean pixel F1 over manipulated images.

    All 256 cuts between values are tried, each one threshold for all images; of equal
    ones the nearest to 0.5. Returns the threshold, halfway between two values so that
    it cuts floats and uint8 alike, and the mean F1 there; None, None without a
    manipulated image that has a mask.
    """
    curve = threshold_curve(histograms, label, has_mask)["pixel_f1_manipulated"]
    if curve[0] is None:
        return None, None
    value = int(pixels.best_cut(np.asarray(curve)[None])[0])
    return threshold_at(value), curve[value]


def threshold_curve(
    histograms: np.ndarray, label: Numbers, has_mask: Numbers | None = None
) -> dict[str, list]:
    """The pixel metrics at each of the 256 cuts, as lists beside `threshold`.

    `pixel_f1_manipulated` and the other `MEASURES`, means over manipulated images;
    `false_alarm_area_authentic`; None where there are no such images.
    """
    sample = Sample(histograms, label, np.zeros(len(label)), has_mask)
    kept = sample.histograms[sample.scored]
    sums = pixels.curve_sums(kept, np.ones((1, len(kept))))
    curves = {
        f"pixel_{name}_manipulated": pixels.ratio(of_cuts[0], len(kept))
        for name, of_cuts in sums.items()
    }
    authentic = sample.histograms[sample.label == 0].sum(axis=1)
    shares = pixels.ratio(authentic, authentic.sum(axis=1, keepdims=True))
    share = pixels.ratio(shares.sum(axis=0), len(authentic))
    curves["false_alarm_area_authentic"] = share[::-1].cumsum()[::-1]
    return {"threshold": [threshold_at(value) for value in range(BINS)]} | {
        name: [number(value) for value in curve] for name, curve in curves.items()
    }


# Baselines


def baselines(
    histograms: np.ndarray,
    label: Numbers,
    has_mask: Numbers | None = None,
    centre_histograms: np.ndarray | None = None,
) -> dict[str, dict]:
    """Standard metrics of predictions made without looking, at threshold 0.5.

    `everything_manipulated` and `nothing_manipulated` follow from the masks inside the
    histograms; `centre_prior` (pixel metrics only) from the histograms of
    `centre_prior` maps on the same masks, where they are given.
    """
    n = len(label)
    result = {}
    for name, value in (("everything_manipulated", 255), ("nothing_manipulated", 0)):
        constant = constant_histograms(np.asarray(histograms), value)
        score = np.full(n, value / 255)
        result[name] = from_histograms(constant, label, score, has_mask)["standard"]
    if centre_histograms is not None:
        sample = Sample(centre_histograms, label, np.zeros(n), has_mask)
        result["centre_prior"] = plain(sample.of_pixels(sample.ones))
    return result

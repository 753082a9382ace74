"""A data set's metrics as functions of weights over its images."""

import dataclasses
import functools
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Integer, Num

from sdfl_jax.errors import InputError, valid
from sdfl_jax.metrics import pixels, scores
from sdfl_jax.metrics.histograms import BINS, first_bin, split, threshold_at
from sdfl_jax.metrics.legend import EMPTY_MASK, METRICS
from sdfl_jax.metrics.pixels import MEASURES, weighted_mean

Numbers = np.ndarray | Sequence  # one per image

PROTOCOLS = tuple(METRICS)

# The reference adds this to the denominators of its metrics.
_EPSILON = 1e-6


@dataclasses.dataclass(frozen=True)
class Sample:
    """N images, checked, and how they are to be scored: what metrics are made of.

    `threshold` cuts maps and scores alike, unless `image_threshold` is given for the
    scores. `empty_mask` (`EMPTY_MASK`) decides what F1 and IoU over all images are
    where the true mask is empty; metrics of manipulated images always leave these out.
    `permute` adds the F1 of the better of each map and its inverse. Without
    `inner_histograms` the pixel metrics of TruFor's protocol are not known.
    """

    histograms: np.ndarray  # int (N 3 256)
    label: Numbers  # (N,) 0 or 1
    score: Numbers  # (N,)
    has_mask: Numbers | None = None  # (N,), all by default
    threshold: float = 0.5
    image_threshold: float | None = None
    empty_mask: str = "one"
    permute: bool = False
    inner_histograms: np.ndarray | None = None  # int (N 2 256)

    def __post_init__(self):
        for name, value in zip(
            ("histograms", "label", "score", "has_mask"), _checked(self), strict=True
        ):
            object.__setattr__(self, name, value)
        if self.image_threshold is None:
            object.__setattr__(self, "image_threshold", self.threshold)
        if self.empty_mask not in EMPTY_MASK:
            raise InputError(
                f"No empty_mask {self.empty_mask!r};"
                f" {valid(self.empty_mask, EMPTY_MASK)}"
            )
        inner = self.inner_histograms
        if inner is not None and len(inner) != len(self.label):
            raise InputError(
                f"There are {len(inner)} inner_histograms for {len(self.label)} images."
            )

    @property
    def ones(self) -> Float[np.ndarray, "1 N"]:
        """The weights of the data set as it is."""
        return np.ones((1, len(self.label)))

    @functools.cached_property
    def scored(self) -> Bool[np.ndarray, "N"]:
        """Images labelled manipulated with a known mask and a region in it to find."""
        return with_region(self.histograms, self.label, self.has_mask)

    @functools.cached_property
    def columns(self) -> dict[str, np.ndarray]:
        """`pixels.per_image` at the threshold."""
        return pixels.per_image(self.histograms, self.threshold)

    def weighted(
        self, weights: Num[np.ndarray, "R N"], protocols: Sequence[str] = PROTOCOLS
    ) -> dict[str, dict[str, np.ndarray]]:
        """Each metric of each protocol, an array (R,), NaN where it is not defined."""
        counts = scores.confusion(self.label, self.score, self.image_threshold, weights)
        over_scores = scores.ranked(self.label, self.score, weights)
        found = {}
        if "reference" in protocols:
            found["reference"] = self._reference(weights, counts, over_scores)
        if "standard" in protocols:
            error = scores.calibration_error(self.label, self.score, weights)
            found["standard"] = (
                self.of_pixels(weights)
                | scores.at_threshold(counts)
                | {f"image_{name}": over_scores[name] for name in ("auc", "ap", "eer")}
                | {"image_ece": error}
            )
        if "benco" in protocols:
            found["benco"] = self._benco(weights) | {
                "image_f1": scores.at_threshold(counts)["image_f1"],
                "image_auc": over_scores["auc"],
                "image_accuracy": scores.at_threshold(counts)["image_accuracy"],
            }
        if "trufor" in protocols:
            balanced = scores.at_threshold(counts)["image_balanced_accuracy"]
            found["trufor"] = self._trufor(weights) | {
                "image_auc": over_scores["auc"],
                "image_balanced_accuracy": balanced,
            }
        return {
            protocol: {name: values[name] for name in self.keys(protocol)}
            for protocol, values in found.items()
        }

    def keys(self, protocol: str) -> list[str]:
        """The metrics of a protocol under these settings, in order."""
        permuted = "pixel_f1_permuted_manipulated"
        return [name for name in METRICS[protocol] if self.permute or name != permuted]

    def by_protocol(self) -> dict[str, dict]:
        """All protocols of the data set as it is: Python numbers, None, JSON."""
        found = self.weighted(self.ones)
        counts = scores.confusion(
            self.label, self.score, self.image_threshold, self.ones
        )
        return {
            "reference": {
                "n": len(self.label),
                "threshold": self.threshold,
                **plain(found["reference"]),
                "confusion": {name: int(count[0]) for name, count in counts.items()},
            },
            **{name: plain(found[name]) for name in PROTOCOLS if name != "reference"},
        }

    def of_pixels(self, weights: Num[np.ndarray, "R N"]) -> dict[str, np.ndarray]:
        """Those standard metrics (R,) that masks and maps alone decide."""
        columns, kept = self.columns, self.scored
        mean = lambda values, of=kept: weighted_mean(values[of], weights[:, of])
        names = [f"{name}{way}" for way in ("", "_oracle") for name in MEASURES]
        found = {
            f"pixel_{name}_manipulated": mean(columns[f"pixel_{name}"])
            for name in (*names, "auc", "ap")
        }
        if self.permute:
            better = np.fmax(columns["pixel_f1"], columns["pixel_f1_inverse"])
            found["pixel_f1_permuted_manipulated"] = mean(better)
        found["false_alarm_area_authentic"] = mean(
            columns["predicted_area"], self.label == 0
        )
        for name in ("f1", "iou"):
            found[f"pixel_{name}_all"] = mean(
                self._with_empty_masks(columns[f"pixel_{name}"]), self.has_mask
            )
        return found | self._over_data_set(weights[:, kept])

    def _with_empty_masks(self, values):
        """F1 or IoU of each image, where masks are empty as `empty_mask` wants it."""
        empty = self.histograms[:, 2].sum(axis=1) == 0
        if self.empty_mask == "skip":
            return np.where(empty, np.nan, values)
        one = 1.0 if self.empty_mask == "one" else 0.0
        return np.where(np.isnan(values), one, values)  # both are empty

    def _over_data_set(self, weights):
        """Pixel metrics of the scored images that are no means of single images'."""
        histograms = self.histograms[self.scored]
        sums = pixels.curve_sums(histograms, weights)
        images = weights.sum(axis=1)
        cut = pixels.best_cut(sums["f1"])
        found = {
            f"pixel_{name}_oracle_dataset_manipulated": pixels.ratio(
                np.take_along_axis(of_cuts, cut[:, None], axis=1)[:, 0], images
            )
            for name, of_cuts in sums.items()
        }
        thresholds = np.array([threshold_at(value) for value in range(BINS)])
        found["pixel_threshold_oracle_dataset"] = np.where(
            images > 0, thresholds[cut], np.nan
        )
        manipulated, authentic = split(histograms)
        first = first_bin(self.threshold)
        pool = lambda counts: weights @ counts.sum(axis=1).astype(np.float64)
        pooled = pixels.measures(
            pool(manipulated[:, first:]),
            pool(authentic[:, first:]),
            pool(manipulated),
            pool(authentic),
        )
        for name, value in pooled.items():
            found[f"pixel_{name}_pooled_manipulated"] = np.where(
                images > 0, value, np.nan
            )
        return found

    def _benco(self, weights) -> dict[str, np.ndarray]:
        """IMDL-BenCo's pixel metrics (R,): an image without a region counts 0."""
        columns, known = self.columns, self.has_mask
        empty = self.histograms[:, 2].sum(axis=1) == 0
        mean = lambda values: weighted_mean(
            np.where(empty, 0.0, values)[known], weights[:, known]
        )
        better = np.fmax(columns["pixel_f1"], columns["pixel_f1_inverse"])
        return {
            f"pixel_{name}_all": mean(columns[f"pixel_{name}"])
            for name in ("f1", "iou", "auc")
        } | {"pixel_f1_permuted_all": mean(better)}

    def _trufor(self, weights) -> dict[str, np.ndarray]:
        """TruFor's pixel metrics (R,)."""
        kept = self.scored
        if self.inner_histograms is None:
            columns = dict.fromkeys(("pixel_f1", "pixel_f1_oracle"), np.zeros(0))
            kept = np.zeros(0, np.int64)
        else:
            inner = np.asarray(self.inner_histograms)[kept]
            columns = pixels.away_from_borders(inner, self.threshold)
        return {
            f"{name}_manipulated": weighted_mean(values, weights[:, kept])
            for name, values in columns.items()
        }

    def _reference(self, weights, counts, over_scores) -> dict[str, np.ndarray]:
        """The reference's metrics (R,), with its definitions and its epsilons."""
        manipulated, authentic = split(self.histograms, reference=True)
        first = first_bin(self.threshold)
        tp = manipulated[:, first:].sum(axis=1)
        fp = authentic[:, first:].sum(axis=1)
        wrong = fp + manipulated[:, :first].sum(axis=1)
        pixel_f1 = np.where(tp + wrong == 0, 1.0, 2 * tp / (2 * tp + wrong + _EPSILON))
        mean = lambda of: weighted_mean(pixel_f1[of], weights[:, of])

        tp, tn, fp, fn = (counts[name] for name in ("tp", "tn", "fp", "fn"))
        found = {
            "pixel_f1_all": mean(self.has_mask),
            "pixel_f1_manipulated": mean(self.has_mask & (self.label == 1)),
            "image_accuracy": _damped(tp + tn, tp + tn + fp + fn),
            "sensitivity": _damped(tp, tp + fn),
            "specificity": _damped(tn, tn + fp),
            "image_auc": over_scores["auc"],
            "best_threshold": over_scores["threshold"],
            "g_mean": over_scores["g_mean"],
        }
        image_f1 = _harmonic(found["sensitivity"], found["specificity"])
        return found | {
            "image_f1_sen_spe": image_f1,
            "combined_f1": _harmonic(found["pixel_f1_all"], image_f1),
        }


def with_region(
    histograms: Integer[np.ndarray, "N 3 256"],
    label: Integer[np.ndarray, "N"],
    has_mask: Bool[np.ndarray, "N"],
) -> Bool[np.ndarray, "N"]:
    """Images labelled manipulated whose known mask has a pixel of 128 or more."""
    return (label == 1) & has_mask & (histograms[:, 2].sum(axis=1) > 0)


def plain(found: dict[str, np.ndarray], index: int = 0) -> dict[str, float | None]:
    """The metrics of one weighting as Python numbers, None for NaN."""
    return {name: number(values[index]) for name, values in found.items()}


def number(value) -> float | None:
    """A Python number, None for NaN."""
    return None if np.isnan(value) else float(value)


def _checked(sample: Sample):
    """The four arrays as int (N 3 256), int (N,), float64 (N,), bool (N,)."""
    histograms = np.asarray(sample.histograms)
    label = np.asarray(sample.label).reshape(-1)
    score = np.asarray(sample.score, np.float64).reshape(-1)
    has_mask = np.ones(len(label)) if sample.has_mask is None else sample.has_mask
    has_mask = np.asarray(has_mask).reshape(-1).astype(bool)
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
            f" finite, the first at place {np.flatnonzero(~np.isfinite(score))[0]};"
            " give one number per image."
        )
    return histograms, label.astype(np.int64), score, has_mask


def _damped(a, b):
    return np.where(b > 0, a / (b + _EPSILON), np.nan)


def _harmonic(a, b):
    return 2 * a * b / (a + b + _EPSILON)

"""The table of metrics: what each one is, in words, and which end of it is good."""

import dataclasses
import math

from sdfl_jax.metrics.pixels import MEASURES
from sdfl_jax.metrics.scores import BINS

EMPTY_MASK = {
    "one": "where the true mask is empty, 1 if the prediction is empty too, else 0",
    "zero": "where the true mask is empty, 0",
    "skip": "images whose true mask is empty are left out",
}

_WORDS = {
    "f1": "F1",
    "iou": "intersection over union",
    "precision": "precision (0 where nothing is called)",
    "recall": "recall",
    "mcc": "Matthews correlation (0 where it is 0/0)",
}
_WAYS = {
    "": "pixel {} at the threshold, mean over manipulated images",
    "_oracle": "oracle: pixel {} at each image's own threshold of largest F1, mean over"
    " manipulated images",
    "_oracle_dataset": "oracle: pixel {} at the one threshold with the largest mean F1"
    " on these very images, mean over manipulated images",
    "_pooled": "pixel {} at the threshold, over all pixels of the manipulated images"
    " together (large images weigh more)",
}


@dataclasses.dataclass(frozen=True)
class Metric:
    """`what` it is; `better`: "higher", "lower", or None for a threshold."""

    what: str
    better: str | None = "higher"

    def beats(self, value: float, other: float) -> bool:
        """Whether `value` is better than `other`; NaN beats nothing and loses to all.

        Raises `ValueError` for a metric without a good end.
        """
        if self.better is None:
            raise ValueError(f"{self.what}: has no better end.")
        if math.isnan(value) or math.isnan(other):
            return math.isnan(other) and not math.isnan(value)
        return value > other if self.better == "higher" else value < other


_LOWER = {"image_eer", "image_ece", "false_alarm_area_authentic"}
_NEITHER = {"best_threshold", "pixel_threshold_oracle_dataset"}

# By protocol and key. In `standard`, the manipulated images of a pixel metric are
# those labelled so, with a known mask that has at least one manipulated pixel.
_WHAT = {
    "reference": {
        "pixel_f1_all": "pixel F1, mean over all images with a known mask, authentic"
        " ones included; 1 where mask and prediction are both empty; any mask value but"
        " 0 is manipulated",
        "pixel_f1_manipulated": "the same over images labelled manipulated",
        "image_accuracy": "share of images called rightly",
        "sensitivity": "share of manipulated images called manipulated",
        "specificity": "share of authentic images called authentic",
        "image_f1_sen_spe": "harmonic mean of sensitivity and specificity (not F1)",
        "image_auc": "area under the ROC curve of the image scores",
        "combined_f1": "harmonic mean of pixel_f1_all and image_f1_sen_spe",
        "best_threshold": "oracle: score with the largest geometric mean of sensitivity"
        " and specificity on these very images",
        "g_mean": "oracle: that geometric mean",
    },
    "standard": {
        "pixel_f1_manipulated": _WAYS[""].format(_WORDS["f1"]),
        "pixel_iou_manipulated": _WAYS[""].format(_WORDS["iou"]),
        "pixel_auc_manipulated": "area under the ROC curve of the pixels (ties count"
        " half), mean over manipulated images with an authentic pixel",
        "image_f1": "F1 of the image scores at the threshold, over all images",
        "image_auc": "area under the ROC curve of the image scores (ties count half)",
        "pixel_ap_manipulated": "average precision of the pixels (ties are one step),"
        " mean over manipulated images",
    }
    | {
        f"pixel_{measure}{way}_manipulated": text.format(_WORDS[measure])
        for way, text in _WAYS.items()
        for measure in MEASURES
        if (way, measure) not in {("", "f1"), ("", "iou")}
    }
    | {
        "pixel_threshold_oracle_dataset": "oracle: the threshold of the metrics"
        " pixel_..._oracle_dataset_manipulated",
        "pixel_f1_all": "pixel F1 at the threshold, mean over all images with a known"
        " mask; empty masks by the empty-mask policy",
        "pixel_iou_all": "intersection over union, likewise",
        "pixel_f1_permuted_manipulated": "permuted: pixel F1 of the better of the map"
        " and its inverse, chosen by the true mask; mean over manipulated images",
        "false_alarm_area_authentic": "share of pixels called manipulated, mean over"
        " authentic images",
        "image_accuracy": "share of images called rightly at the threshold",
        "image_balanced_accuracy": "mean of the shares of manipulated and of authentic"
        " images called rightly",
        "image_precision": "share of manipulated images among those called manipulated",
        "image_recall": "share of manipulated images called manipulated",
        "image_ap": "average precision of the image scores (ties are one step)",
        "image_eer": "equal error rate: where on the ROC curve of the image scores the"
        " false-negative rate equals the false-positive rate",
        "image_ece": "expected calibration error: |mean score - share of manipulated"
        f" images| in {BINS} equal bins of the score, weighted by their images",
    },
    "benco": {
        "pixel_f1_all": "pixel F1 at the threshold, mean over all images with a known"
        " mask; 0 where the mask is empty, even if the prediction is, too",
        "pixel_iou_all": "intersection over union, likewise",
        "pixel_auc_all": "area under the ROC curve of the pixels, likewise (ties count"
        " half; in the package they count as they lie in the file)",
        "pixel_f1_permuted_all": "permuted: pixel F1 of the better of the map and its"
        " inverse, likewise (the package's mode 'double')",
        "image_f1": "F1 of the image scores at the threshold, over all images",
        "image_auc": "area under the ROC curve of the image scores (ties count half)",
        "image_accuracy": "share of images called rightly at the threshold",
    },
    "trufor": {
        "pixel_f1_manipulated": "permuted: pixel F1 at the threshold of the better of"
        " the map and its inverse, borders of the regions left out; mean over"
        " manipulated images",
        "pixel_f1_oracle_manipulated": "oracle: the same at each image's own best"
        " threshold",
        "image_auc": "area under the ROC curve of the image scores (ties count half)",
        "image_balanced_accuracy": "mean of the shares of manipulated and of authentic"
        " images called rightly",
    },
}

METRICS = {
    protocol: {
        key: Metric(
            what,
            None if key in _NEITHER else "lower" if key in _LOWER else "higher",
        )
        for key, what in of_protocol.items()
    }
    for protocol, of_protocol in _WHAT.items()
}

# What may decide which state of a training is the best: the losses that are trained
# with, and the standard metrics that have a good end and need no option.
DECISIVE = {
    "loss": Metric("the training loss, mean over the images", "lower"),
    **{
        f"loss/{term}": Metric(f"its term {term!r}, before its weight", "lower")
        for term in ("mask", "label", "edge")
    },
} | {
    key: metric
    for key, metric in METRICS["standard"].items()
    if metric.better and key != "pixel_f1_permuted_manipulated"
}

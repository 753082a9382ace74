"""Metrics from masks and scores, in the protocols of the study and of the field.

`report` takes arrays, `from_histograms` the histograms of images (`histogram`), and
`METRICS` says what each metric is. Images come one by one into histograms of 3 kB;
metrics are functions of weights over images, so the bootstrap's intervals (`intervals`,
`differences`) are the same metrics under other weights.

A pixel or an image is taken as manipulated where its value is at least the threshold.
A metric without anything to average is None: pixel metrics without a manipulated image
that has a mask; sensitivity (specificity) without manipulated (authentic) images and
what is made of it; AUC and thresholds where only one class is there.
"""

from sdfl_jax.metrics.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    differences,
    intervals,
    of_runs,
)
from sdfl_jax.metrics.histograms import (
    BINS,
    centre_prior,
    constant_histograms,
    histogram,
    inner_histogram,
    to_uint8,
)
from sdfl_jax.metrics.legend import DECISIVE, EMPTY_MASK, METRICS, Metric
from sdfl_jax.metrics.pixels import MEASURES, per_image
from sdfl_jax.metrics.protocols import (
    baselines,
    best_image_threshold,
    best_pixel_threshold,
    from_histograms,
    image_auc,
    report,
    rows,
    threshold_curve,
)
from sdfl_jax.metrics.sample import Sample

__all__ = [
    "CONFIDENCE",
    "DECISIVE",
    "EMPTY_MASK",
    "BINS",
    "MEASURES",
    "METRICS",
    "RESAMPLES",
    "Metric",
    "Sample",
    "baselines",
    "best_image_threshold",
    "best_pixel_threshold",
    "centre_prior",
    "differences",
    "constant_histograms",
    "from_histograms",
    "histogram",
    "image_auc",
    "inner_histogram",
    "intervals",
    "to_uint8",
    "of_runs",
    "per_image",
    "report",
    "rows",
    "threshold_curve",
]

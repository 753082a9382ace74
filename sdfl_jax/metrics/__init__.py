"""Figures from masks and scores, in the reference's protocol and in the field's.

`report` takes arrays, `figures` the histograms of images (`histogram`), and `FIGURES`
says what each figure is. Images come one by one into histograms of 3 kB; figures are
functions of weights over images, so the bootstrap's intervals (`intervals`, `compare`)
are the same figures under other weights.

A pixel or an image is taken as manipulated where its value is at least the threshold.
A figure without anything to average is None: pixel figures without a manipulated image
that has a mask; sensitivity (specificity) without manipulated (authentic) images and
what is made of it; AUC and thresholds where only one class is there.
"""

from sdfl_jax.metrics.bootstrap import LEVEL, RESAMPLES, compare, intervals
from sdfl_jax.metrics.histograms import (
    LEVELS,
    centre_prior,
    constant_histograms,
    histogram,
    levels,
)
from sdfl_jax.metrics.legend import EMPTY_MASK, FIGURES
from sdfl_jax.metrics.pixels import MEASURES, per_image
from sdfl_jax.metrics.protocols import (
    baselines,
    best_image_threshold,
    best_pixel_threshold,
    figures,
    image_auc,
    report,
    rows,
    threshold_curve,
)
from sdfl_jax.metrics.sample import Sample

__all__ = [
    "EMPTY_MASK",
    "FIGURES",
    "LEVEL",
    "LEVELS",
    "MEASURES",
    "RESAMPLES",
    "Sample",
    "baselines",
    "best_image_threshold",
    "best_pixel_threshold",
    "centre_prior",
    "compare",
    "constant_histograms",
    "figures",
    "histogram",
    "image_auc",
    "intervals",
    "levels",
    "per_image",
    "report",
    "rows",
    "threshold_curve",
]

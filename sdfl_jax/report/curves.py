"""Curves of image scores and pixels, each a matplotlib figure.

Every chart bears what data may lack: one class only, no masks, no validation. It then
says so in place of the curve.
"""

import os
from collections.abc import Mapping

import numpy as np
from jaxtyping import Integer, Num
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from scipy.stats import norm
from sklearn import metrics as sklearn_metrics
from sklearn.calibration import calibration_curve

from sdfl_jax import metrics
from sdfl_jax.drawing.figures import (
    CLASS_COLORS,
    CLASSES,
    COLORS,
    FAINT,
    INK,
    chart,
    printable,
    save,
    tidy,
)
from sdfl_jax.metrics.scores import BINS

_ACCENT = COLORS[0]
_HALF = 4.5  # inches: two such charts stand side by side on a page
_ONE_CLASS = "only one class: no curve"


def _square(title: str, xlabel: str, ylabel: str):
    figure = chart(4.3, _HALF)
    axes = figure.subplots()
    axes.set(xlabel=xlabel, ylabel=ylabel, aspect="equal")
    axes.set_title(title, loc="left", fontsize=11)
    tidy(axes, "both")
    return figure, axes


def _unit(axes):
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
    percent = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")
    axes.xaxis.set_major_formatter(percent)
    axes.yaxis.set_major_formatter(percent)


def _both(label) -> bool:
    return len(np.unique(label)) == 2


def _counts(label) -> str:
    authentic, manipulated = np.bincount(np.asarray(label, np.int64), minlength=2)
    return f"{manipulated:,} manipulated, {authentic:,} authentic"


# Image scores


def roc(
    label: Num[np.ndarray, "N"], score: Num[np.ndarray, "N"], title: str = "ROC"
) -> Figure:
    """Share of manipulated images found against that of false alarms."""
    figure, axes = _square(
        printable(title),
        "authentic images called manipulated",
        "manipulated images found",
    )
    _unit(axes)
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
    if not _both(label):
        axes.text(0.5, 0.55, _ONE_CLASS, ha="center", color=FAINT)
        return figure
    fpr, tpr, _ = sklearn_metrics.roc_curve(label, score)
    axes.plot(fpr, tpr, color=_ACCENT, linewidth=2)
    axes.fill_between(fpr, tpr, color=_ACCENT, alpha=0.08, linewidth=0)
    text = f"AUC {metrics.image_auc(label, score):.3f}\n{_counts(label)}"
    axes.text(0.97, 0.05, text, ha="right", color=INK, fontsize=9)
    return figure


def roc_plot(
    label: Num[np.ndarray, "N"],
    score: Num[np.ndarray, "N"],
    path: str | os.PathLike,
    title: str = "",
) -> None:
    """A PNG of `roc`."""
    save(roc(label, score, title or "Image scores"), path)


# Rates at which the axes of a DET curve are labelled.
_RATES = (0.001, 0.005, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.995)


def det(
    label: Num[np.ndarray, "N"], score: Num[np.ndarray, "N"], eer: float | None = None
) -> Figure:
    """Misses against false alarms on normal-deviate axes.

    `eer`: the equal error rate, to be marked.

    Gaussian scores of both classes give a straight line. Rates of 0 and 1 lie at
    infinity; they are drawn half an image from the end.
    """
    figure, axes = _square(
        "DET (normal-deviate axes)",
        "authentic images called manipulated",
        "manipulated images missed",
    )
    if not _both(label):
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, _ONE_CLASS, ha="center", color=FAINT)
        return figure
    authentic, manipulated = np.bincount(np.asarray(label, np.int64))
    fpr, fnr, _ = sklearn_metrics.det_curve(label, score)
    # The ends, which scikit-learn leaves out: everything called, nothing called.
    fpr, fnr = np.concatenate([[1], fpr, [0]]), np.concatenate([[0], fnr, [1]])
    edges = 0.5 / authentic, 0.5 / manipulated
    x, y = (
        norm.ppf(np.clip(rate, edge, 1 - edge))
        for rate, edge in zip((fpr, fnr), edges, strict=True)
    )
    low = norm.ppf(min(*edges, 0.02))
    axes.plot([low, -low], [low, -low], color=FAINT, linewidth=1, linestyle=":")
    axes.plot(x, y, color=_ACCENT, linewidth=2)
    if eer is not None:
        equal = norm.ppf(np.clip(eer, max(edges), 1 - max(edges)))
        axes.plot(equal, equal, "o", color=_ACCENT, markersize=6)
        axes.annotate(
            f"equal error rate {100 * eer:.1f} %",
            (equal, equal),
            (8, 6),
            textcoords="offset points",
            fontsize=9,
            color=INK,
        )
    shown = [rate for rate in _RATES if low <= norm.ppf(rate) <= -low]
    names = [f"{100 * rate:g} %" for rate in shown]
    axes.set_xticks(norm.ppf(shown), names, rotation=45)
    axes.set_yticks(norm.ppf(shown), names)
    pad = 0.03 * -low
    axes.set(xlim=(low - pad, -low + pad), ylim=(low - pad, -low + pad))
    return figure


def precision_recall(
    label: Num[np.ndarray, "N"],
    score: Num[np.ndarray, "N"],
    weight: Num[np.ndarray, "N"] | None = None,
    *,
    title: str = "Precision and recall of images",
) -> Figure:
    """Precision against recall; `weight` counts equal rows."""
    what = "images" if weight is None else "pixels"
    figure, axes = _square(
        title,
        f"recall: manipulated {what} found",
        f"precision: called {what} that are manipulated",
    )
    _unit(axes)
    if not _both(label if weight is None else label[weight > 0]):
        axes.text(0.5, 0.5, _ONE_CLASS, ha="center", color=FAINT)
        return figure
    precision, recall, _ = sklearn_metrics.precision_recall_curve(
        label, score, sample_weight=weight
    )
    average = sklearn_metrics.average_precision_score(
        label, score, sample_weight=weight
    )
    base = np.average(label, weights=weight)
    axes.axhline(base, color=FAINT, linewidth=1, linestyle=":")
    axes.text(0.01, base + 0.012, f"chance {100 * base:.0f} %", color=FAINT, fontsize=8)
    # Precision between two points follows the one with more recall: steps.
    axes.plot(recall, precision, color=_ACCENT, linewidth=2, drawstyle="steps-post")
    axes.text(
        0.97,
        0.05 if base > 0.2 else 0.9,
        f"average precision {average:.3f}",
        ha="right",
        color=INK,
        fontsize=9,
    )
    return figure


def pixel_precision_recall(histograms: Integer[np.ndarray, "N 3 256"]) -> Figure:
    """`precision_recall` of all pixels of these images pooled."""
    pooled = np.asarray(histograms, np.int64).sum(axis=0).reshape(3, metrics.BINS)
    counts = np.concatenate([pooled[0] + pooled[1], pooled[2]])
    label = np.repeat([0, 1], metrics.BINS)
    values = np.tile(np.arange(metrics.BINS), 2)
    title = "Precision and recall of pixels"
    return precision_recall(label, values, counts.astype(np.float64), title=title)


def reliability(label: Num[np.ndarray, "N"], score: Num[np.ndarray, "N"]) -> Figure:
    """What share of the images of each score is manipulated."""
    figure, axes = _square(
        "Reliability of image scores", "score", "images that are manipulated"
    )
    _unit(axes)
    axes.xaxis.set_major_formatter("{x:.1f}")
    axes.plot([0, 1], [0, 1], color=FAINT, linewidth=1, linestyle=":")
    axes.text(
        0.74,
        0.77,
        "as often as it says",
        rotation=45,
        rotation_mode="anchor",
        color=FAINT,
        fontsize=8,
        ha="center",
    )
    if not len(label):
        return figure
    if score.min() < 0 or score.max() > 1:
        axes.text(
            0.5, 0.5, "scores beyond 0 and 1: no shares", ha="center", color=FAINT
        )
        return figure
    observed, said = calibration_curve(label, score, n_bins=BINS, strategy="uniform")
    # The bins of the curve, so that sizes stand beside the right points.
    bins = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], score)
    numbers = np.bincount(bins, minlength=BINS)
    numbers = numbers[numbers > 0]
    axes.bar(
        np.arange(BINS) / BINS + 0.5 / BINS,
        0.22 * np.bincount(bins, minlength=BINS) / numbers.max(),
        0.9 / BINS,
        color=FAINT,
        alpha=0.25,
        linewidth=0,
    )
    axes.plot(said, observed, color=_ACCENT, linewidth=1.5)
    axes.scatter(
        said,
        observed,
        15 + 120 * numbers / numbers.max(),
        color=_ACCENT,
        zorder=3,
        linewidths=0,
        clip_on=False,
    )
    axes.set_xlabel("score (bars: how many images)")
    return figure


def confusion(counts: Mapping[str, int], threshold: float) -> Figure:
    """The four counts `tp`, `tn`, `fp`, `fn`, with shares of each true class."""
    table = np.array([[counts["tn"], counts["fp"]], [counts["fn"], counts["tp"]]])
    share = table / np.maximum(table.sum(axis=1, keepdims=True), 1)
    figure = chart(4.3, _HALF)
    axes = figure.subplots()
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1.15)
    for i in range(2):
        for j in range(2):
            text = f"{table[i, j]:,}\n{100 * share[i, j]:.1f} %"
            color = "white" if share[i, j] > 0.7 else INK
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize=13)
    axes.set_xticks([0, 1], [f"called\n{name}" for name in CLASSES])
    axes.set_yticks([0, 1], CLASSES, rotation=90, va="center")
    axes.set_ylabel("true class")
    axes.set_title(
        f"Confusion matrix of images at {threshold:.3g}", loc="left", fontsize=11
    )
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    return figure


def scores(
    label: Num[np.ndarray, "N"], score: Num[np.ndarray, "N"], threshold: float
) -> Figure:
    """How the scores of either class are spread."""
    figure = chart(2.6)
    axes = figure.subplots()
    low, high = score.min(initial=0), score.max(initial=1)
    for value in (0, 1):
        part = score[label == value]
        if len(part):
            axes.hist(
                part,
                np.linspace(low, high, 41),
                weights=np.full(len(part), 100 / len(part)),
                color=CLASS_COLORS[value],
                alpha=0.55,
                label=f"{CLASSES[value]} ({len(part):,})",
            )
    axes.axvline(threshold, color=INK, linewidth=1, linestyle="--")
    axes.text(
        threshold, 1.01, "threshold", transform=axes.get_xaxis_transform(), fontsize=8
    )
    axes.set(xlabel="score of the image", ylabel="% of the class", xlim=(low, high))
    if len(label):
        figure.legend(frameon=False, fontsize=9, loc="outside upper right", ncols=2)
    tidy(axes, "y")
    return figure

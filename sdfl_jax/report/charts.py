"""Charts of metrics: by threshold, kind, training step, degradation and data set."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from sdfl_jax.drawing.figures import COLORS, FAINT, INK, chart, nothing, printable, tidy

_HALF = 4.5  # inches: two such charts stand side by side on a page


def _lines(axes, x, lines: Mapping[str, Sequence], marker: str = ""):
    """Curves with their names at their right ends, moved apart where they collide."""
    ends = {}
    for color, (name, values) in zip(COLORS * 2, lines.items(), strict=False):
        y = np.array([math.nan if v is None else v for v in values], np.float64)
        if np.isfinite(y).any():
            axes.plot(x, y, f"{marker}-", color=color, linewidth=1.7, markersize=3.5)
            last = np.flatnonzero(np.isfinite(y))[-1]
            ends[name] = (x[last], y[last], color)
    rising = sorted(ends.items(), key=lambda e: e[1][1])
    places = _apart([value for _, (_, value, _) in rising], axes.get_ylim(), 0.075)
    for (name, (end, _, color)), place in zip(rising, places, strict=True):
        axes.annotate(
            name,
            (end, place),
            (6, 0),
            textcoords="offset points",
            va="center",
            color=color,
            fontsize=8,
            annotation_clip=False,
        )


def _apart(
    rising: Sequence[float], limits: tuple[float, float], gap: float
) -> list[float]:
    """Rising values, moved within the limits until none lies on another.

    `gap` is the least distance, as a share of what lies between the limits.
    """
    (low, high), moved = limits, []
    gap = min(gap, 1 / max(len(rising), 1)) * (high - low)
    for value in rising:
        moved.append(max(value, moved[-1] + gap) if moved else value)
    for i in reversed(range(len(moved))):
        moved[i] = min(moved[i], high)
        high = moved[i] - gap
    return moved


def thresholds(curve: Mapping[str, Sequence], names: Mapping[str, str]) -> Figure:
    """Metrics at every threshold; `curve` has `threshold` and a list for each key."""
    lines = {
        names.get(key, key): values
        for key, values in curve.items()
        if key != "threshold" and any(value is not None for value in values)
    }
    if not lines:
        return nothing("no metric depends on the threshold here")
    figure = chart(3.6)
    axes = figure.subplots()
    axes.set(xlabel="threshold", ylabel="metric", xlim=(0, 1), ylim=(0, 1.02))
    x = np.asarray(curve["threshold"], np.float64)
    for color, (name, values) in zip(COLORS * 2, lines.items(), strict=False):
        y = [math.nan if value is None else value for value in values]
        axes.plot(x, y, color=color, linewidth=1.7, label=name)
    # At the ends of the axis curves meet: names there would hide each other.
    figure.legend(frameon=False, fontsize=9, loc="outside right upper")
    tidy(axes, "both")
    return figure


def groups(
    values: Mapping[str, tuple[float | None, int]], xlabel: str, title: str = ""
) -> Figure:
    """Bars of one metric (0 to 1) for each group with the number of its images."""
    known = {name: pair for name, pair in values.items() if pair[0] is not None}
    if not known:
        return nothing("no group has this metric", _HALF)
    figure = chart(1.2 + 0.34 * len(known), _HALF)
    axes = figure.subplots()
    drawn = axes.barh(
        range(len(known)), [value for value, _ in known.values()], 0.7, color=COLORS[0]
    )
    labels = [f"{value:.2f}  (n = {n:,})" for value, n in known.values()]
    axes.bar_label(drawn, labels, padding=4, fontsize=8, color=INK)
    axes.set_yticks(range(len(known)), [printable(name) for name in known])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.3), xlabel=xlabel, xticks=np.linspace(0, 1, 6))
    axes.set_title(title, loc="left", fontsize=11)
    tidy(axes, "x")
    return figure


_VALIDATED = {
    "val/image_accuracy": "image accuracy",
    "val/pixel_f1_manipulated": "pixel F1",
    "val/image_auc": "image AUC",
}


def training(lines: Sequence[Mapping], step: int | None = None) -> Figure:
    """Loss, accuracy and pixel F1 over training.

    `lines` as `metrics.jsonl` holds them; `step` is that of the scored checkpoint.
    """
    if not any("loss" in line or "val/loss" in line for line in lines):
        return nothing("no losses were logged")
    figure = chart(3.4)
    left, right = figure.subplots(1, 2)
    steps, losses = _column(lines, "loss")
    if len(steps):
        left.plot(steps, losses, color=COLORS[0], linewidth=0.8, alpha=0.3)
        smooth = _running_mean(losses, max(1, len(losses) // 40))
        left.plot(steps, smooth, color=COLORS[0], linewidth=1.8, label="training")
    steps, losses = _column(lines, "val/loss")
    if len(steps):
        left.plot(
            steps, losses, "o-", color=COLORS[1], markersize=3.5, label="validation"
        )
    left.set_ylim(bottom=0)
    left.set(xlabel="step", ylabel="loss")
    left.legend(frameon=False, fontsize=9)
    right.set(xlabel="step", ylabel="validation metrics", ylim=(0, 1.02))
    steps, accuracy = _column(lines, "accuracy")
    if len(steps):
        smooth = _running_mean(accuracy, max(1, len(accuracy) // 40))
        right.plot(
            steps, smooth, color=FAINT, linewidth=1, label="image accuracy in training"
        )
        right.legend(frameon=False, fontsize=8, loc="lower right")
    shown = {}
    for key, name in _VALIDATED.items():
        steps, values = _column(lines, key)
        if len(steps):
            shown[name] = dict(zip(steps.tolist(), values.tolist(), strict=True))
    at = sorted({step for line in shown.values() for step in line})
    columns = {name: [line.get(s) for s in at] for name, line in shown.items()}
    if at:
        _lines(right, np.asarray(at), columns, "o")
    else:
        right.text(0.5, 0.5, "never validated", ha="center", color=FAINT)
    for axes in (left, right):
        tidy(axes, "y")
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        if step is not None:
            axes.axvline(step, color=INK, linewidth=1, linestyle="--", zorder=0)
    if step is not None:
        figure.suptitle(
            f"dashed: step {step:,}, which is scored here",
            fontsize=8,
            color=FAINT,
            x=0.99,
            ha="right",
        )
    return figure


def losses(runs: Mapping[str, Sequence[Mapping]]) -> Figure:
    """The loss of several runs over their steps, by name; `runs` as in `training`."""
    figure = chart(3.6)
    left, right = figure.subplots(1, 2)
    for axes, key, what in (
        (left, "loss", "training"),
        (right, "val/loss", "validation"),
    ):
        for color, (name, lines) in zip(COLORS * 2, runs.items(), strict=False):
            steps, values = _column(lines, key)
            if key == "loss" and len(values):
                values = _running_mean(values, max(1, len(values) // 40))
            axes.plot(steps, values, "o-"[len(values) > 9 :], color=color, label=name)
        axes.set(xlabel="step", ylabel=f"loss in {what}", ylim=(0, None))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        tidy(axes, "y")
    handles, labels = left.get_legend_handles_labels()
    figure.legend(
        handles, labels, frameon=False, ncols=4, fontsize=9, loc="outside lower center"
    )
    return figure


def trade_offs(
    panels: Mapping[str, Mapping[str, tuple[float, float]]], ylabel: str
) -> Figure:
    """Panels of named points: a metric against its cost, on a logarithmic axis."""
    figure = chart(4.2)
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (xlabel, points) in zip(grid, panels.items(), strict=True):
        axes.scatter(*zip(*points.values(), strict=True), color=COLORS[0], s=18)
        axes.set(xscale="log", xlabel=xlabel)
        axes.margins(x=0.1)
        tidy(axes, "both")
    grid[0].set_ylabel(ylabel)
    for axes, points in zip(grid, panels.values(), strict=True):
        rising = sorted(points.items(), key=lambda item: item[1][1])
        heights = _apart([y for _, (_, y) in rising], axes.get_ylim(), 0.05)
        for (name, point), height in zip(rising, heights, strict=True):
            axes.annotate(
                printable(name),
                point,
                (1.03, height),
                textcoords=axes.get_yaxis_transform(),  # beside the panel
                fontsize=7,
                color=INK,
                va="center",
                arrowprops={
                    "arrowstyle": "-",
                    "color": FAINT,
                    "linewidth": 0.5,
                    "relpos": (0, 0.5),  # from the name's left end
                },
            )
    return figure


def _column(lines, key):
    found = [(line["step"], line[key]) for line in lines if line.get(key) is not None]
    if not found:
        return np.zeros(0), np.zeros(0)
    steps, values = np.array(found, np.float64).T
    return steps.astype(np.int64), values


def _running_mean(values: np.ndarray, width: int) -> np.ndarray:
    """Means over `width` values to either side, as far as there are any."""
    sums = np.concatenate([[0], np.cumsum(values)])
    low = np.maximum(np.arange(len(values)) - width, 0)
    high = np.minimum(np.arange(len(values)) + width + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def robustness(
    kinds: Mapping[str, Mapping],
    names: Mapping[str, str],
    clean: Mapping[str, float | None],
) -> Figure:
    """A panel for each degradation of the images, a curve for each metric.

    `kinds` maps a way to `unit`, `strengths` and `metrics` (a list of values for each
    key); `clean` has the metrics of the images as they are, drawn as dotted lines.
    """
    columns = min(3, len(kinds))
    rows = -(-len(kinds) // columns)
    figure = chart(2.7 * rows + 0.4)
    grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
    keys = list(dict.fromkeys(k for way in kinds.values() for k in way["metrics"]))
    for axes in grid.ravel()[len(kinds) :]:
        axes.set_axis_off()
    for place, (axes, (name, way)) in enumerate(
        zip(grid.ravel(), kinds.items(), strict=False)
    ):
        x = way["strengths"]
        for color, key in zip(COLORS * 2, keys, strict=False):
            values = way["metrics"].get(key)
            if values and any(value is not None for value in values):
                y = [math.nan if value is None else value for value in values]
                label = names.get(key, key)
                axes.plot(x, y, "o-", color=color, ms=3.5, lw=1.6, label=label)
                if clean.get(key) is not None:
                    axes.axhline(clean[key], color=color, linewidth=0.9, linestyle=":")
        axes.set_xticks(x, [f"{strength:g}" for strength in x])
        if x[0] > x[-1]:
            axes.invert_xaxis()  # from the mildest on, as quality 100 to 50
        axes.set_title(printable(name), fontsize=10, loc="left")
        axes.set(xlabel=printable(way["unit"]), ylim=(0, 1.02))
        tidy(axes, "y")
        if place % columns == 0:
            axes.set_ylabel("metric")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    if handles:
        handles.append(Line2D([], [], color=FAINT, linestyle=":"))
        labels.append("undegraded images")
        figure.legend(
            handles,
            labels,
            frameon=False,
            ncols=4,
            fontsize=9,
            loc="outside lower center",
        )
    return figure


def heat_maps(
    matrices: Mapping[str, Sequence[Sequence[float | None]]],
    rows: Sequence[str],
    columns: Sequence[str],
    xlabel: str,
    ylabel: str,
) -> Figure:
    """Matrices of values from 0 to 1, by title, as colours and numbers.

    They stand side by side; a None is left white.
    """
    widest = 0.08 * max(map(len, rows), default=0)
    width = widest + len(matrices) * (0.5 + 0.85 * len(columns)) + 0.8
    figure = chart(1.5 + 0.55 * len(rows), max(width, 3))
    grid = figure.subplots(1, len(matrices), sharey=True, squeeze=False)[0]
    turned = any(len(name) > 9 for name in columns)
    for axes, (title, values) in zip(grid, matrices.items(), strict=True):
        array = np.array(
            [[math.nan if v is None else v for v in row] for row in values], np.float64
        )
        axes.imshow(array, cmap="cividis", vmin=0, vmax=1, aspect="auto")
        for i, j in np.ndindex(array.shape):
            value = array[i, j]
            text = f"{value:.2f}" if np.isfinite(value) else "-"
            # Dark colours stand for low values; what is not known is white.
            color = "white" if value < 0.55 else INK
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize=10)
        axes.set_xticks(
            range(len(columns)),
            [printable(name) for name in columns],
            rotation=25 if turned else 0,
            ha="right" if turned else "center",
        )
        axes.set_xlabel(xlabel)
        axes.set_title(printable(title), loc="left", fontsize=11)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
    grid[0].set_yticks(range(len(rows)), [printable(name) for name in rows])
    grid[0].set_ylabel(ylabel)
    return figure

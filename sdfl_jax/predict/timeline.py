"""The scores of a video over time, as a table and as a chart."""

from collections.abc import Sequence

import numpy as np

from sdfl_jax import stores
from sdfl_jax.files import write_csv

COLUMNS = ("frame", "seconds", "score", "manipulated", "manipulated_area")


def write(
    folder: stores.AnyPath, video: str, rows: Sequence[dict], threshold: float
) -> dict:
    """Writes `VIDEO.csv` and `VIDEO.png` to `folder`; returns the video's summary.

    `rows` are the lines of its frames. The summary: `video`, `frames` (looked at),
    `score` (their mean, as evaluation scores a video), `max_score`, `manipulated` (the
    mean reaches `threshold`), `manipulated_frames`, `manipulated_seconds` (from and
    to, of each stretch of frames that are), `timeline` and `chart`.
    """
    table, chart = (folder / f"{video}.{kind}" for kind in ("csv", "png"))
    write_csv(table, rows, COLUMNS)
    _draw(chart, video, rows, threshold)
    scores = [row["score"] for row in rows]
    return {
        "video": video,
        "frames": len(rows),
        "score": round(float(np.mean(scores)), 4),
        "max_score": max(scores),
        "manipulated": bool(np.mean(scores) >= threshold),
        "manipulated_frames": sum(row["manipulated"] for row in rows),
        "manipulated_seconds": stretches(rows),
        "timeline": str(table),
        "chart": str(chart),
    }


def stretches(rows: Sequence[dict]) -> list[tuple[float, float]]:
    """First and last second of each run of frames that are manipulated."""
    found, before = [], False
    for row in rows:
        if row["manipulated"]:
            start = found.pop()[0] if before else row["seconds"]
            found.append((start, row["seconds"]))
        before = row["manipulated"]
    return found


def _draw(path: stores.AnyPath, video: str, rows: Sequence[dict], threshold: float):
    from sdfl_jax.drawing import figures  # matplotlib, which a photo does not need

    seconds = np.array([row["seconds"] for row in rows])
    figure = figures.chart(3.4)
    axes = figure.subplots()
    marker = "o" if len(rows) < 60 else None
    lines = (
        ("score", figures.CLASS_COLORS[1], "-", 2, "score of the frame"),
        ("manipulated_area", figures.CLASS_COLORS[0], "-", 1.2, "share of its area"),
    )
    for key, colour, style, width, label in lines:
        values = [row[key] for row in rows]
        axes.plot(
            *(seconds, values, style),
            color=colour,
            linewidth=width,
            marker=marker,
            markersize=3,
            label=label,
        )
    half = float(np.median(np.diff(seconds))) / 2 if len(rows) > 1 else 0.02
    for i, (start, end) in enumerate(stretches(rows)):
        axes.axvspan(
            *(start - half, end + half),
            color=figures.CLASS_COLORS[1],
            alpha=0.12,
            linewidth=0,
            label=None if i else "called manipulated",
        )
    axes.axhline(threshold, color=figures.FAINT, linewidth=1, linestyle=":")
    axes.annotate(
        f"threshold {threshold:.2f}",
        (1, threshold),
        xycoords=("axes fraction", "data"),
        xytext=(4, 0),
        textcoords="offset points",
        color=figures.FAINT,
        fontsize=8,
        va="center",
    )
    axes.set(ylim=(0, 1.02), xlim=(seconds[0] - half, seconds[-1] + half))
    axes.set_xlabel("seconds")
    axes.set_title(figures.printable(f"{video}: {len(rows)} frames"), loc="left")
    axes.legend(
        frameon=False, fontsize=9, ncols=3, loc="lower right", bbox_to_anchor=(1, 1)
    )
    figures.tidy(axes, "y")
    figures.save(figure, path)

"""Figures for people: logs, tables, curves and pictures."""

import json
import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import SupportsFloat

import cv2
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn import metrics as sklearn_metrics
from tensorboardX import SummaryWriter

from sdfl_jax import metrics
from sdfl_jax.files import replacing

_TINT = np.array([230, 30, 30], np.float32)  # red: what the network calls manipulated
_INK, _FAINT, _ACCENT = "#222222", "#888888", "#c42020"


class Log:
    """Scalars to `metrics.jsonl` and TensorBoard, images to TensorBoard.

    Args:
      workdir: folder, made if it is not there.
      resume_step: lines and events of later steps are dropped, so that a run which
        goes on from here tells each step once.
    """

    def __init__(self, workdir: str | os.PathLike, resume_step: int = 0):
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        _drop_later_lines(path, resume_step)
        self._file = path.open("a", buffering=1)  # a line is on disk when it ends
        self._events = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=resume_step + 1, flush_secs=30
        )

    def write(self, step: int, scalars: Mapping[str, SupportsFloat | None]) -> None:
        """Adds one line; None and values that are not finite become null."""
        line = {"step": int(step)}
        for name, value in scalars.items():
            value = None if value is None else float(value)
            finite = value is not None and math.isfinite(value)
            line[name] = value if finite else None
            if finite:
                self._events.add_scalar(name, value, int(step))
        self._file.write(json.dumps(line, allow_nan=False) + "\n")

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Shows uint8 images (B H W 3) as one grid, about as wide as high."""
        grid = _grid(np.asarray(images))
        self._events.add_image(name, grid, int(step), dataformats="HWC")

    def close(self) -> None:
        self._file.close()
        self._events.close()


def _grid(images: np.ndarray) -> np.ndarray:
    """Images (B H W 3) row by row with grey seams, uint8 H W 3."""
    count, height, width, _ = images.shape
    columns = max(1, round(math.sqrt(count * height / width)))
    rows = -(-count // columns)
    grid = np.full((rows, height + 2, columns, width + 2, 3), 128, np.uint8)
    for i, image in enumerate(images):
        grid[i // columns, 1:-1, i % columns, 1:-1] = image
    return grid.reshape(rows * (height + 2), columns * (width + 2), 3)


def _drop_later_lines(path: Path, step: int) -> None:
    """Keeps the whole lines up to `step`; a kill may have cut the last one short."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text().splitlines():
        try:
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
        except (ValueError, KeyError, TypeError):
            continue
    with replacing(path) as beside:
        beside.write_text("".join(kept))


# Tables


def table(rows: Sequence[Mapping], columns: Sequence[str] | Mapping[str, str]) -> str:
    """Markdown, aligned in plain text too.

    `columns`: the keys to show, or a mapping of keys to headings. Floats get three
    decimals, None and missing values a dash; a column of numbers is flush right.
    """
    headings = columns if isinstance(columns, Mapping) else {c: c for c in columns}
    cells = [[_cell(row.get(key)) for key in headings] for row in rows]
    numeric = [
        all(isinstance(row.get(key), int | float | None) for row in rows)
        for key in headings
    ]
    grid = [list(headings.values()), *cells]
    widths = [max(3, *(len(line[i]) for line in grid)) for i in range(len(headings))]

    def line(values):
        padded = (
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, numeric, strict=True)
        )
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * (width - 1) + (":" if right else "-")
        for width, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join([line(grid[0]), line(rule), *(line(row) for row in cells)])


_SCORE_COLUMNS = {
    "what": "",
    "pixel_f1_manipulated": "pixel F1",
    "pixel_iou_manipulated": "pixel IoU",
    "pixel_auc_manipulated": "pixel AUC",
    "image_f1": "image F1",
    "image_auc": "image AUC",
}


def score_table(scores: Mapping) -> str:
    """The standard figures of an evaluation beside those of its baselines, Markdown.

    `scores` is what `metrics.json` holds: `standard`, `reference` and, where there
    are any, `validation_threshold`, `kinds`, `subsets` and `baselines`.
    """
    threshold = scores["reference"]["threshold"]
    rows = [{"what": f"threshold {threshold:.3g}", **scores["standard"]}]
    calibrated = scores.get("validation_threshold")
    if calibrated:
        what = f"threshold {calibrated['threshold']:.3g}, best on validation data"
        rows.append({"what": what, **calibrated["standard"]})
    for kind, figures in (scores.get("kinds") or {}).items():
        what = f"- {kind or 'of unknown kind'} ({figures['manipulated']})"
        rows.append({"what": what, **figures})
    for name, subset in (scores.get("subsets") or {}).items():
        what = f"- {name} ({subset['manipulated']})"
        rows.append({"what": what, **subset["standard"]})
        everything = subset["baselines"]["everything_manipulated"]
        rows.append({"what": f"  baseline: all of it, {name}", **everything})
    for name, figures in (scores.get("baselines") or {}).items():
        rows.append({"what": f"baseline: {name.replace('_', ' ')}", **figures})
    return table(rows, _SCORE_COLUMNS)


def _cell(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float | np.floating):
        return f"{value:.3f}"
    return str(value)


# Pictures


def overlay(image: np.ndarray, mask_probs: np.ndarray) -> np.ndarray:
    """The image (uint8 H W 3) tinted red where `mask_probs` (H W) is high, uint8.

    The line runs around what is called manipulated at 0.5.
    """
    share = metrics.levels(mask_probs)[..., None].astype(np.float32) / 255
    # Half the image stays visible even where the network is sure.
    tinted = image * (1 - 0.5 * share) + _TINT * (0.5 * share)
    tinted = np.ascontiguousarray(np.round(tinted).astype(np.uint8))
    called = (metrics.levels(mask_probs) >= 128).astype(np.uint8)
    contours, _ = cv2.findContours(called, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(image.shape[:2]) / 200))
    # A light line with a dark seam is seen on any ground.
    cv2.drawContours(tinted, contours, -1, (20, 20, 20), width + 2, cv2.LINE_AA)
    cv2.drawContours(tinted, contours, -1, (255, 220, 60), width, cv2.LINE_AA)
    return tinted


def picture_sheet(rows: Iterable[Mapping], path: str | os.PathLike, title: str) -> None:
    """A PNG with one row per example: image, mask, prediction, overlay.

    Each row has `image` uint8 H W 3, `mask` uint8 H W, `mask_probs` H W, `name`,
    `label` and optionally `score`, `has_mask` and `kind`. Images of any shape are
    fitted into cells of one size; what a row scores at 0.5 stands at its left.
    """
    rows = list(rows)
    # Inches: text, then four cells 4:3, which most photographs nearly are.
    text, cell, height, head = 1.9, 2.3, 1.73, 0.75
    size = (text + 4 * cell + 0.15, head + max(len(rows), 1) * height + 0.1)
    figure = Figure(figsize=size, dpi=110, facecolor="white")
    figure.text(
        0.15 / size[0],
        1 - 0.22 / size[1],
        _printable(title),
        parse_math=False,
        fontsize=13,
        weight="bold",
        color=_INK,
        va="center",
    )
    headings = ("image", "mask", "prediction", "overlay")
    for j, heading in enumerate(headings):
        x = (text + (j + 0.5) * cell) / size[0]
        figure.text(x, 1 - 0.58 / size[1], heading, ha="center", color=_FAINT)
    for i, row in enumerate(rows):
        top = size[1] - head - i * height
        _row_text(figure, row, 0.15 / size[0], (top - height / 2) / size[1])
        mask, probs = _plane(row["mask"]), metrics.levels(_plane(row["mask_probs"]))
        known = row.get("has_mask", True)
        panels = (
            row["image"],
            mask if known else None,
            probs,
            overlay(row["image"], probs),
        )
        for j, panel in enumerate(panels):
            gap = 0.05
            axes = figure.add_axes(
                (
                    (text + j * cell + gap) / size[0],
                    (top - height + gap) / size[1],
                    (cell - 2 * gap) / size[0],
                    (height - 2 * gap) / size[1],
                )
            )
            axes.set_axis_off()
            if panel is None:
                axes.text(0.5, 0.5, "not known", ha="center", color=_FAINT)
                continue
            axes.imshow(
                panel, cmap="gray", vmin=0, vmax=255, interpolation="antialiased"
            )
            h, w = panel.shape[:2]
            # A frame, without which an empty mask on white or black has no edge.
            axes.plot(
                [-0.5, w - 0.5, w - 0.5, -0.5, -0.5],
                [-0.5, -0.5, h - 0.5, h - 0.5, -0.5],
                color="#bbbbbb",
                linewidth=0.8,
                clip_on=False,
            )
    _save(figure, path)


def _row_text(figure, row: Mapping, x: float, y: float) -> None:
    """What the row is and how well it was found, around the height y."""
    manipulated = bool(row["label"])
    name = row.get("name", "")
    lines = textwrap.wrap(Path(name).name if name else "", 20)[:2]
    what = "manipulated" if manipulated else "authentic"
    if row.get("kind"):
        what += f" ({row['kind']})" if len(row["kind"]) < 8 else f"\n({row['kind']})"
    mask, probs = _plane(row["mask"]), _plane(row["mask_probs"])
    figures = metrics.per_image(metrics.histogram(mask, probs)[None])
    if not manipulated:
        result = f"false alarm {100 * figures['predicted_area'][0]:.1f} %"
    elif row.get("has_mask", True) and figures["mask_area"][0] > 0:
        result = f"F1 {figures['pixel_f1'][0]:.2f}"
    else:
        result = "no mask"
    details = [*lines, what]
    if row.get("score") is not None:
        details.append(f"score {row['score']:.2f}")
    figure.text(
        x, y + 0.012, result, color=_INK, fontsize=12, weight="bold", va="bottom"
    )
    text = _printable("\n".join(details))
    figure.text(x, y, text, parse_math=False, color=_FAINT, fontsize=8.5, va="top")


def roc_plot(
    label: np.ndarray, score: np.ndarray, path: str | os.PathLike, title: str = ""
) -> None:
    """A PNG of the ROC curve of image scores; says so where one class is missing."""
    figure = Figure(
        figsize=(4.6, 4.6), dpi=120, facecolor="white", layout="constrained"
    )
    axes = figure.add_subplot()
    axes.plot([0, 1], [0, 1], color=_FAINT, linewidth=1, linestyle=":")
    auc = metrics.image_auc(label, score)
    if auc is None:
        axes.text(0.5, 0.55, "only one class: no curve", ha="center", color=_FAINT)
    else:
        fpr, tpr, _ = sklearn_metrics.roc_curve(label, score)
        axes.plot(fpr, tpr, color=_ACCENT, linewidth=2)
        axes.fill_between(fpr, tpr, color=_ACCENT, alpha=0.08, linewidth=0)
        counts = np.bincount(np.asarray(label, np.int64), minlength=2)
        text = f"AUC {auc:.3f}\n{counts[1]} manipulated, {counts[0]} authentic"
        axes.text(0.97, 0.06, text, ha="right", color=_INK)
    axes.set(
        title=title or "Image scores",
        xlabel="share of authentic images called manipulated",
        ylabel="share of manipulated images found",
        xlim=(-0.01, 1.01),
        ylim=(-0.01, 1.01),
        aspect="equal",
    )
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    _save(figure, path)


def _plane(array: np.ndarray) -> np.ndarray:
    return array[..., 0] if array.ndim == 3 else array


def _printable(text: str) -> str:
    """File names may hold bytes that are no text, and dollars that are no formula."""
    return text.encode("utf-8", "replace").decode()


def _save(figure: Figure, path: str | os.PathLike) -> None:
    """Writes a PNG; figures made like this leave no global state of pyplot behind."""
    FigureCanvasAgg(figure)
    with replacing(path) as beside:
        figure.savefig(beside, format="png")

"""Overlays and sheets of pictures."""

import os
import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from sdfl_jax import metrics
from sdfl_jax.drawing.figures import FAINT, INK, frame, printable, save
from sdfl_jax.drawing.overlay import overlay


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
        printable(title),
        fontsize=13,
        weight="bold",
        color=INK,
        va="center",
    )
    headings = ("image", "mask", "prediction", "overlay")
    for j, heading in enumerate(headings):
        x = (text + (j + 0.5) * cell) / size[0]
        figure.text(x, 1 - 0.58 / size[1], heading, ha="center", color=FAINT)
    for i, row in enumerate(rows):
        top = size[1] - head - i * height
        _row_text(figure, row, 0.15 / size[0], (top - height / 2) / size[1])
        mask, probs = plane(row["mask"]), metrics.to_uint8(plane(row["mask_probs"]))
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
                axes.text(0.5, 0.5, "not known", ha="center", color=FAINT)
                continue
            axes.imshow(
                panel, cmap="gray", vmin=0, vmax=255, interpolation="antialiased"
            )
            frame(axes, *panel.shape[:2])
    save(figure, path)


def _row_text(figure, row: Mapping, x: float, y: float) -> None:
    """What the row is and how well it was found, around the height y."""
    manipulated = bool(row["label"])
    name = row.get("name", "")
    lines = textwrap.wrap(Path(name).name if name else "", 20)[:2]
    what = "manipulated" if manipulated else "authentic"
    if row.get("kind"):
        what += f" ({row['kind']})" if len(row["kind"]) < 8 else f"\n({row['kind']})"
    mask, probs = plane(row["mask"]), plane(row["mask_probs"])
    scored = metrics.per_image(metrics.histogram(mask, probs)[None])
    if not manipulated:
        result = f"false alarm {100 * scored['predicted_area'][0]:.1f} %"
    elif row.get("has_mask", True) and scored["mask_area"][0] > 0:
        result = f"F1 {scored['pixel_f1'][0]:.2f}"
    else:
        result = "no mask"
    details = [*lines, what]
    if row.get("score") is not None:
        details.append(f"score {row['score']:.2f}")
    figure.text(
        x, y + 0.012, result, color=INK, fontsize=12, weight="bold", va="bottom"
    )
    text = printable("\n".join(details))
    figure.text(x, y, text, color=FAINT, fontsize=8.5, va="top")


def plane(array: np.ndarray) -> np.ndarray:
    """H W of H W or H W 1."""
    return array[..., 0] if array.ndim == 3 else array

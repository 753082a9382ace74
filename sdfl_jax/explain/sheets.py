"""Figures of explanations: maps of one image, of its layers, and class means."""

from collections.abc import Mapping, Sequence

import cv2
import matplotlib
import numpy as np
from matplotlib.figure import Figure

from sdfl_jax.drawing.figures import FAINT, INK, frame, printable

HEADINGS = {
    "saliency": "saliency",
    "grad_cam": "Grad-CAM",
    "integrated_gradients": "integrated gradients (red for, blue against)",
    "mask": "predicted mask",
}
_LONGEST = 480  # pixels of a panel; a map of a large photo is shown smaller


def saved(method: str, plane: np.ndarray) -> np.ndarray:
    """A map as the grey picture to save, uint8 H W.

    The maximum is 255; where values are of either sign, zero is 128 and the greatest
    magnitude 1 or 255. A mask's probabilities keep their scale.
    """
    if method == "mask":
        return np.round(255 * np.clip(plane, 0, 1)).astype(np.uint8)
    top = float(np.abs(plane).max()) or 1.0
    if method == "integrated_gradients":
        return np.round(128 + 127 * plane / top).astype(np.uint8)
    return np.round(255 * np.maximum(plane, 0) / top).astype(np.uint8)


def coloured(method: str, plane: np.ndarray, image: np.ndarray | None) -> np.ndarray:
    """A map in colours, uint8 H W 3; Grad-CAM lies over a faint `image`, if given.

    The brightest 0.5 % of a gradient are cut: a few pixels would hide all others.
    """
    if method == "mask":
        return np.repeat(saved(method, plane)[..., None], 3, axis=2)
    magnitude = np.abs(plane)
    top = float(magnitude.max() if method == "grad_cam" else _high(magnitude)) or 1.0
    if method == "integrated_gradients":
        return _colours("RdBu_r", 0.5 + 0.5 * np.clip(plane / top, -1, 1))
    share = np.clip(plane / top, 0, 1)
    if method == "saliency" or image is None:
        return _colours("magma", share)
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
    opacity = 0.25 + 0.6 * share[..., None]
    mixed = (1 - opacity) * (0.6 * grey + 60) + opacity * _colours("inferno", share)
    return np.round(mixed).astype(np.uint8)


def sheet(title: str, panels: Mapping[str, np.ndarray], notes: Sequence[str]) -> Figure:
    """Panels (uint8 H W 3, of one shape) side by side under their names."""
    height, width = next(iter(panels.values())).shape[:2]
    across = 2.9
    high = float(np.clip(across * height / width, 1.2, 4.5))
    size = (max(len(panels) * (across + 0.12) + 0.12, 6.2), high + 1.0)
    figure = _figure(size, title, notes)
    for i, (name, panel) in enumerate(panels.items()):
        left = 0.12 + i * (across + 0.12)
        box = (left / size[0], 0.1 / size[1], across / size[0], high / size[1])
        axes = figure.add_axes(box)
        _show(axes, panel)
        heading = printable(HEADINGS.get(name, name))
        axes.set_title(heading, fontsize=9.5, color=INK, pad=4)
    return figure


def layer_sheet(
    title: str, views: Mapping[str, np.ndarray], channels: Mapping[str, int]
) -> Figure:
    """A row per layer: the mean over channels, then the channels that vary most.

    `views` are h w n, `channels` how many the layer has. Every picture has its own
    scale, from its least to its greatest value.
    """
    columns = max(view.shape[2] for view in views.values())
    height, width = next(iter(views.values())).shape[:2]
    across, text = 1.25, 1.9
    high = float(np.clip(across * height / width, 0.5, 2))
    size = (text + columns * (across + 0.06) + 0.1, 0.95 + len(views) * (high + 0.08))
    note = "mean over channels, then those that vary most; each with its own scale"
    figure = _figure(size, title, [note])
    for i, (name, view) in enumerate(views.items()):
        bottom = size[1] - 0.85 - (i + 1) * (high + 0.08)
        middle = (bottom + high / 2) / size[1]
        place = "x".join(str(n) for n in (*view.shape[:2], channels[name]))
        for label, y, colour, align in (
            (name, middle + 0.02 / size[1], INK, "bottom"),
            (place, middle - 0.02 / size[1], FAINT, "top"),
        ):
            figure.text(
                *(0.12 / size[0], y, printable(label)),
                fontsize=8.5,
                color=colour,
                va=align,
            )
        for j in range(view.shape[2]):
            left = (text + j * (across + 0.06)) / size[0]
            box = (left, bottom / size[1], across / size[0], high / size[1])
            _show(figure.add_axes(box), _scaled(view[..., j]), nearest=True)
    return figure


def _figure(size: tuple[float, float], title: str, notes: Sequence[str]) -> Figure:
    figure = Figure(size, dpi=110, facecolor="white")
    top, left = 1 - 0.12 / size[1], 0.12 / size[0]
    figure.text(left, top, printable(title), fontsize=11.5, color=INK, va="top")
    note = printable("  ·  ".join(notes))
    figure.text(left, top - 0.27 / size[1], note, fontsize=8.5, color=FAINT, va="top")
    return figure


def _show(axes, panel: np.ndarray, nearest: bool = False):
    axes.set_axis_off()
    scale = _LONGEST / max(panel.shape[:2])
    if scale < 1:
        size = tuple(max(1, round(scale * side)) for side in panel.shape[1::-1])
        panel = cv2.resize(panel, size, interpolation=cv2.INTER_AREA)
    axes.imshow(panel, interpolation="nearest" if nearest else "antialiased")
    frame(axes, *panel.shape[:2])


def _scaled(plane: np.ndarray) -> np.ndarray:
    least, most = float(plane.min()), float(plane.max())
    return _colours("viridis", (plane - least) / ((most - least) or 1))


def _colours(name: str, share: np.ndarray) -> np.ndarray:
    return matplotlib.colormaps[name](share, bytes=True)[..., :3]


def _high(magnitude: np.ndarray) -> float:
    return float(np.quantile(magnitude, 0.995)) or float(magnitude.max())

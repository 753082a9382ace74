"""Charts of one style."""

import io
import os
import warnings

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sdfl_jax import files
from sdfl_jax.files import replacing

INK, FAINT, GRID = "#222222", "#777777", "#eeeeee"
# Authentic and manipulated, told apart by those who see no red or no green as well.
CLASSES = ("authentic", "manipulated")
CLASS_COLORS = ("#3b76af", "#c8502d")
# For further curves, in the order of Okabe and Ito's palette for all eyes.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#222222")


def chart(height: float, width: float = 9) -> Figure:
    """An empty figure of that many inches; 9 is the width of a page."""
    size = (width, height)
    return Figure(size, dpi=110, facecolor="white", layout="constrained")


def nothing(reason: str, width: float = 9) -> Figure:
    """A figure that says why there is no chart."""
    figure = chart(1, width)
    figure.text(0.5, 0.5, reason, ha="center", va="center", color=FAINT)
    return figure


def tidy(axes, grid: str):
    """Removes the top and right spines and draws the `grid` ("x", "y", "both")."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis=grid, color=GRID)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=8)


def printable(text: str) -> str:
    """Text that matplotlib can draw: no undecodable bytes, no dollars as formulas."""
    return files.printable(text).replace("$", r"\$")


def frame(axes, height: int, width: int):
    """A line around a panel, whose border a black mask would hide."""
    x = np.array([0, width, width, 0, 0]) - 0.5
    y = np.array([0, 0, height, height, 0]) - 0.5
    axes.plot(x, y, color="#bbbbbb", linewidth=0.8, clip_on=False)


def save(figure: Figure, path: str | os.PathLike):
    """Writes a PNG; no state of pyplot is touched."""
    with replacing(path) as beside:
        _draw(figure, beside)


def _draw(figure: Figure, file, **options):
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # Names of files may be in any script; what no font has becomes a box.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from")
        figure.savefig(file, format="png", **options)


def png(figure: Figure) -> bytes:
    """The bytes of the PNG that `save` would write, sharp on dense screens."""
    buffer = io.BytesIO()
    _draw(figure, buffer, dpi=160)
    return buffer.getvalue()

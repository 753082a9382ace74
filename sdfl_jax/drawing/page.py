"""Charts of one style, and self-contained HTML pages."""

import base64
import html
import io
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence

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


# Charts


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


# Pages

# A page shows text of strangers' files. All is escaped; this lets nothing run or load
# even where an escape was forgotten.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; margin: 2rem auto;
  max-width: 62rem; padding: 0 1rem; }
img { max-width: 100%; } h2 { margin-top: 2.5rem; } h3 { margin: 1.5rem 0 .5rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .9rem .2rem 0;
  text-align: left; vertical-align: top; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; }
tr + tr { border-top: 1px solid #ddd; } .faint { color: #777; }
div.wide { overflow-x: auto; } figure { margin: 1rem 0; }
figcaption { color: #777; font-size: .85rem; }
nav a { margin-right: 1rem; white-space: nowrap; } a { color: #0b5a8f; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; }
dt { color: #777; } dd { margin: 0; overflow-wrap: anywhere; }
.cards { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1.2rem 0; }
.card { border: 1px solid #ddd; border-radius: .5rem; padding: .6rem 1rem; }
.card b { display: block; font-size: 1.6rem; line-height: 1.3; }
.card span { color: #777; font-size: .85rem; display: block; }
.pair { display: grid; gap: 1rem; grid-template-columns:
  repeat(auto-fit, minmax(min(100%, 26rem), 1fr)); }
.row { display: grid; grid-template-columns: repeat(4, 1fr); gap: .4rem;
  margin-bottom: 1rem; } .row p { grid-column: 1 / -1; margin: 0; font-size: .9rem; }
.row img { width: 100%; border: 1px solid #ccc; box-sizing: border-box; }
@media print { h2 { break-after: avoid; } .row, figure { break-inside: avoid; } }
"""


def page(title: str, parts: Iterable[str]) -> str:
    """A whole HTML document; `parts` are its HTML after the title."""
    escaped = html.escape(title)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escaped}</title><style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{escaped}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def picture(alt: str, data: bytes, kind: str = "png") -> str:
    """An `img` that carries its own bytes."""
    coded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(alt)}" src="data:image/{kind};base64,{coded}">'


def table(
    rows: Sequence[Mapping], columns: Mapping[str, str], words: Sequence[str] = ()
) -> str:
    """`columns` maps keys of a row to headings; whole numbers get commas.

    The first column and those named in `words` are flush left, the others right.
    """
    left = {next(iter(columns)), *words}
    open_tag = {key: "" if key in left else ' class="n"' for key in columns}
    cells = "".join(
        f"<th{open_tag[key]}>{html.escape(heading)}</th>"
        for key, heading in columns.items()
    )
    lines = [f"<tr>{cells}</tr>"]
    for row in rows:
        cells = "".join(
            f"<td{open_tag[key]}>{html.escape(_cell(row.get(key)))}</td>"
            for key in columns
        )
        lines.append(f"<tr>{cells}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'


def _cell(value) -> str:
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) else str(value)

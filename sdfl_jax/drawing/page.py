"""Self-contained HTML pages. They need no matplotlib, which takes long to load."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence

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

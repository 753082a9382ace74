"""`report.html` of one photograph and `index.html` of a case, each without other files.

Whatever comes out of a file is escaped.
"""

import html
import io
from collections.abc import Mapping, Sequence

import cv2
import numpy as np
from PIL import Image

from sdfl_jax.drawing import page
from sdfl_jax.drawing.overlay import thumbnail
from sdfl_jax.examine.evidence import TITLES
from sdfl_jax.examine.finding import encoded

_STYLE = """<style>
nav { display: flex; flex-wrap: wrap; }
.verdict { border: 2px solid #777; border-radius: .6rem; padding: .8rem 1.2rem;
  margin: 1.2rem 0; break-inside: avoid; }
.verdict b { font-size: 1.5rem; display: block; }
section { border-top: 1px solid #ddd; margin-top: 2rem; }
h2 { margin-top: 1rem; } ul { padding-left: 1.2rem; } li { overflow-wrap: anywhere; }
.two { display: grid; gap: 1rem; grid-template-columns:
  repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); }
.two img { width: 100%; } .two .broad { grid-column: 1 / -1; }
td { overflow-wrap: anywhere; } .case td { overflow-wrap: normal; }
.case td:nth-child(2) { overflow-wrap: anywhere; min-width: 10rem; }
table.values td { font-size: .85rem; padding-right: .8rem; }
table.values td:first-child { color: #555; }
h1 { overflow-wrap: anywhere; } img { max-height: 80vh; object-fit: contain; }
.case img { width: 6rem; min-width: 4rem; height: auto; }
p { overflow-wrap: anywhere; }
@media print { nav { display: none; }
  body { margin: 0; max-width: none; font-size: 10pt; }
  .two { grid-template-columns: 1fr 1fr; } img { max-height: 45vh; } }
@media (max-width: 40rem) { dl { grid-template-columns: 1fr; }
  dd { margin-bottom: .4rem; } }
</style>"""

CANNOT = (
    "A verdict is the network's alone, from its calibrated score. Such a network "
    "cannot find images that were wholly generated or wholly re-rendered, nor edits "
    "smaller than {side}. “No manipulation found” "
    "means that nothing like the edits it knows was seen, and nothing more. The other "
    "lines are for a person to weigh; none of them is a verdict."
)
_SMALL = "some tens of pixels across"  # of images of many sizes
_ROWS = 150  # of a table of values; evidence.json has all


def report(evidence: Mapping, pictures: Mapping[str, bytes]) -> str:
    """The page of one photograph, of what `evidence.json` holds and its pictures."""
    links = "".join(
        f'<a href="#{name}">{html.escape(TITLES[name])}</a>'
        for name in evidence["lines"]
    )
    parts = [
        _STYLE,
        f"<nav>{links}</nav>",
        _verdict(evidence),
        _terms(heading(evidence)),
    ]
    for name, line in evidence["lines"].items():
        parts.append(_section(name, line, pictures))
    return page.page(evidence["image"], parts)


def heading(evidence: Mapping) -> dict[str, str]:
    """What stands above the lines: the file, its hash, the program, the network."""
    same = "the same before and after" if evidence["unchanged"] else "CHANGED meanwhile"
    return {
        "photograph": evidence["image"],
        "SHA-256": f"{evidence['sha256_before']} ({same})",
        "program": f"sdfl_jax {evidence['version']}",
        "network": evidence["network"] or "none was asked",
        "in full": "evidence.json beside this page",
    }


def cannot(evidence: Mapping) -> str:
    """What the network cannot find, with the size of edit for this image."""
    found = evidence["lines"].get("network", {}).get("found", {})
    side = found.get("smallest_edit", 16)
    return CANNOT.format(side=f"some {side} pixels across in this image")


def _verdict(evidence: Mapping) -> str:
    verdict = evidence["verdict"]
    said = html.escape(verdict["verdict"].capitalize())
    return (
        f'<div class="verdict"><b>{said}</b><p>{html.escape(verdict["why"])}</p>'
        f'<p class="faint">{html.escape(cannot(evidence))}</p></div>'
    )


def _terms(said: Mapping[str, str]) -> str:
    pairs = "".join(
        f"<dt>{html.escape(term)}</dt><dd>{html.escape(str(value))}</dd>"
        for term, value in said.items()
    )
    return f"<dl>{pairs}</dl>"


def _section(name: str, line: Mapping, pictures: Mapping[str, bytes]) -> str:
    items = "".join(f"<li>{html.escape(text)}</li>" for text in line["summary"])
    parts = [f"<h2>{html.escape(TITLES[name])}</h2><ul>{items}</ul>"]
    shown = "".join(
        _figure(caption, pictures[file], _kind(file))
        for file, caption in line["pictures"].items()
    )
    parts.append(f'<div class="two">{shown}</div>' if shown else "")
    for word, key in (("How sure", "certainty"), ("What it cannot tell", "limits")):
        if line[key]:
            text = html.escape(line[key])
            parts.append(f'<p class="faint"><b>{word}.</b> {text}</p>')
    rows = list(flat(line["found"]))
    if rows:
        cells = "".join(
            f"<tr><td>{html.escape(key)}</td><td>{html.escape(value)}</td></tr>"
            for key, value in rows[:_ROWS]
        )
        more = len(rows) - _ROWS
        rest = f"<p>{more:,} more in evidence.json.</p>" if more > 0 else ""
        parts.append(
            f"<details><summary>{len(rows):,} value{'s' * (len(rows) != 1)}</summary>"
            f'<table class="values">{cells}</table>{rest}</details>'
        )
    return f'<section id="{name}">{"".join(parts)}</section>'


def flat(found, prefix: str = ""):
    """Each value of nested dicts and lists as text, under its dotted name."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            yield from flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(found, list) and any(isinstance(v, dict | list) for v in found):
        for number, value in enumerate(found):
            yield from flat(value, f"{prefix}.{number}")
    elif isinstance(found, list):
        yield prefix, ", ".join(map(str, found))
    elif found is not None:
        yield prefix, str(found)


def size_of(picture: bytes) -> tuple[int, int]:
    """Width and height of a picture that this program wrote."""
    with Image.open(io.BytesIO(picture)) as opened:
        return opened.size


def _figure(caption: str, picture: bytes, kind: str) -> str:
    width, height = size_of(picture)
    broad = ' class="broad"' if width > 1.6 * height else ""
    said = f"<figcaption>{html.escape(caption)}</figcaption>"
    return f"<figure{broad}>{page.picture(caption, picture, kind)}{said}</figure>"


def _kind(file: str) -> str:
    return "png" if file.endswith(".png") else "jpeg"


def index(
    rows: Sequence[Mapping], pictures: Mapping[str, bytes | None], head: str
) -> str:
    """The page over all photographs, each with a link to its own."""
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["verdict"]] = counts.get(row["verdict"], 0) + 1
    cards = "".join(
        f'<div class="card"><span>{html.escape(name)}</span><b>{number}</b></div>'
        for name, number in sorted(counts.items())
    )
    cells = [_index_cells(row, pictures[row["folder"]]) for row in rows]
    # Columns in which there is nothing would only push others out of sight.
    names = [
        name for name in (cells[0] if cells else ()) if any(one[name] for one in cells)
    ]
    heads = "".join(f"<th>{name}</th>" for name in names)
    lines = "".join(
        f"<tr>{''.join(f'<td>{one[name]}</td>' for name in names)}</tr>"
        for one in cells
    )
    parts = [
        _STYLE,
        f'<div class="cards">{cards}</div>',
        f'<div class="wide case"><table><tr>{heads}</tr>{lines}</table></div>',
        f'<p class="faint">{html.escape(CANNOT.format(side=_SMALL))}</p>',
        f'<p class="faint">The log when this page was written ended with {head}.</p>',
    ]
    return page.page(f"Case of {len(rows)} photograph{'s' * (len(rows) != 1)}", parts)


def _index_cells(row: Mapping, picture: bytes | None) -> dict[str, str]:
    """HTML by heading."""
    quality, score = row["ijg_quality"] or "", row["score"]
    if row["earlier_jpeg_quality"]:
        quality = f"{quality}, before {row['earlier_jpeg_quality']}"
    words = {
        "verdict": row["verdict"],
        "score": "" if score is None else f"{score:.3f}",
        "JPEG quality": quality,
        "copied part": "yes" if row["copy_move"] else "",
        "credentials": "" if row["provenance"] == "none" else row["provenance"],
        "camera": row["camera"],
        "software": row["software"],
        "failed": row["lines_failed"],
    }
    link = html.escape(f"{row['folder']}/report.html")
    return {
        "": page.picture("", picture, "jpeg") if picture else "",
        "photograph": f'<a href="{link}">{html.escape(row["image"])}</a>',
    } | {name: html.escape(str(word or "")) for name, word in words.items()}


def smaller(jpeg: bytes) -> bytes:
    """A JPEG file that this program wrote, at the size of an index."""
    bgr = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)
    return encoded(thumbnail(bgr[..., ::-1], 160), "index.jpg")

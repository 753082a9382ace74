"""`report.pdf` of one photograph, by fpdf2 (optional: the extra `examine`)."""

import importlib.util
import io
import re
from collections.abc import Mapping
from pathlib import Path

from sdfl_jax.examine import html_report
from sdfl_jax.examine.evidence import TITLES

_WIDTH = 180  # millimetres between the margins of A4
_VALUES = 60  # of a line's values; evidence.json has all
_LONGEST = 80  # characters of one of them
_GAP = 6  # millimetres between two pictures


def available() -> bool:
    """Whether fpdf2 is installed."""
    return importlib.util.find_spec("fpdf") is not None


def report(evidence: Mapping, pictures: Mapping[str, bytes]) -> bytes:
    """The report as a PDF file, in the order of the page and with its words."""
    from fpdf import FPDF

    class Report(FPDF):
        def footer(self):
            self.set_y(-12)
            self.set_font("body", size=8)
            self.set_text_color(120)
            said = f"SHA-256 {evidence['sha256_before']}   page {self.page_no()}"
            self.cell(0, 6, said, align="C")

    paper = Report(format="A4", unit="mm")
    paper.set_margin(15)
    paper.set_auto_page_break(True, margin=18)
    for style, file in (("", "DejaVuSans.ttf"), ("B", "DejaVuSans-Bold.ttf")):
        paper.add_font("body", style, _font(file))
    paper.set_title(_shown(evidence["image"]))
    paper.set_creator(f"sdfl_jax {evidence['version']}")
    paper.add_page()
    _write(paper, evidence["image"], 16, bold=True)
    verdict = evidence["verdict"]
    _write(paper, verdict["verdict"].capitalize(), 14, bold=True)
    _write(paper, verdict["why"], 10)
    _write(paper, html_report.cannot(evidence), 8.5, grey=90)
    for term, value in html_report.heading(evidence).items():
        _write(paper, f"{term}: {value}", 8.5)
    for name, line in evidence["lines"].items():
        _line(paper, TITLES[name], line, pictures)
    return bytes(paper.output())


def _line(paper, title: str, line: Mapping, pictures: Mapping[str, bytes]):
    paper.ln(3)
    # No heading alone at the foot of a page, nor without its pictures.
    if paper.will_page_break(110 if line["pictures"] else 25):
        paper.add_page()
    _write(paper, title, 12.5, bold=True)
    for text in line["summary"]:
        _write(paper, f"• {text}", 10)
    _pictures(
        paper, [(pictures[file], said) for file, said in line["pictures"].items()]
    )
    for word, key in (("How sure: ", "certainty"), ("What it cannot tell: ", "limits")):
        if line[key]:
            _write(paper, word + line[key], 8.5, grey=90)
    rows = list(html_report.flat(line["found"]))
    # Neither lists nor tables, which nobody reads on paper.
    rows = [row for row in rows if not re.search(r"\.\d", row[0])]
    rows = [row for row in rows if 0 < len(row[1]) <= _LONGEST]
    said = "; ".join(f"{key} = {value}" for key, value in rows[:_VALUES])
    if said:
        _write(paper, f"Values (all in evidence.json): {said}.", 6.5, grey=110)


def _pictures(paper, shown: list[tuple[bytes, str]]):
    """Broad pictures in rows of their own, others in pairs, captions underneath."""
    pair: list[tuple[bytes, str]] = []
    for one in shown:
        width, height = html_report.size_of(one[0])
        if width > 1.6 * height:
            _row(paper, pair)
            _row(paper, [one])
            pair = []
        else:
            pair.append(one)
            if len(pair) == 2:
                _row(paper, pair)
                pair = []
    _row(paper, pair)


def _row(paper, shown: list[tuple[bytes, str]]):
    if not shown:
        return
    column = (_WIDTH - _GAP) / 2
    sizes = []
    for data, _ in shown:
        width, height = html_report.size_of(data)
        widest = column if width <= 1.6 * height else 150
        scale = min(widest / width, 95 / height)
        sizes.append((width * scale, height * scale))
    tallest = max(height for _, height in sizes)
    if paper.will_page_break(tallest + 16):
        paper.add_page()
    top, bottom = paper.get_y() + 1, 0.0
    for number, ((data, caption), (width, height)) in enumerate(
        zip(shown, sizes, strict=True)
    ):
        left = paper.l_margin + number * (column + _GAP)
        paper.image(io.BytesIO(data), x=left, y=top, w=width, h=height)
        paper.set_xy(left, top + tallest + 1)
        _set(paper, 7.5, grey=110)
        room = column if len(shown) == 2 else _WIDTH
        paper.multi_cell(room, 7.5 * 0.5, _shown(caption), align="L")
        bottom = max(bottom, paper.get_y())
    paper.set_xy(paper.l_margin, bottom + 1)


def _write(paper, text: str, size: float, *, bold: bool = False, grey: int = 20):
    _set(paper, size, bold=bold, grey=grey)
    paper.set_x(paper.l_margin)
    paper.multi_cell(_WIDTH, size * 0.5, _shown(text), align="L")
    paper.set_x(paper.l_margin)


def _set(paper, size: float, *, bold: bool = False, grey: int = 20):
    paper.set_font("body", "B" if bold else "", size)
    paper.set_text_color(grey)


def _shown(text: str) -> str:
    """Text with what the font does not have shown as a box's stand-in."""
    return "".join(c if ord(c) < 0x10000 else "?" for c in str(text))


def _font(file: str) -> Path:
    """A font with many scripts that ships with matplotlib, which is not loaded."""
    package = importlib.util.find_spec("matplotlib")
    return Path(package.origin).parent / "mpl-data/fonts/ttf" / file

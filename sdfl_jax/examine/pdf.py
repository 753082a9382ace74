"""`report.pdf` of one photograph, by fpdf2 (optional: the extra `examine`)."""

import importlib.util
import io
from collections.abc import Mapping
from pathlib import Path

from sdfl_jax.examine import page
from sdfl_jax.examine.evidence import TITLES

_WIDTH = 180  # millimetres between the margins of A4
_VALUES = 60  # of a line's values; evidence.json has all


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
    _write(paper, page.cannot(evidence), 8.5, grey=90)
    for term, value in page.heading(evidence).items():
        _write(paper, f"{term}: {value}", 8.5)
    for name, line in evidence["lines"].items():
        _line(paper, TITLES[name], line, pictures)
    return bytes(paper.output())


def _line(paper, title: str, line: Mapping, pictures: Mapping[str, bytes]):
    paper.ln(3)
    if paper.will_page_break(25):  # no heading alone at the foot of a page
        paper.add_page()
    _write(paper, title, 12.5, bold=True)
    for text in line["summary"]:
        _write(paper, f"• {text}", 10)
    for file, caption in line["pictures"].items():
        _picture(paper, pictures[file], caption)
    for word, key in (("How sure: ", "certainty"), ("What it cannot tell: ", "limits")):
        if line[key]:
            _write(paper, word + line[key], 8.5, grey=90)
    rows = list(page.flat(line["found"]))
    said = "; ".join(f"{key} = {value[:120]}" for key, value in rows[:_VALUES])
    if said:
        more = len(rows) - _VALUES
        rest = f"; {more:,} more in evidence.json" if more > 0 else ""
        _write(paper, f"Values: {said}{rest}.", 6.5, grey=110)


def _picture(paper, data: bytes, caption: str):
    from PIL import Image

    with Image.open(io.BytesIO(data)) as picture:
        width, height = picture.size
    # At most two thirds of the text's width and 90 mm high.
    scale = min(120 / width, 90 / height)
    if paper.will_page_break(height * scale + 12):
        paper.add_page()
    paper.ln(1)
    paper.image(io.BytesIO(data), w=width * scale, h=height * scale)
    _write(paper, caption, 7.5, grey=110)


def _write(paper, text: str, size: float, *, bold: bool = False, grey: int = 20):
    paper.set_font("body", "B" if bold else "", size)
    paper.set_text_color(grey)
    paper.set_x(paper.l_margin)
    paper.multi_cell(_WIDTH, size * 0.5, _shown(text), align="L")
    paper.set_x(paper.l_margin)


def _shown(text: str) -> str:
    """Text with what the font does not have shown as a box's stand-in."""
    return "".join(c if ord(c) < 0x10000 else "?" for c in str(text))


def _font(file: str) -> Path:
    """A font with many scripts, which ships with matplotlib."""
    import matplotlib

    return Path(matplotlib.get_data_path(), "fonts/ttf", file)

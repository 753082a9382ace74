"""The line `jpeg`: tables and quality, earlier compressions, the grid of 8x8 blocks."""

import dataclasses
import io
import struct
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sdfl_jax.data import images
from sdfl_jax.drawing.overlay import thumbnail
from sdfl_jax.errors import InputError
from sdfl_jax.examine.finding import SIDE, Finding, text
from sdfl_jax.examine.structure import jpeg_segments, kind

# The example tables of the standard (ITU-T T.81, annex K), row by row.
_LUMINANCE = np.array(
    """16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56
    14 17 22 29 51 87 80 62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92
    49 64 78 87 103 121 120 101 72 92 95 98 112 100 103 99""".split(),
    int,
).reshape(8, 8)
_CHROMINANCE = np.array(
    """17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99
    47 66 99 99 99 99 99 99""".split()
    + ["99"] * 32,
    int,
).reshape(8, 8)

_SAMPLING = {
    (1, 1): "4:4:4 (none)",
    (2, 1): "4:2:2",
    (2, 2): "4:2:0",
    (1, 2): "4:4:0",
    (4, 1): "4:1:1",
}

# Frequencies whose histograms are looked at, (row, column): the first nine behind the
# mean, in which a photograph has most of its energy.
_FREQUENCIES = ((0, 1), (1, 0), (2, 0), (1, 1), (0, 2), (0, 3), (1, 2), (2, 1), (3, 0))
_WIDEST = 24  # of a histogram: coefficients beyond count at its end
_SIDE = 1536  # of the square in the middle that is looked at, in pixels
_LEAST_BLOCKS = 400
# The share of a single compression's misfit that an earlier one must take away. Of 60
# files compressed once, out of lossless photographs, none reached .03.
DOUBLE_GAIN = 0.15
_QUALITIES = range(40, 100)

_CELL = 128  # pixels: a window of the grid's map
_CLEAR = 8.0  # standard errors by which a phase must lead for its window to count


def jpeg(path: Path) -> Finding:
    """Tables, quality, sampling, traces of an earlier JPEG, the grid as a map.

    Of a picture in another format the grid alone is looked for, for it stays when a
    JPEG is saved anew.
    """
    data = images.read_bytes(path)
    name = kind(data)[0]
    found, summary = {"is_jpeg": name == "JPEG"}, []
    with Image.open(io.BytesIO(data), formats=images.FORMATS) as picture:
        if picture.size[0] * picture.size[1] > images.MAX_PIXELS:
            raise InputError(f"{picture.size[0]}x{picture.size[1]} pixels are too many")
        if name == "JPEG":
            found |= _tables(picture, jpeg_segments(data))
            summary += _said_of_tables(found)
        picture.draft("L", picture.size)  # a JPEG's colours are not decoded at all
        luminance = np.asarray(picture.convert("L"))  # as stored, not turned
    if name == "JPEG":
        found["earlier"] = earlier(path)
        summary.append(_said_of_earlier(found["earlier"]))
    else:
        summary.append(
            f"This is no JPEG file ({text(name)}): only the grid is looked at."
        )
    grid, cells = grid_map(luminance)
    found["grid"] = grid
    summary.append(_said_of_grid(grid))
    finding = Finding(
        summary,
        certainty="Tables and sampling are exact. An earlier compression is estimated: "
        "where it is claimed, the histograms of the coefficients fit it far better "
        "than a single one. A window of the grid counts where one phase leads clearly.",
        limits="Any program that saves a photograph anew compresses it again: that is "
        "no sign of a change of content. An earlier compression at the same quality, "
        "or a much better one, leaves no trace; nor does a picture that was resized. "
        "Fences, blinds and woven cloth may imitate a grid.",
        found=found,
    )
    if found.get("earlier", {}).get("histograms"):
        twice = (
            f"; orange: twice, at about quality {found['earlier']['quality']} before"
            if found["earlier"]["claimed"]
            else ""
        )
        finding.add(
            "histograms.png",
            _charts(found["earlier"]),
            "How often coefficients of the first frequencies have which size. Grey: in "
            f"this file; blue: as expected of a picture compressed once{twice}. Gaps "
            "and peaks in the grey bars come of an earlier compression.",
        )
    if grid["windows"]:
        finding.show(
            "grid.jpg",
            _drawn(luminance, cells),
            "Where the grid of 8x8 blocks lies as the file's own (green), elsewhere "
            "(orange), or cannot be told (grey).",
        )
    return finding


# Tables


def _tables(picture: Image.Image, segments: dict[str, list[bytes]]) -> dict:
    # Pillow gives them row by row, as they are applied.
    tables = {
        number: np.array(values).reshape(8, 8)
        for number, values in sorted(picture.quantization.items())
    }
    named = zip(("luminance", "chrominance"), (_LUMINANCE, _CHROMINANCE), strict=True)
    quality = {
        label: _quality(tables[number], standard)
        for number, (label, standard) in enumerate(named)
        if number in tables
    }
    frame, body = next(
        (name, bodies[0]) for name, bodies in segments.items() if name.startswith("SOF")
    )
    factors = [(byte >> 4, byte & 15) for byte in body[7::3]]
    first = factors[0] if factors else (1, 1)
    rest = factors[1] if len(factors) > 1 else first
    ratio = (first[0] // max(rest[0], 1), first[1] // max(rest[1], 1))
    restart = segments.get("DRI", [b""])[-1]
    return {
        "tables": {str(number): table.tolist() for number, table in tables.items()},
        "quality": quality,
        "process": {"SOF0": "baseline", "SOF1": "extended", "SOF2": "progressive"}.get(
            frame, frame
        ),
        "bits": body[0],
        "components": len(factors),
        "sampling": _SAMPLING.get(ratio, str(factors)) if len(factors) > 1 else "grey",
        "restart_interval": struct.unpack(">H", restart)[0] if len(restart) == 2 else 0,
        "photoshop_quality": _of_photoshop(segments),
    }


def _quality(table: np.ndarray, standard: np.ndarray) -> dict:
    """The IJG quality whose table this is, or comes nearest: `exact` tells which."""
    apart = {
        quality: float(np.abs(table - scaled(standard, quality)).mean())
        for quality in range(1, 101)
    }
    nearest = min(apart, key=lambda quality: (apart[quality], -quality))
    return {
        "ijg": nearest,
        "exact": apart[nearest] == 0,
        "mean_difference": round(apart[nearest], 2),
    }


def scaled(standard: np.ndarray, quality: int) -> np.ndarray:
    """The table that libjpeg makes of a standard one for a quality of 1 to 100."""
    percent = 5000 // quality if quality < 50 else 200 - 2 * quality
    return np.clip((standard * percent + 50) // 100, 1, 255)


def _of_photoshop(segments: dict[str, list[bytes]]) -> int | None:
    """What `Save for Web` writes of the quality it used, in its segment `Ducky`."""
    for body in segments.get("APP12", []):
        if body.startswith(b"Ducky\0\1\0\4") and len(body) >= 13:
            return int.from_bytes(body[9:13], "big")
    return None


def _said_of_tables(found: dict) -> list[str]:
    said = []
    for label, quality in found["quality"].items():
        if quality["exact"]:
            said.append(f"the {label} table is libjpeg's for quality {quality['ijg']}")
        else:
            said.append(
                f"the {label} table is none of libjpeg's: a camera's or an editor's "
                f"own (nearest quality {quality['ijg']}, "
                f"{quality['mean_difference']} apart)"
            )
    lines = ["; ".join(said).capitalize() + "."] if said else []
    restart = found["restart_interval"]
    lines.append(
        f"{found['process'].capitalize()}, chroma subsampling {found['sampling']}, "
        + (f"a restart marker every {restart} units." if restart else "no restarts.")
    )
    if found["photoshop_quality"] is not None:
        lines.append(f"Photoshop saved it for the web at {found['photoshop_quality']}.")
    return lines


# An earlier compression


def earlier(path: Path) -> dict:
    """Whether histograms of the coefficients show a compression before the last.

    Compressed twice, a coefficient was rounded to multiples of one step and then of
    another, which leaves gaps and peaks. What it was before is estimated from the
    picture itself, shifted by half a block (after Lukas and Fridrich, Estimation of
    primary quantization matrix in double compressed JPEG images, 2003). Both roundings
    are then tried on it, for the steps of each quality of libjpeg.

    Returns `looked_at` (blocks), `gain` (the share of the misfit that the best earlier
    quality takes away from a single compression), `quality` (the best one), `claimed`
    and `histograms`: of each frequency `row`, `column`, `step`, and how often its
    coefficients are 0, 1, ... either way, `seen` and as expected of `once` and `twice`.
    All but the first are None where the picture is too small or too flat.
    """
    import jpeglib  # as slow to load as all that other lines need

    with path.open("rb") as file:  # jpeglib takes no name that is not UTF-8
        coefficients = jpeglib.read_dct(f"/proc/self/fd/{file.fileno()}")
    blocks = _middle(np.asarray(coefficients.Y))  # h w 8 8
    table = np.asarray(coefficients.qt[0], np.int32)
    nothing = {"looked_at": 0, "gain": None, "quality": None, "claimed": None}
    nothing["histograms"] = None
    if blocks.shape[0] * blocks.shape[1] < _LEAST_BLOCKS:
        return nothing
    before = _shifted(blocks, table)
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 0.29, before.shape[0])  # of pixels rounded between the two
    fits = []
    for row, column in _FREQUENCIES:
        seen = _histogram(blocks[..., row, column].ravel())
        if seen[0] <= 0.97:  # beyond are nothing but zeros: no steps to see
            step = int(table[row, column])
            values = before[:, row, column]
            fits.append(_Fit(row, column, step, seen, values, noise))
    if len(fits) < 3:
        return nothing
    single = sum(fit.misfit(None) for fit in fits)
    double = {q: sum(fit.misfit(q) for fit in fits) for q in _QUALITIES}
    best = min(double, key=double.get)
    gain = 1 - double[best] / max(single, 1e-9)
    return {
        "looked_at": blocks.shape[0] * blocks.shape[1],
        "gain": round(float(gain), 3),
        "quality": best,
        "claimed": bool(gain >= DOUBLE_GAIN),
        "histograms": [fit.as_json(best) for fit in fits],
    }


@dataclasses.dataclass
class _Fit:
    """One frequency: what was seen of it, and what earlier qualities would leave."""

    row: int
    column: int
    step: int
    seen: np.ndarray
    values: np.ndarray  # N, before any rounding
    noise: np.ndarray  # N
    _known: dict[int, np.ndarray] = dataclasses.field(default_factory=dict)

    def expected(self, quality: int | None) -> np.ndarray:
        """The histogram after an earlier compression at `quality`; None for none."""
        first = 1
        if quality is not None:
            first = int(scaled(_LUMINANCE, quality)[self.row, self.column])
        if first in (1, self.step):  # the same step twice leaves no trace
            first = 1
        if first not in self._known:
            once = self.values
            if first > 1:
                once = np.rint(self.values / first) * first + self.noise
            self._known[first] = _histogram(np.rint(once / self.step))
        return self._known[first]

    def misfit(self, quality: int | None) -> float:
        """How far that is from what was seen: the sum of all differences."""
        return float(np.abs(self.expected(quality) - self.seen).sum())

    def as_json(self, quality: int) -> dict:
        listed = lambda shares: np.round(shares, 4).tolist()
        return {
            "row": self.row,
            "column": self.column,
            "step": self.step,
            "seen": listed(self.seen),
            "once": listed(self.expected(None)),
            "twice": listed(self.expected(quality)),
        }


def _middle(blocks: np.ndarray) -> np.ndarray:
    rows, columns = (min(n, _SIDE // 8) for n in blocks.shape[:2])
    top, left = (blocks.shape[0] - rows) // 2, (blocks.shape[1] - columns) // 2
    return blocks[top : top + rows, left : left + columns]


def _shifted(blocks: np.ndarray, table: np.ndarray) -> np.ndarray:
    """Coefficients N 8 8, not rounded, of the picture four pixels further each way."""
    cosines = cv2.dct(np.eye(8, dtype=np.float32), flags=cv2.DCT_ROWS).T  # u i
    rows, columns = blocks.shape[:2]
    scaled_blocks = (blocks * table).astype(np.float32)
    pixels = np.einsum(
        "hwuv,ui,vj->hiwj", scaled_blocks, cosines, cosines, optimize=True
    )
    pixels = np.clip(np.rint(pixels + 128), 0, 255) - 128
    pixels = pixels.reshape(8 * rows, 8 * columns)[4:-4, 4:-4]
    pixels = pixels.reshape(rows - 1, 8, columns - 1, 8)
    moved = np.einsum("hiwj,ui,vj->hwuv", pixels, cosines, cosines, optimize=True)
    return moved.reshape(-1, 8, 8)


def _histogram(values: np.ndarray) -> np.ndarray:
    """Shares of |value| 0, 1, ... and of what lies beyond."""
    counts = np.minimum(np.abs(values), _WIDEST).astype(np.int64)
    return np.bincount(counts, minlength=_WIDEST + 1) / len(counts)


def _said_of_earlier(found: dict) -> str:
    if found["claimed"] is None:
        return "Too small or too flat to tell whether it was compressed before."
    if found["claimed"]:
        return (
            f"It was compressed before, at about quality {found['quality']}: that "
            f"takes away {found['gain']:.0%} of a single compression's misfit."
        )
    return "No trace of an earlier compression."


def _charts(found: dict) -> bytes:
    """The histograms as a PNG file: bars of what was seen, lines of what to expect."""
    from sdfl_jax.drawing import figures  # matplotlib, which no other line needs

    shown = found["histograms"][:6]
    figure = figures.chart(4.6)
    panels = figure.subplots(2, 3, sharex=True).ravel()
    for axes, one in zip(panels, shown, strict=False):
        sizes = np.arange(1, _WIDEST)  # zeros would dwarf them, as what lies beyond
        part = slice(1, _WIDEST)
        axes.bar(
            sizes, one["seen"][part], 0.8, color=figures.GRID, edgecolor=figures.FAINT
        )
        axes.plot(sizes, one["once"][part], color=figures.COLORS[0], linewidth=1)
        if found["claimed"]:
            axes.plot(sizes, one["twice"][part], color=figures.COLORS[1], linewidth=1)
        said = f"row {one['row']}, column {one['column']}, step {one['step']}"
        axes.set_title(said, loc="left", fontsize=9)
        figures.tidy(axes, "y")
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    figure.supxlabel("size of the coefficient, in steps", fontsize=9)
    figure.supylabel("share of the blocks", fontsize=9)
    return figures.png(figure)


# The grid


def grid_map(luminance: np.ndarray) -> tuple[dict, np.ndarray]:
    """Where the grid of 8x8 blocks begins, in each window of the picture.

    Blocks leave small steps at their borders. In each window the column, and the row,
    of eight at which differences across are largest on average is taken, if it leads by
    several standard errors.

    Returns the numbers, and for each window: -1 none, 0 the picture's own grid, 1
    another one.
    """
    height, width = (n // _CELL * _CELL for n in luminance.shape)
    whole = luminance[:height, :width]
    columns, rows = _phases(whole), _phases(whole.T).transpose(1, 0, 2)
    clear = (columns[..., 1] > _CLEAR) & (rows[..., 1] > _CLEAR)
    phase = np.stack([columns[..., 0], rows[..., 0]], axis=-1).astype(int)
    own = (phase == 0).all(axis=-1)
    cells = np.where(clear, np.where(own, 0, 1), -1)
    others = phase[clear & ~own]
    origins, counts = np.unique(others, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")[:3]
    numbers = {
        "windows": int(cells.size),
        "window_pixels": _CELL,
        "own": int((cells == 0).sum()),
        "elsewhere": int((cells == 1).sum()),
        "unclear": int((cells == -1).sum()),
        "origins_elsewhere": [
            {
                "x": int(origins[i][0]),
                "y": int(origins[i][1]),
                "windows": int(counts[i]),
            }
            for i in order
        ],
    }
    return numbers, cells


def _phases(luminance: np.ndarray) -> np.ndarray:
    """Of each window the leading column of eight, and by how many standard errors."""
    rows, columns = (n // _CELL for n in luminance.shape)
    found = np.zeros((rows, columns, 2))
    for row in range(rows if columns else 0):  # at once it takes twenty times an image
        found[row] = _phases_of_row(luminance[row * _CELL : (row + 1) * _CELL])
    return found


def _phases_of_row(luminance: np.ndarray) -> np.ndarray:
    """`_phases` of one row of windows."""
    pixels = luminance.astype(np.int16)
    # How much more a step stands out than those beside it: edges of what is shown
    # are several pixels wide and stand out little.
    step = np.abs(np.diff(pixels, axis=1, prepend=pixels[:, :1]))
    beside = np.roll(step, 1, axis=1) + np.roll(step, -1, axis=1)
    out = np.clip(2 * step - beside, -16, 16).astype(np.float32)
    out[:, :2] = out[:, -1:] = 0
    wide = out.reshape(_CELL, -1, _CELL // 8, 8)
    number = _CELL * _CELL / 8
    mean = wide.mean(axis=(0, 2))  # windows across, 8
    error = np.sqrt(wide.var(axis=(0, 2)).mean(axis=-1) / number) + 1e-6
    lead = np.argmax(mean, axis=-1)
    second = np.sort(mean, axis=-1)[..., -2]
    by = (mean.max(axis=-1) - second) / error
    return np.stack([lead, by], axis=-1)


def _said_of_grid(grid: dict) -> str:
    if not grid["windows"]:
        return "Too small for a map of the grid."
    if not grid["own"] and not grid["elsewhere"]:
        return "No grid of 8x8 blocks can be seen."
    said = (
        f"The grid of 8x8 blocks lies as the file's own in {grid['own']} of "
        f"{grid['windows']} windows and cannot be told in {grid['unclear']}"
    )
    if not grid["elsewhere"]:
        return f"{said}."
    first = grid["origins_elsewhere"][0]
    return (
        f"{said}; in {grid['elsewhere']} it lies elsewhere, mostly beginning at column "
        f"{first['x']}, row {first['y']}: that part was compressed before it was "
        "moved, or the whole picture was cropped after an earlier compression."
    )


def _drawn(luminance: np.ndarray, cells: np.ndarray) -> np.ndarray:
    colours = np.array([[120, 120, 120], [40, 150, 70], [230, 120, 20]], np.uint8)
    height, width = (n * _CELL for n in cells.shape)
    base = thumbnail(luminance[:height, :width], SIDE)
    size = base.shape[::-1]
    tint = cv2.resize(colours[cells + 1], size, interpolation=cv2.INTER_NEAREST)
    base = np.repeat(base[..., None], 3, axis=2)
    return cv2.addWeighted(base, 0.55, tint, 0.45, 0)

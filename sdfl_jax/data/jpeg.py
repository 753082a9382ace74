"""JPEG files, decoded only where every row of the picture is there.

libjpeg fills what is missing with grey, and where bytes were lost goes on with what
follows in the wrong place; it only warns. It also warns of much that does no harm. So
its warnings are errors here, raised by a file that holds what makes the picture and
nothing else: it ends where the last scan does, whether or not an end marker or other
bytes follow there (phones write panoramas without one).
"""

import dataclasses
import math
import re
import struct

import imagecodecs
import numpy as np
import simplejpeg
from jaxtyping import UInt8

from sdfl_jax.errors import InputError

MAX_SCANS = 100  # of one file; progressive ones have about 10

START = b"\xff\xd8"
_END = b"\xff\xd9"

# What follows 0xFF, but for the stuffing and the restarts inside a scan.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")

_TRIES = 4  # what is left over is counted to a few bytes
_RUN = 32  # zero bytes
_RUNS = re.compile(rb"\0{32,}")

_SCAN, _TABLES, _JFIF, _ADOBE = 0xDA, 0xC4, 0xE0, 0xEE
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE = (0xC2, 0xCA)
_NO_COLOURS = {*range(0xE0, 0xF0), 0xFE} - {_JFIF, _ADOBE}  # metadata and comments


@dataclasses.dataclass(frozen=True)
class _Scan:
    """Where the numbers of a scan lie, and whether zeros may be among them."""

    begin: int
    end: int
    flat: bool


@dataclasses.dataclass
class _Layout:
    """Where the parts of a file lie.

    `segments` hold marker, begin and end. `depth`, components by 64, is the lowest bit
    that came of each coefficient, 99 for none; `before` the same but for the last scan.
    """

    frame: int = 0
    bits: int = 0
    size: tuple[int, int] = (0, 0)
    components: bytes = b""
    segments: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    scans: list[_Scan] = dataclasses.field(default_factory=list)
    shortest: dict[int, int] = dataclasses.field(default_factory=dict)
    depth: np.ndarray | None = None
    before: np.ndarray | None = None

    @property
    def complete(self) -> bool:
        return self.depth is not None and not self.depth.any()


def decode(data: bytes, room: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Fills `room`, H W 3 for RGB, H W for grey or H W 4 for CMYK, with the picture.

    `InputError`: a part of the picture is not there; how much, where that can be told.
    """
    layout = _lay_out(data)
    if not layout.complete:
        raise _damaged("scans are missing", _coarse(layout.depth))
    try:
        planes, left = _strictly(data[: layout.scans[-1].end] + _END, room), 0
    except ValueError:
        planes, left = _up_to_trailer(_stripped(data, layout), layout, room)
    _refuse_lost(data, layout, left)
    return planes


def check(data: bytes, max_pixels: int):
    """`InputError` where `decode` would raise it, in room of the file's own size."""
    layout = _lay_out(data)
    if math.prod(layout.size) > max_pixels:
        raise InputError(f"a JPEG file of more than {max_pixels:,} pixels.")
    channels = len(layout.components)
    decode(data, np.empty((*layout.size, channels)[: 2 + (channels > 1)], np.uint8))


def unreadable(data: bytes) -> str | None:
    """Why no decoder at hand reads this JPEG file; None where its header is common."""
    layout = _lay_out(data)
    if layout.frame and layout.bits != 8:
        return f"a JPEG file of {layout.bits} bits per channel; those of 8 are read"
    if layout.frame in (0xC3, *range(0xC5, 0xC8), 0xCB, *range(0xCD, 0xD0)):
        return "a lossless or hierarchical JPEG file, which is not read"
    return None


def _damaged(reason: str, share: str = "") -> InputError:
    return InputError(f"a damaged JPEG file ({reason}{share and f'; {share}'}).")


def _strictly(data: bytes, room: np.ndarray) -> np.ndarray:
    colours = {2: "GRAY", 3: "RGB", 4: "CMYK"}
    channels = room.shape[2] if room.ndim == 3 else 2
    simplejpeg.decode_jpeg(data, colours[channels], buffer=room, strict=True)
    return room


def _lay_out(data: bytes) -> _Layout:
    """Follows a file from segment to segment, up to the scan that completes it."""
    layout, position = _Layout(), 2
    while (found := _MARKER.search(data, position)) is not None:
        marker, begin = found[1][0], found.start()
        length = int.from_bytes(data[begin + 2 : begin + 4], "big")
        position = begin + 2 + length
        if marker in (0xD8, 0xD9) or length < 2 or position > len(data):
            break
        layout.segments.append((marker, begin, position))
        content = data[begin + 4 : position]
        if marker in _FRAMES and not layout.frame and len(content) > 6:
            layout.frame, layout.bits = marker, content[0]
            layout.size = struct.unpack(">HH", content[1:5])
            layout.components = content[6::3]
            layout.depth = np.full((len(layout.components), 64), 99)
        elif marker == _TABLES:
            layout.shortest |= _shortest(content)
        elif marker == _SCAN:
            if layout.depth is None or len(content) != 4 + 2 * content[0]:
                break
            found = _MARKER.search(data, position)
            end = found.start() if found else len(data)
            layout.scans.append(_Scan(position, end, _note(layout, content)))
            if len(layout.scans) > MAX_SCANS:
                raise InputError(f"a JPEG file of more than {MAX_SCANS} scans.")
            if layout.complete:
                break
            position = end
    if layout.depth is None:
        raise _damaged("truncated in its header")
    return layout


def _shortest(tables: bytes) -> dict[int, int]:
    """What the code of zeros alone stands for, by class (16 for AC) and table."""
    found = {}
    while len(tables) > 17:
        count = sum(tables[1:17])
        found[tables[0]] = tables[17]
        tables = tables[17 + count :]
    return found


def _note(layout: _Layout, header: bytes) -> bool:
    """Notes which bits of which coefficients a scan holds, by its header.

    Returns whether a flat picture may make a long run of zeros in it: where that code
    stands for no change, the scan holds bare bits or is coded arithmetically.
    """
    first, last, lowest, refines = 0, 63, 0, False
    if layout.frame in _PROGRESSIVE:
        first, last = header[-3], header[-2]
        lowest, refines = header[-1] & 15, header[-1] > 15
    layout.before = layout.depth.copy()
    for name in header[1:-3:2]:
        if name in layout.components:
            row = layout.components.index(name)
            layout.depth[row, first : last + 1] = lowest
    if layout.frame > 0xC8:
        return True
    if last == 0:  # the means of the blocks
        return refines or layout.shortest.get(header[2] >> 4, 0) < 2
    return layout.shortest.get(16 + (header[2] & 15), 1) & 15 == 0


def _stripped(data: bytes, layout: _Layout) -> bytes:
    """The file without metadata, and without what a decoder merely remarks on.

    That is bytes between its segments, versions of JFIF that there are not, and the
    range of a sequential scan, which is always all.
    """
    parts, scans = [START], iter(layout.scans)
    for marker, begin, end in layout.segments:
        segment = data[begin:end]
        if marker == _JFIF:
            segment = segment[:9] + b"\1\1" + segment[11:]
        if marker == _SCAN:
            if layout.frame not in _PROGRESSIVE:
                segment = segment[:-3] + b"\0\x3f\0"
            scan = next(scans)
            segment += data[scan.begin : scan.end]
        if marker not in _NO_COLOURS:
            parts.append(segment)
    return b"".join([*parts, _END])


def _up_to_trailer(stripped: bytes, layout: _Layout, room):
    """The picture, and how many bytes at the end of its last scan are none of it."""
    left = 0
    for _ in range(_TRIES):
        try:
            return _strictly(stripped[: len(stripped) - 2 - left] + _END, room), left
        except ValueError as error:
            message = str(error).removeprefix("Corrupt JPEG data: ")
        more = re.match(r"(\d+) extraneous bytes before marker 0xd9", message)
        if more is None:
            break
        left += int(more[1])
    raise _damaged(message, _missing(layout, stripped, room))


def _refuse_lost(data: bytes, layout: _Layout, left: int):
    """Raises `InputError` where a picture, though decoded, is not the one of the file.

    The `left` last bytes of its scan may be the trailer of a file without end marker,
    or zeros that fill it up to one. Otherwise they are left over since bytes before
    them were lost or changed. A run of zeros in the picture's own bytes took the place
    of others, but where it may say that nothing changes there.
    """
    *scans, last = layout.scans
    ends = [*(scan.end for scan in scans), last.end - left]
    parts = [
        data[scan.begin : end] for scan, end in zip(layout.scans, ends, strict=True)
    ]
    zeros = 0
    for scan, part in zip(layout.scans, parts, strict=True):
        if not scan.flat and bytes(_RUN) in part:
            zeros += sum(map(len, _RUNS.findall(part)))
    rest = data[last.end - left : last.end]
    if parts[-1].endswith(bytes(_RUN)) and rest.startswith(b"\0"):
        zeros = max(zeros, len(parts[-1]) - len(parts[-1].rstrip(b"\0")))
    if zeros:
        share = max(zeros / sum(map(len, parts)), 0.001)
        raise _damaged(
            "a part was overwritten with zeros",
            f"{share:.1%} of the picture is missing",
        )
    if any(rest) and data[last.end : last.end + 2] == _END:
        share = max(left / (last.end - last.begin), 0.001)
        raise _damaged("bytes were lost or changed", f"{share:.1%} of them fit nowhere")


def _coarse(depth: np.ndarray) -> str:
    return f"{np.mean(depth > 0):.0%} of its coefficients are absent or coarse"


def _missing(layout: _Layout, stripped: bytes, room) -> str:
    """The share of a damaged picture that is not there: the rows that stayed grey."""
    if layout.frame in _PROGRESSIVE:
        return _coarse(layout.before)
    try:
        planes = imagecodecs.jpeg8_decode(stripped, out=room)
    except Exception:
        return "nothing can be decoded"
    there = (planes.reshape(len(planes), -1) != 128).any(axis=1)  # of the rows
    rows = np.flatnonzero(there)[-1] + 1 if there.any() else 0
    share = max(1 - rows / len(there), 0.001)
    return f"{share:.1%} of the picture or more is missing"

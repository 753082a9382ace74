"""What a line of evidence gives back, and how its values are made fit to be shown."""

import dataclasses
import math
from collections.abc import Mapping

import cv2
import imagecodecs
import numpy as np

from sdfl_jax.drawing.overlay import thumbnail

SIDE = 1000  # of the pictures in a report: as wide as its page
_TEXT = 500  # characters of one value; what is longer is cut, and says so
_ITEMS = 200  # of one list or dict


@dataclasses.dataclass
class Finding:
    """One line of evidence about a photograph, which is never a verdict of its own.

    `summary`: what was found, a sentence each; `certainty`: how sure that is;
    `limits`: what it cannot tell; `found`: the same for programs, as JSON takes it;
    `pictures`: file name to encoded bytes, each with its caption in `captions`.
    """

    summary: list[str]
    certainty: str
    limits: str
    found: dict
    pictures: dict[str, bytes] = dataclasses.field(default_factory=dict)
    captions: dict[str, str] = dataclasses.field(default_factory=dict)

    def show(self, name: str, planes: np.ndarray, caption: str):
        """Adds a picture (uint8 H W or H W 3), made small enough for a page.

        `name` ends in `.png` (no loss) or `.jpg`.
        """
        self.add(name, encoded(thumbnail(planes, SIDE), name), caption)

    def add(self, name: str, data: bytes, caption: str):
        """Adds a picture that is encoded as the ending of `name` says."""
        self.pictures[name] = data
        self.captions[name] = caption


def encoded(planes: np.ndarray, name: str) -> bytes:
    """A PNG or JPEG file of uint8 H W or H W 3, as the ending of `name` says."""
    planes = np.ascontiguousarray(planes)
    if name.endswith(".png"):
        return imagecodecs.png_encode(planes, level=6)
    bgr = planes if planes.ndim == 2 else cv2.cvtColor(planes, cv2.COLOR_RGB2BGR)
    return cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


def plain(value):
    """A value of metadata as JSON takes it: text cut to length, bytes only counted.

    Lists and dicts are cut as well. A number that JSON has no word for becomes None.
    """
    if isinstance(value, Mapping):
        items = list(value.items())[:_ITEMS]
        return {text(key): plain(inner) for key, inner in items}
    if isinstance(value, list | tuple):
        items = [plain(inner) for inner in value[:_ITEMS]]
        more = len(value) - len(items)
        return [*items, f"... and {more:,} more"] if more else items
    if isinstance(value, bytes | bytearray):
        return _of_bytes(bytes(value))
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, str):
        return text(value)
    try:
        number = float(value)  # a rational of EXIF
    except (TypeError, ValueError, ZeroDivisionError):
        return text(value)
    return number if math.isfinite(number) else None


def text(value) -> str:
    """One line of printable characters, at most some hundred of them."""
    value = str(value)
    shown = "".join(c if c.isprintable() else " " for c in value[: 2 * _TEXT])
    shown = " ".join(shown.encode("utf-8", "replace").decode().split())
    if len(shown) > _TEXT or len(value) > 2 * _TEXT:
        return f"{shown[:_TEXT]}... ({len(value):,} characters)"
    return shown


def _of_bytes(value: bytes) -> str:
    trimmed = value.rstrip(b"\0")
    if len(trimmed) <= 64 and trimmed.isascii() and trimmed.decode().isprintable():
        return trimmed.decode()
    return f"({len(value):,} bytes)"

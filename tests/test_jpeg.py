"""JPEG files are read where every row is there, whatever else is right or wrong."""

import io

import numpy as np
import pytest
from PIL import Image

from sdfl_jax.data import images
from sdfl_jax.errors import InputError
from tests.fuzz import by_pillow

END = b"\xff\xd9"
ANYTHING = bytes(range(256)) * 20


def photo(height=192, width=240) -> np.ndarray:
    """Texture over a gradient."""
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).normal(0, 24, (height, width, 1))
    base = np.stack([y / 2 + 70, x / 2 + 70, 200 - y / 3 - x / 4], axis=-1)
    return np.clip(base + noise, 0, 255).astype(np.uint8)


FILES = {
    "baseline": by_pillow(photo(), "JPEG"),
    "fine": by_pillow(photo(), "JPEG", quality=98),
    "optimized": by_pillow(photo(), "JPEG", optimize=True),
    "progressive": by_pillow(photo(), "JPEG", progressive=True),
    "restarts": by_pillow(photo(), "JPEG", restart_marker_blocks=4),
    "grey": by_pillow(photo(), "JPEG", "L"),
    "cmyk": by_pillow(photo(), "JPEG", "CMYK"),
}


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[:-2],
        lambda data: data[:-2] + ANYTHING,
        lambda data: data[:-2] + bytes(5000),
        lambda data: data[:-2] + b"SEFT" + data,
        lambda data: data + ANYTHING,
        lambda data: data + data,
        lambda data: data[:-2] + bytes(20) + END,
        lambda data: data[:-2] + b"\xff" * 9 + END,
        lambda data: data[:2] + b"\xff\xe5\0\4ab" + b"junk" + data[2:],
    ],
)
def test_every_row_is_enough(kind, change):
    data = FILES[kind]
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(images.read_image(change(data)), expected)


def zeros(data: bytes, start: float, end: float) -> bytes:
    start, end = int(len(data) * start), int(len(data) * end)
    return data[:start] + bytes(end - start) + data[end:]


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(
    "change",
    [
        lambda data: data[: len(data) // 2],
        lambda data: data[: len(data) // 2] + END,
        lambda data: data[: len(data) // 2] + END + ANYTHING,
        lambda data: data[:-60] + END,
        lambda data: data[: len(data) * 6 // 10] + data[len(data) * 7 // 10 :],
        lambda data: zeros(data, 0.6, 0.7),
        lambda data: zeros(data, 0.4, 0.95),
        lambda data: zeros(data, 0.6, 1)[:-2] + END,
        lambda data: zeros(data, 0.6, 1),
        lambda data: data.replace(data[-900:-300], b"\xff" * 600),
    ],
)
def test_missing_parts_are_told(kind, change):
    with pytest.raises(InputError, match="damaged JPEG.*(%|nothing)"):
        images.read_image(change(FILES[kind]))


def test_the_missing_share_is_about_right():
    data = FILES["baseline"]
    with pytest.raises(InputError, match=r"; (4|5)\d\.\d% of the picture or more is"):
        images.read_image(data[: len(data) // 2] + END)


def test_a_progressive_file_without_its_last_scans_is_coarse():
    data = FILES["progressive"]
    with pytest.raises(InputError, match="scans are missing.*absent or coarse"):
        images.read_image(data[: data.rindex(b"\xff\xda")] + END)


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"progressive": True}])
@pytest.mark.parametrize("tail", [END, b"", ANYTHING[1:]])
def test_flat_pictures_may_hold_runs_of_zeros(options, tail):
    flat = np.full((512, 512, 3), 7, np.uint8)
    data = by_pillow(flat, "JPEG", **options)[:-2] + tail
    assert np.ptp(images.read_image(data)) == 0


def test_twelve_bits_are_named():
    data = FILES["baseline"]
    at = data.index(b"\xff\xc0") + 4
    with pytest.raises(InputError, match="a JPEG file of 12 bits per channel"):
        images.read_image(data[:at] + b"\x0c" + data[at + 1 :])

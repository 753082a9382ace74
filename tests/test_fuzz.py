"""Files of every kind are read right, and damaged ones never do harm."""

import contextlib
import gc
import re
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from sdfl_jax.data import images
from sdfl_jax.errors import InputError
from tests.fuzz import by_pillow, grey_kinds, kinds, palette_kinds, smooth, tiff

COLOURS, GREYS = kinds(smooth()), grey_kinds(smooth()[..., 0])
PALETTES = palette_kinds(smooth())
EVERYTHING = COLOURS | GREYS | PALETTES


@pytest.mark.parametrize("kind", COLOURS)
def test_colours_of_every_kind_are_the_same(kind):
    image = images.read_image(COLOURS[kind])
    mask = images.read_mask(COLOURS[kind])
    assert image.shape == (40, 60, 3) and mask.shape == (40, 60, 1)
    tolerance = 1 if kind.startswith("jpeg") else 0
    assert np.abs(image.astype(int) - smooth()).mean() <= tolerance
    assert np.abs(mask.astype(int) - smooth().max(axis=2, keepdims=True)).mean() <= 1


@pytest.mark.parametrize("kind", GREYS)
def test_greys_of_every_kind_are_the_same(kind):
    image, grey = images.read_image(GREYS[kind]), smooth()[..., :1]
    assert image.shape == (40, 60, 3)
    assert np.abs(image - grey.astype(int)).mean() <= kind.startswith("jpeg")
    assert np.abs(images.read_mask(GREYS[kind]) - grey.astype(int)).mean() <= 1


@pytest.mark.parametrize("kind", PALETTES)
def test_few_colours_come_near_the_picture(kind):
    image = images.read_image(PALETTES[kind])
    assert image.shape == (40, 60, 3)
    if "1 bit" in kind:
        assert set(np.unique(image)) == {0, 255}
    else:
        assert np.abs(image.astype(int) - smooth()).mean() < 20


@pytest.mark.parametrize("kind", EVERYTHING)
def test_truncated_files_of_every_kind_are_refused(kind):
    data = EVERYTHING[kind]
    # What the first frame needs may end before the file does, and a PNG's last 16
    # bytes say nothing about its pixels.
    last = 0.45 if "animated" in kind or "pages" in kind or kind == "gif" else 0.9
    for part in np.linspace(0.01, last, 12):
        with pytest.raises(InputError):
            images.read_image(data[: min(int(len(data) * part), len(data) - 17)])


def damage_at_random(kind: str, count: int, seconds: int):
    """In a process of its own, which a decoder could bring down."""
    command = [sys.executable, "-m", "tests.fuzz", kind, f"--count={count}"]
    command += [f"--seconds={seconds}", "--max_pixels=10000000"]
    root = Path(__file__).parent.parent
    run = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    tried, slowest, peak = re.search(
        r"(\d+) \w+, .* slowest (\S+) s, peak memory (\d+)", run.stdout
    ).groups()
    assert float(slowest) < 10 and int(peak) < 1000, run.stdout
    return int(tried)


def test_random_damage_makes_one_line_errors_only():
    damage_at_random("images", count=1500, seconds=120)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "lists", "weights"])
def test_much_random_damage_makes_one_line_errors_only(kind):
    assert damage_at_random(kind, count=10_000, seconds=1500) == 10_000


def test_broken_files_do_not_use_up_references():
    """Of None there are some thousands, and decoders in C count them."""
    gc.collect()
    before = sys.getrefcount(None)
    for kind in [kind for kind in EVERYTHING if kind.startswith("png")]:
        for part in np.linspace(0.3, 0.7, 20):
            data = EVERYTHING[kind]
            with contextlib.suppress(InputError):
                images.read_image(data[: int(len(data) * part)])
    gc.collect()
    assert sys.getrefcount(None) > before - 50  # of 200 files and more


def test_float_ranges_are_scaled_by_rule():
    def grey(values):
        return images.read_image(tiff(np.float32([values])))[0, :, 0].tolist()

    assert grey([0, 0.5, 1]) == [0, 128, 255]
    assert grey([-1, 0.25, 0.75]) == [0, 64, 191]
    assert grey([0, 0.75, 1.5]) == [0, 128, 255]  # overshoots
    assert grey([0, 12.6, 200]) == [0, 13, 200]
    assert grey([0, 500, 1000]) == [0, 128, 255]
    for bad in (np.nan, np.inf):
        with pytest.raises(InputError, match="no numbers"):
            grey([0, bad])


def png_header(width, height, depth=8, colours=2) -> bytes:
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, depth, colours, 0, 0, 0)
    head = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + head + by_pillow(smooth(), "PNG")[33:]


def sof(width, height) -> bytes:
    """A JPEG that claims another size."""
    data = by_pillow(smooth(), "JPEG")
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + struct.pack(">HH", height, width) + data[at + 4 :]


def gif(width, height) -> bytes:
    data = bytearray(PALETTES["gif"])
    data[6:10] = struct.pack("<HH", width, height)
    return bytes(data)


def bmp(width, height) -> bytes:
    data = bytearray(COLOURS["bmp"])
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def tall_tiff(name, size) -> bytes:
    """A TIFF that claims another height (tag 257, a LONG)."""
    data = EVERYTHING[name]
    at = data.index(struct.pack("<HHII", 257, 4, 1, 40))
    return data[: at + 8] + struct.pack("<I", size) + data[at + 12 :]


@pytest.mark.parametrize(
    "data, reason",
    [
        (png_header(20_000, 20_000), "20000x20000 pixels; at most 200,000,000"),
        (png_header(14_000, 14_000, 16, 6), "at most 1,200,000,000 bytes"),
        (png_header(2**31 - 1, 2**31 - 1), "cannot be decoded|pixels; at most"),
        (sof(20_000, 20_000), "20000x20000 pixels"),
        (sof(65_000, 65_000), "65000x65000 pixels"),
        (gif(20_000, 20_000), "20000x20000 pixels"),
        (bmp(20_000, 20_000), "20000x20000 pixels"),
        (bmp(2**31 - 1, 2**31 - 1), "pixels; at most"),
        (tall_tiff("tiff 16", 20_000_000), "60x20000000 pixels"),
        (tall_tiff("tiff float32", 2**32 - 1), "pixels; at most"),
        (tall_tiff("tiff 16", 400), "cannot be decoded"),
        (tall_tiff("tiff float32 lzw", 3_000_000), "at most 1,200,000,000 bytes"),
    ],
)
def test_sizes_beyond_reason_are_refused(data, reason):
    with pytest.raises(InputError, match=reason):
        images.read_image(data)


def test_progressive_jpeg_of_endless_scans_is_refused():
    data = COLOURS["jpeg progressive"]
    first = data.index(b"\xff\xda")
    scan = data[first : data.index(b"\xff\xc4", first)]
    with pytest.raises(InputError, match="more than 100 scans"):
        images.read_image(data[:first] + 10_000 * scan + data[first:])
    # What lies behind the picture, such as a film, does not count.
    images.read_image(data[:-2] + 10_000 * data[data.rindex(b"\xff\xda") : -2])
    images.read_image(data + 1000 * scan)


@pytest.mark.parametrize("shape", [(1, 1), (1, 60_000), (60_000, 1)])
def test_thin_images_are_images(shape):
    image = np.full((*shape, 3), 77, np.uint8)
    for format in ("PNG", "JPEG", "TIFF", "BMP"):
        read = images.read_image(by_pillow(image, format))
        np.testing.assert_array_equal(read, image)
        assert images.resize_image(read, 16, 16).shape == (16, 16, 3)
        assert images.resize_mask(read[..., :1], 16, 16).shape == (16, 16, 1)


def test_files_too_large_for_an_image_are_refused_unread(tmp_path, monkeypatch):
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 1000)
    (tmp_path / "large.png").write_bytes(imagecodecs.png_encode(smooth()) + bytes(1000))
    with pytest.raises(InputError, match="a file of more than 1,000 bytes"):
        images.read_image(tmp_path / "large.png")


def test_damaged_metadata_do_not_cost_the_picture():
    data = by_pillow(smooth(), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xffjunk")
    assert images.read_image(data).shape == (40, 60, 3)

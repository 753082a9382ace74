"""Compressed pictures are refused where a part of them is lost, and only there."""

import io
import struct

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from sdfl_jax.data import images
from sdfl_jax.errors import InputError
from tests.fuzz import by_pillow, heic, tiff

RNG = np.random.default_rng(0)
PHOTO = np.clip(RNG.normal(128, 40, (96, 128, 3)), 0, 255).astype(np.uint8)
ANIMATED = {"save_all": True, "append_images": [Image.fromarray(255 - PHOTO)]}

FILES = {
    "heic": heic(PHOTO, quality=80),
    "avif": by_pillow(PHOTO, "AVIF", quality=80),
    "webp": by_pillow(PHOTO, "WEBP", quality=80),
    "webp lossless": by_pillow(PHOTO, "WEBP", lossless=True),
    "webp animated": by_pillow(PHOTO, "WEBP", quality=80, **ANIMATED),
    "jpeg xl": imagecodecs.jpegxl_encode(PHOTO, level=80),
    "png": by_pillow(PHOTO, "PNG"),
    "gif": by_pillow(PHOTO, "GIF"),
    "tiff jpeg": by_pillow(PHOTO, "TIFF", compression="jpeg"),
    "tiff jpeg tiles": tiff(PHOTO, tile=(32, 32), compression="jpeg"),
    "tiff lzw": by_pillow(PHOTO, "TIFF", compression="tiff_lzw"),
    "tiff zlib": by_pillow(PHOTO, "TIFF", compression="tiff_adobe_deflate"),
    "tiff 16 zlib": tiff(PHOTO.astype(np.uint16) * 257, compression="zlib"),
    "bigtiff zlib": tiff(PHOTO, bigtiff=True, rowsperstrip=8, compression="zlib"),
}


@pytest.mark.parametrize("kind", FILES)
def test_zeros_over_any_part_are_refused(kind):
    data = FILES[kind]
    assert images.read_image(data).shape == PHOTO.shape
    # An animation's first frame is what is read.
    end = 0.4 if "animated" in kind else 0.85
    for begin in np.linspace(0.3, end - 0.1, 8):
        at, size = int(len(data) * begin), max(len(data) // 15, 64)
        with pytest.raises(InputError) as told:
            images.read_image(data[:at] + bytes(size) + data[at + size :])
        if kind.startswith(("heic", "avif", "webp", "tiff jpeg")):
            assert "% of the picture is missing" in str(told.value)


EXIF = Image.Exif()
EXIF[0xC4A5] = bytes(4000)


@pytest.mark.parametrize(
    "encode",
    [
        heic,
        lambda x: by_pillow(x, "AVIF", quality=40, speed=10),
        lambda x: by_pillow(x, "WEBP", quality=40),
        lambda x: by_pillow(x, "WEBP", lossless=True),
        lambda x: by_pillow(x, "TIFF", compression="jpeg"),
        lambda x: by_pillow(x, "TIFF", compression="tiff_adobe_deflate"),
        lambda x: by_pillow(x, "WEBP", exif=EXIF),
        lambda x: by_pillow(x, "AVIF", exif=EXIF),
    ],
)
@pytest.mark.parametrize("level", [0, 128, 255])
def test_flat_pictures_and_empty_metadata_are_whole(encode, level):
    image = images.read_image(encode(np.full((1024, 1024, 3), level, np.uint8)))
    assert np.ptp(image.astype(int)) <= 2


def test_strips_that_claim_too_much_are_refused_undecoded():
    data = bytearray(FILES["tiff jpeg"])
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    with pytest.raises(InputError, match="strips or tiles are broken"):
        images.read_image(bytes(data), max_pixels=1_000_000)


def test_a_strip_of_which_zlib_says_it_changed_is_refused():
    data = FILES["tiff zlib"]
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        end = page.dataoffsets[0] + page.databytecounts[0]
    with pytest.raises(InputError, match="1 of its . strips or tiles are broken"):
        images.read_image(data[: end - 4] + b"abcd" + data[end:])

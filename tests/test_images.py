"""Files of every kind become uint8 planes; broken ones become one line."""

import io

import cv2
import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from sdfl_jax.data import images
from sdfl_jax.errors import InputError
from tests.fuzz import by_pillow, smooth


@pytest.mark.parametrize("format", ["PNG", "TIFF", "BMP"])
def test_lossless_formats_come_back_exactly(format, tmp_path):
    path = tmp_path / "x.any"  # the content decides, not the name
    path.write_bytes(by_pillow(smooth(), format))
    np.testing.assert_array_equal(images.read_image(path), smooth())


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"optimize": True}]
)
def test_jpeg_decodes_as_pillow_does(options):
    data = by_pillow(smooth(), "JPEG", quality=90, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(images.read_image(data), expected)


def test_webp_and_gif_and_compressed_tiff_open():
    webp = images.read_image(by_pillow(smooth(), "WEBP", lossless=True))
    np.testing.assert_array_equal(webp, smooth())
    lzw = images.read_image(by_pillow(smooth(), "TIFF", compression="tiff_lzw"))
    np.testing.assert_array_equal(lzw, smooth())
    black, white = (Image.new("L", (8, 6), value) for value in (0, 255))
    file = io.BytesIO()
    white.save(file, "GIF", save_all=True, append_images=[black])
    first = images.read_image(file.getvalue())
    assert first.shape == (6, 8, 3) and first.min() == 255


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF"])
def test_grey_images_get_three_equal_channels(format):
    image = images.read_image(by_pillow(smooth(), format, mode="L"))
    assert image.shape == (40, 60, 3)
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


def test_cmyk_jpeg_becomes_the_colours_it_shows():
    image = images.read_image(by_pillow(smooth(), "JPEG", mode="CMYK", quality=98))
    assert np.abs(image.astype(int) - smooth()).mean() < 4


def test_alpha_is_dropped_and_not_blended():
    transparent = np.dstack([smooth(), np.zeros((40, 60), np.uint8)])
    for format in ("PNG", "TIFF"):
        image = images.read_image(by_pillow(transparent, format))
        np.testing.assert_array_equal(image, smooth())
    assert images.read_image(by_pillow(smooth(), "PNG", mode="LA")).shape == (40, 60, 3)


def test_palette_becomes_its_colours():
    image = np.zeros((4, 6, 3), np.uint8)
    image[:, 3:] = (10, 200, 30)
    for format in ("PNG", "GIF", "BMP"):
        data = by_pillow(image, format, mode="P")
        expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
        np.testing.assert_array_equal(images.read_image(data), expected)


def test_sixteen_bits_become_eight_by_a_shift():
    deep = smooth().astype(np.uint16) * 256 + 255
    png = images.read_image(imagecodecs.png_encode(deep))
    np.testing.assert_array_equal(png, smooth())
    grey = images.read_image(by_pillow(deep[..., 0], "TIFF"))
    np.testing.assert_array_equal(grey[..., 1], smooth()[..., 0])


def test_floating_point_tiff_in_zero_to_one_is_scaled():
    image = images.read_image(by_pillow(np.float32([[0, 0.5, 1]]), "TIFF"))
    np.testing.assert_array_equal(image[0, :, 0], [0, 128, 255])


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "TIFF", "PNG"])
def test_exif_orientation_is_applied(format, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = by_pillow(smooth(), format, exif=exif)
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()  # a TIFF turns here
        expected = np.asarray(ImageOps.exif_transpose(picture))
    np.testing.assert_array_equal(images.read_image(data), expected)


def test_one_pixel_is_an_image():
    assert images.read_image(by_pillow(smooth(1, 1), "PNG")).shape == (1, 1, 3)
    assert images.read_image(by_pillow(smooth(1, 1), "JPEG")).shape == (1, 1, 3)


def jpeg_with_thumbnail() -> bytes:
    """Its metadata hold a whole JPEG, with an end marker of its own."""
    small = by_pillow(smooth(8, 8), "JPEG")
    segment = b"Exif\0\0" + small
    whole = by_pillow(smooth(), "JPEG")
    length = (len(segment) + 2).to_bytes(2, "big")
    return whole[:2] + b"\xff\xe1" + length + segment + whole[2:]


@pytest.mark.parametrize(
    "data, reason",
    [
        (b"", "empty"),
        (b"hello, I am text\n" * 9, "looks like text"),
        (b"<!DOCTYPE html><html><body>404</body></html>", "a web page"),
        (bytes(5000), "starts with zeros"),
        (by_pillow(smooth(), "JPEG")[:-30], "damaged"),
        (by_pillow(smooth(), "JPEG", progressive=True)[:-30], "damaged"),
        (jpeg_with_thumbnail()[:-30], "damaged"),
        (by_pillow(smooth(), "JPEG")[:300], "cannot be decoded"),
        (by_pillow(smooth(), "PNG")[:-40], "cannot be decoded"),
        (by_pillow(smooth(), "PNG")[:30], "not an image"),
        (by_pillow(smooth(), "BMP")[:-40], "cannot be decoded"),
        (by_pillow(smooth(), "TIFF", compression="tiff_lzw")[:-150], "cannot|not an"),
        (by_pillow(smooth(), "WEBP")[:-20], "cannot|not an"),
    ],
)
def test_broken_files_are_one_line(data, reason, tmp_path):
    path = tmp_path / "broken.png"
    path.write_bytes(data)
    with pytest.raises(InputError, match=reason) as caught:
        images.read_image(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "\n" not in str(caught.value)


def test_a_whole_jpeg_with_a_thumbnail_or_a_tail_opens():
    assert images.read_image(jpeg_with_thumbnail()).shape == (40, 60, 3)
    tail = by_pillow(smooth(), "JPEG") + bytes(1000) + b"\xff\xda"
    assert images.read_image(tail).shape == (40, 60, 3)


def test_missing_files_and_folders_are_one_line(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        images.read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match="not a file"):
        images.read_image(tmp_path)


def test_decompression_bomb_is_refused_before_it_is_decoded():
    bomb = by_pillow(np.zeros((3000, 3000), np.uint8), "PNG")
    with pytest.raises(InputError, match="3000x3000 pixels; at most 1,000,000"):
        images.read_image(bomb, max_pixels=1_000_000)
    # 60,000 x 60,000 in a header alone: refused by the limit that is always on.
    header = bytearray(bomb)
    header[16:24] = (60_000).to_bytes(4, "big") * 2
    header[29:33] = imagecodecs.zlib_crc32(bytes(header[12:29])).to_bytes(4, "big")
    with pytest.raises(InputError, match="60000x60000"):
        images.read_image(bytes(header))


def test_mask_keeps_its_grey_values():
    shades = np.arange(256, dtype=np.uint8).reshape(16, 16)
    mask = images.read_mask(by_pillow(shades, "PNG"))
    assert mask.shape == (16, 16, 1)
    np.testing.assert_array_equal(mask[..., 0], shades)
    inverted = images.read_mask(by_pillow(shades, "PNG"), inverted=True)
    np.testing.assert_array_equal(inverted[..., 0], 255 - shades)


REGION = np.zeros((12, 10), bool)
REGION[3:7, 2:8] = True


def palette_mask() -> bytes:
    picture = Image.fromarray(REGION.astype(np.uint8)).convert("P")
    picture.putpalette([0, 0, 0, 128, 0, 0])
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    "data, value",
    [
        (by_pillow(REGION, "PNG"), 255),  # one bit
        (by_pillow(REGION, "TIFF"), 255),
        (by_pillow(REGION.astype(np.uint8), "PNG"), 255),  # classes 0 and 1
        (imagecodecs.png_encode(REGION.astype(np.uint16)), 255),
        (imagecodecs.png_encode(REGION.astype(np.uint16) * 65535), 255),
        (imagecodecs.png_encode(REGION.astype(np.uint16) * 200), 200),
        (imagecodecs.png_encode(REGION.astype(np.uint16) * 0x8042), 0x80),
        (by_pillow(REGION.astype(np.int32) * 255, "TIFF"), 255),
        (by_pillow(REGION.astype(np.float32), "TIFF"), 255),
        (by_pillow(REGION.astype(np.uint8) * 77, "PNG", mode="LA"), 255),
        (by_pillow(REGION.astype(np.uint8) * 77, "PNG", mode="RGBA"), 255),
        (by_pillow(REGION[..., None] * np.uint8([0, 0, 255]), "PNG"), 255),  # blue
        (palette_mask(), 255),
        (by_pillow(REGION.astype(np.uint8) * 255, "GIF"), 255),
    ],
)
def test_masks_of_any_mode_mark_the_same_region(data, value):
    mask = images.read_mask(data)
    assert mask.dtype == np.uint8
    np.testing.assert_array_equal(mask[..., 0], REGION * np.uint8(value))


def test_stored_mask_is_taken_literally():
    mask = np.uint8([[[0], [1]], [[1], [0]]])  # as a file it would be classes
    np.testing.assert_array_equal(images.decode_mask(images.encode_mask(mask)), mask)


def test_png_is_written_whole_into_folders_it_makes(tmp_path):
    for planes in (smooth(), smooth()[..., 0], smooth()[..., :1]):
        images.write_png(tmp_path / "a" / "b.png", planes)
        read = images.read_image(tmp_path / "a" / "b.png")
        np.testing.assert_array_equal(
            read[..., :1], planes.reshape(40, 60, -1)[..., :1]
        )
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["b.png"]


def test_resizing_is_the_reference_s():
    image = smooth()
    expected = cv2.resize(image, (32, 32), interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(images.resize_image(image, 32, 32), expected)
    mask = images.resize_mask(REGION[..., None].astype(np.uint8) * 9, 64, 32)
    assert mask.shape == (64, 32, 1) and set(np.unique(mask)) == {0, 9}

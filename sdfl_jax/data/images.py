"""Image and mask files to uint8 arrays: the one decoder that everything uses.

Decoders differ in the last bit, and traces of manipulation live there, so training,
evaluation and prediction all read through this file.

The rules, so that nothing is left to a library's taste:

* 16 bits become 8 by `>> 8`, 32 bits by `>> 24` unless they only hold 16. Floating
  point in [0, 1] is scaled by 255, in [0, 255] it is taken as it is and any larger
  range is scaled so that its maximum becomes 255; so is a maximum between 1 and 2,
  which is a [0, 1] that overshoots rather than a black picture. Below 0 becomes 0; NaN
  and infinity are refused, for they stand for no colour.
* An alpha channel is dropped, not blended: blending needs a background that the file
  does not hold, and would alter the very pixels that are looked at.
* The EXIF orientation is applied. Palettes become colours, an animation its first
  frame, a TIFF of many pages its first, CMYK the RGB that Pillow makes of it without a
  colour profile.
* A JPEG file is read where every row of it is there, see `jpeg`.
* What a file claims about its size is checked before any pixel is decoded, and no
  decoder gets more room than that.
"""

import ctypes
import io
import math
import os
import posixpath
import struct

import cv2
import imagecodecs
import numpy as np
import tifffile
from jaxtyping import Integer, UInt8
from PIL import Image

from sdfl_jax import files, stores
from sdfl_jax.data import jpeg, whole
from sdfl_jax.data.search import SUFFIXES
from sdfl_jax.errors import InputError

MAX_PIXELS = 200_000_000  # 600 MB as RGB; beyond any camera, within most memories
MAX_BYTES = 1_200_000_000  # of decoded planes: that many pixels of 16-bit RGB
MAX_FILE_BYTES = 1_300_000_000  # the same without compression, and some metadata

# Formats that Pillow may open; it knows others that start external programs.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "GIF", "AVIF")

_ORIENTATION = 0x0112  # the EXIF tag

_TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the latter two: BigTIFF
_JPEG_XL = (b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n")  # bare, in its container
_TIFF_COLOURS = (
    tifffile.PHOTOMETRIC.MINISWHITE,
    tifffile.PHOTOMETRIC.MINISBLACK,
    tifffile.PHOTOMETRIC.RGB,
)

# What brings pixels stored with each EXIF orientation upright.
_UPRIGHT = {
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.swapaxes(0, 1),
    6: lambda x: x[::-1].swapaxes(0, 1),
    7: lambda x: x[::-1, ::-1].swapaxes(0, 1),
    8: lambda x: x[:, ::-1].swapaxes(0, 1),
}


def read_image(
    path_or_bytes: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS
) -> UInt8[np.ndarray, "H W 3"]:
    """RGB of an image file, upright. `InputError` where it cannot be read whole."""
    return read_noted_image(path_or_bytes, max_pixels)[0]


def read_noted_image(
    path_or_bytes: str | os.PathLike | bytes, max_pixels: int = MAX_PIXELS
) -> tuple[UInt8[np.ndarray, "H W 3"], list[str]]:
    """`read_image`, and what about it is worth a warning.

    "few_bits": of 16 bits, 12 or fewer are used, so that the picture is nearly black.
    Cameras and microscopes write 12 bits so, and then it is too dark by 16.
    """
    planes = _decode(*_content(path_or_bytes), max_pixels)
    notes = ["few_bits"] if planes.dtype == np.uint16 and planes.max() < 4096 else []
    if planes.shape[2] < 3:  # grey, with or without alpha
        grey = np.ascontiguousarray(_eight_bits(planes[..., 0]))
        return cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), notes
    return np.ascontiguousarray(_eight_bits(planes[..., :3])), notes


def read_mask(
    path_or_bytes: str | os.PathLike | bytes,
    inverted: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> UInt8[np.ndarray, "H W 1"]:
    """Mask of a file of any mode, 255 = manipulated: `read_noted_mask` by itself."""
    return read_noted_mask(path_or_bytes, inverted, max_pixels)[0]


def read_noted_mask(
    path_or_bytes: str | os.PathLike | bytes,
    inverted: bool = False,
    max_pixels: int = MAX_PIXELS,
) -> tuple[UInt8[np.ndarray, "H W 1"], list[str]]:
    """Mask of a file of any mode, 255 = manipulated, and what in it was interpreted.

    Grey values are kept and colours become their largest channel, so that a region
    marked in pure blue counts as fully as one in white; but

    * the classes 0 and 1 are no shades and become 0 and 255, and so do any two grey
      levels on the same side of 128: "two_levels";
    * the colours of a palette are classes as well, of which black alone marks nothing:
      "palette_colours", where one of them has no channel of 128;
    * over one colour everywhere, alpha that varies is the shape: "alpha_shape".

    16-bit files whose values fit in 8 bits are taken as 8-bit. `inverted` is for files
    in which 0 marks the manipulated pixels.
    """
    where, data = _content(path_or_bytes)
    planes, notes = _decode(where, data, max_pixels), []
    colours = planes[..., :-1] if planes.shape[2] in (2, 4) else planes
    if colours.shape != planes.shape and np.ptp(planes[..., -1]) > 0:
        if not np.ptp(colours, axis=(0, 1)).any():
            planes = planes[..., -1:]
            notes.append("alpha_shape")
    mask = _one_plane(planes)
    if (
        "alpha_shape" not in notes
        and _is_palette(data)
        and np.ptp(colours, axis=2).any()
    ):
        if mask.any() and mask[mask > 0].min() < 128:
            notes.append("palette_colours")
        mask = (mask > 0).astype(np.uint8) * np.uint8(255)
    levels = np.flatnonzero(cv2.calcHist([mask], [0], None, [256], [0, 256]))
    if levels[-1] <= 1:
        mask = mask * np.uint8(255)
    elif len(levels) == 2 and (levels[0] < 128) == (levels[1] < 128):
        mask = (mask == levels[1]).astype(np.uint8) * np.uint8(255)
        notes.append("two_levels")
    return np.ascontiguousarray(255 - mask if inverted else mask), notes


def read_map(path_or_bytes: str | os.PathLike | bytes) -> UInt8[np.ndarray, "H W"]:
    """A saved prediction, 255 for surely manipulated: `read_mask`, values as they are.

    A map may well hold nothing above 1: the network then saw nothing.
    """
    planes = _decode(*_content(path_or_bytes), MAX_PIXELS)
    return np.ascontiguousarray(_one_plane(planes)[..., 0])


def read_labels(
    path_or_bytes: str | os.PathLike | bytes,
) -> Integer[np.ndarray, "H W"]:
    """The label of each pixel of a label map, as its values or colours tell them apart.

    Grey values are the labels; colours are numbered from 0. Alpha says nothing.
    """
    where, data = _content(path_or_bytes)
    planes = _decode(where, data, MAX_PIXELS)
    if planes.dtype.kind not in "bui":
        raise InputError(f"{where}not a label map: its values are no whole numbers.")
    if planes.shape[2] < 3:
        return planes[..., 0].astype(np.int64)
    weights = np.array([1 << 32, 1 << 16, 1])  # of red, green, blue of up to 16 bits
    colours = planes[..., :3].astype(np.int64) @ weights
    _, labels = np.unique(colours, return_inverse=True)
    return labels.reshape(colours.shape)


def orientation(data: bytes) -> int:
    """The EXIF orientation, 1 to 8, that turns a file's pixels as it is read."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.format == "TIFF":
                return picture.tag_v2.get(_ORIENTATION, 1)
            return _orientation(picture)
    except Exception:
        return 1


def upright_size(path: str | os.PathLike) -> tuple[tuple[int, int], int]:
    """Height and width of a file's image as it is read, and its `orientation`.

    Of its head alone, where that tells; `InputError` where it is no image.
    """
    where = io.BytesIO(read_bytes(path)) if stores.is_address(path) else path
    try:
        with Image.open(where, formats=FORMATS) as picture:
            width, height = picture.size
            if picture.format == "TIFF":  # whose size is upright already
                return (height, width), picture.tag_v2.get(_ORIENTATION, 1)
            turns = _orientation(picture)
            return ((width, height) if turns in range(5, 9) else (height, width)), turns
    except Exception:  # unknown to Pillow, or damaged
        data = read_bytes(path)
        return _decode(f"{path}: ", data, MAX_PIXELS).shape[:2], orientation(data)


def turned(planes: np.ndarray, orientation: int) -> np.ndarray:
    """Planes H W C as they were stored, upright."""
    return _UPRIGHT.get(orientation, lambda x: x)(planes)


def _is_palette(data: bytes) -> bool:
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return picture.mode in ("P", "PA")
    except Exception:
        return False


def _one_plane(planes: np.ndarray) -> np.ndarray:
    """The largest channel of planes H W C, uint8 H W 1, without alpha."""
    if planes.shape[2] in (2, 4):
        planes = planes[..., :-1]
    top = planes.max(axis=2, keepdims=True)
    if np.issubdtype(top.dtype, np.integer) and top.max() <= 255 and top.min() >= 0:
        top = top.astype(np.uint8)
    return _eight_bits(top)


def encode_mask(mask: UInt8[np.ndarray, "H W 1"]) -> bytes:
    """The mask as a PNG file, without loss."""
    return encode_png(mask, level=6)


def decode_mask(png: bytes) -> UInt8[np.ndarray, "H W 1"]:
    """Reverses `encode_mask`, taking every value literally (unlike `read_mask`)."""
    return imagecodecs.png_decode(png)[..., None]


def png_name(name: str) -> str:
    """Where the PNG that belongs to an image goes: photo.jpg to photo.jpg.png.

    The old ending stays, for photo.jpg and photo.tif may lie side by side; photo.png is
    photo.png. No two images have one place: photo.jpg.png goes to photo.jpg.png.png,
    and photo, without an ending, to photo.png.png.
    """
    stem, ending = posixpath.splitext(name)
    if ending.lower() == ".png":
        inner = posixpath.splitext(stem)[1].lower()
        return f"{name}.png" if inner in SUFFIXES else name
    return f"{name}.png" if ending.lower() in SUFFIXES else f"{name}.png.png"


def encode_png(planes: UInt8[np.ndarray, "..."], **settings) -> bytes:
    """A PNG file of uint8 H W, H W 1 or H W 3 (RGB).

    `settings` are those of `imagecodecs.png_encode`; level 3 gives files a tenth larger
    than its default in a third of the time.
    """
    planes = planes[..., 0] if planes.shape[2:] == (1,) else planes
    return imagecodecs.png_encode(np.ascontiguousarray(planes), **settings)


def write_png(path: str | os.PathLike, planes: UInt8[np.ndarray, "..."], **settings):
    """Writes what `encode_png` makes, whole or not at all."""
    data = encode_png(planes, **settings)
    with files.replacing(path) as beside:
        beside.write_bytes(data)


def write_map(path: str | os.PathLike, saved_map: UInt8[np.ndarray, "H W"]):
    """`write_png` of a prediction, in a quarter of the time for about the same size.

    Runs of equal values (zlib's Z_RLE) are all there is to find in so smooth a picture.
    """
    write_png(path, saved_map, level=1, strategy=3)


def resize_image(image: UInt8[np.ndarray, "H W 3"], height: int, width: int):
    """Bilinear between the four nearest pixels, as the reference's loader resizes."""
    if image.shape[:2] == (height, width):
        return image
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def resize_mask(mask: UInt8[np.ndarray, "H W 1"], height: int, width: int):
    """Nearest pixel, as the reference's loader does: no values that were not there."""
    if mask.shape[:2] == (height, width):
        return mask
    if not mask.any():  # half of most data sets; far cheaper than resizing zeros
        return np.zeros((height, width, 1), np.uint8)
    size = (width, height)
    return cv2.resize(mask[..., 0], size, interpolation=cv2.INTER_NEAREST)[..., None]


def resize_map(saved_map: UInt8[np.ndarray, "H W"], height: int, width: int):
    """Bilinear, as maps are stretched that leave a network at its own size."""
    if saved_map.shape == (height, width):
        return saved_map
    return cv2.resize(saved_map, (width, height), interpolation=cv2.INTER_LINEAR)


def read_bytes(path: str | os.PathLike) -> bytes:
    """A file's content; `InputError` if there is no such file, or none of an image."""
    if stores.is_address(path):
        return _of_an_image(path, _downloaded(os.fspath(path)))
    if not os.path.exists(path):
        raise InputError(f"{path}: no such file.")
    if not os.path.isfile(path):  # a pipe would be waited for
        raise InputError(f"{path}: not a file.")
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}.") from None
    return _of_an_image(path, data)


def _downloaded(path: str) -> bytes:
    try:
        if (stores.size(path) or 0) > MAX_FILE_BYTES:
            raise InputError(f"{path}: a file of more than {MAX_FILE_BYTES:,} bytes.")
        return stores.read(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file.") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}.") from None


def _of_an_image(path: str | os.PathLike, data: bytes) -> bytes:
    if not data:
        raise InputError(f"{path}: the file is empty (0 bytes).")
    if len(data) > MAX_FILE_BYTES:
        raise InputError(f"{path}: a file of more than {MAX_FILE_BYTES:,} bytes.")
    return data


def size_of(path: str | os.PathLike) -> tuple[int, int]:
    """Height and width of a file's image, upright, as its first bytes tell.

    Decodes what does not tell them. Raises `InputError` as `read_image` does.
    """
    where = io.BytesIO(read_bytes(path)) if stores.is_address(path) else path
    try:
        with Image.open(where, formats=FORMATS) as picture:
            width, height = picture.size
            if picture.format != "TIFF":
                sideways = _orientation(picture) > 4
                return (width, height) if sideways else (height, width)
    except Exception:  # of another format, or damaged: `read_image` knows
        pass
    return read_image(path).shape[:2]


def claimed_pixels(data: bytes) -> float:
    """Height times width as a file claims; infinity if its first bytes do not tell."""
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            return float(picture.size[0] * picture.size[1])
    except Exception:
        return math.inf


def _content(path_or_bytes: str | os.PathLike | bytes) -> tuple[str, bytes]:
    """How an error names the file, if it has a path, and what it holds."""
    if isinstance(path_or_bytes, bytes):
        return "", path_or_bytes
    return f"{os.fspath(path_or_bytes)}: ", read_bytes(path_or_bytes)


def _decode(where: str, data: bytes, max_pixels: int) -> np.ndarray:
    """Pixels H W C upright, in the depth of the file; errors begin with `where`."""
    try:
        planes, orientation = _open(data, max_pixels)
        if (
            planes.ndim not in (2, 3)
            or not planes.size
            or planes.dtype.kind not in "buif"
        ):
            raise InputError("cannot be decoded (no planes of numbers).")
        if planes.dtype.kind == "f" and not np.isfinite(planes).all():
            raise InputError("holds values that are no numbers (NaN or infinity).")
    except InputError as error:
        raise InputError(f"{where}{error}") from None
    except MemoryError:
        raise InputError(f"{where}not enough memory to decode it.") from None
    # Decoders fed with broken files raise almost anything.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{where}cannot be decoded ({reason}).") from None
    if planes.ndim == 2:
        planes = planes[..., None]
    return turned(planes, orientation)


def _open(data: bytes, max_pixels: int) -> tuple[np.ndarray, int]:
    """Decodes by the fastest decoder for the format; the EXIF orientation beside it."""
    try:
        picture = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        if data[:4] in _TIFF:
            return _open_tiff(data, max_pixels)
        if data.startswith(_JPEG_XL):
            return _open_jpeg_xl(data, max_pixels), 1
        if data[4:8] == b"ftyp":
            return _open_heif(data, max_pixels), 1
        if data.startswith(jpeg.START) and (reason := jpeg.unreadable(data)):
            raise InputError(f"{reason}.") from None
        raise InputError(f"not an image ({_looks_like(data)}).") from None
    with picture:
        if picture.format == "TIFF" and max(picture.tag_v2.get(258, (1,))) > 8:
            return _open_tiff(data, max_pixels)
        _refuse_large(*picture.size, len(picture.getbands()), max_pixels)
        whole.refuse_damaged(data, math.prod(picture.size))
        if picture.format == "PNG":
            return _open_png(data, max_pixels), _orientation(picture)
        if picture.format in ("JPEG", "MPO"):
            return _open_jpeg(data, picture), _orientation(picture)
        # A TIFF is turned upright by Pillow while it loads.
        orientation = 1 if picture.format == "TIFF" else _orientation(picture)
        if picture.mode in ("P", "PA", "CMYK", "YCbCr", "LAB", "HSV", "RGBX", "RGBa"):
            clear = "transparency" in picture.info
            return np.asarray(picture.convert("RGBA" if clear else "RGB")), orientation
        if picture.mode == "1":
            return np.asarray(picture.convert("L")), orientation
        return np.asarray(picture), orientation


def _open_jpeg(data: bytes, picture: Image.Image) -> np.ndarray:
    channels = {"L": (), "RGB": (3,), "CMYK": (4,)}[picture.mode]
    planes = jpeg.decode(data, np.empty((*picture.size[::-1], *channels), np.uint8))
    if picture.mode == "CMYK":
        if "adobe" in picture.info:  # which writes it inverted
            planes = 255 - planes
        planes = np.asarray(Image.fromarray(planes, "CMYK").convert("RGB"))
    return planes


def _open_png(data: bytes, max_pixels: int) -> np.ndarray:
    if data[12:16] != b"IHDR":
        raise InputError("cannot be decoded (a PNG file without its header).")
    width, height, depth = struct.unpack(">IIB", data[16:25])
    _refuse_large(width, height, 4 * max(depth // 8, 1), max_pixels)
    try:
        return imagecodecs.png_decode(data)
    except Exception:
        # It releases one reference to None too many for each broken file; up to Python
        # 3.11, a process that has met some thousands of them would be brought down.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(None))
        raise


def _open_heif(data: bytes, max_pixels: int) -> np.ndarray:
    """HEIC as phones write it; libheif turns it upright itself."""
    try:
        import pi_heif
    except ImportError:
        raise InputError("HEIC is read with: pip install pi-heif.") from None
    picture = pi_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=True)
    _refuse_large(*picture.size, 4, max_pixels)
    whole.refuse_damaged(data, math.prod(picture.size))
    return np.array(picture)  # a view would outlive its memory


def _open_jpeg_xl(data: bytes, max_pixels: int) -> np.ndarray:
    """The first frame; libjxl turns it upright itself."""
    _refuse_large(*_size_of_jpeg_xl(data), 16, max_pixels)
    return imagecodecs.jpegxl_decode(data, index=0)


def _size_of_jpeg_xl(data: bytes) -> tuple[int, int]:
    """Width and height, by the size header of ISO/IEC 18181-1."""
    start = 0
    if data.startswith(_JPEG_XL[1]):
        boxes = [data.find(kind) for kind in (b"jxlc", b"jxlp") if kind in data]
        start = data.find(_JPEG_XL[0], min(boxes, default=len(data)))
    bits = int.from_bytes(data[start + 2 : start + 22], "little")

    def take(count: int) -> int:
        nonlocal bits
        value, bits = bits & ((1 << count) - 1), bits >> count
        return value

    def side() -> int:
        return 8 * (take(5) + 1) if small else take((9, 13, 18, 30)[take(2)]) + 1

    small = take(1)
    height, ratio = side(), take(3)
    over, under = ((1, 1), (6, 5), (4, 3), (3, 2), (16, 9), (5, 4), (2, 1))[ratio - 1]
    return (height * over // under if ratio else side()), height


def _open_tiff(data: bytes, max_pixels: int) -> tuple[np.ndarray, int]:
    """The first page of a TIFF deeper than 8 bits or unknown to Pillow.

    Pillow reads some of these wrongly without a word (16 bits in separate planes, 32
    bits, 16 bits with white at 0).
    """
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        page = file.pages[0]
        bits, axes = page.bitspersample, page.axes
        if axes not in ("YX", "YXS", "SYX") or not isinstance(bits, int):
            raise InputError("cannot be decoded (a TIFF of an odd shape or depth).")
        if page.dtype is None or page.dtype.kind not in "uif":
            raise InputError(f"cannot be decoded (a TIFF of {bits}-bit {page.dtype}).")
        photometric = tifffile.PHOTOMETRIC(page.photometric)
        if photometric not in _TIFF_COLOURS:
            raise InputError(
                f"cannot be decoded (a {bits}-bit {photometric.name} TIFF)."
            )
        pixel = page.samplesperpixel * page.dtype.itemsize
        _refuse_large(page.imagewidth, page.imagelength, pixel, max_pixels)
        if page.is_tiled:
            _refuse_large(page.tilewidth, page.tilelength, pixel, max_pixels)
        # Parts that are not there would be filled with zeros.
        parts = list(zip(page.dataoffsets, page.databytecounts, strict=True))
        if len(parts) != math.prod(page.chunked) or not all(
            size > 0 and start + size <= len(data) for start, size in parts
        ):
            raise InputError("cannot be decoded (the file is truncated).")
        whole.refuse_damaged(data, page.imagewidth * page.imagelength)
        # By libtiff, for tifffile's own LZW decoder crashes on damaged files.
        planes = imagecodecs.tiff_decode(data, index=0)
        orientation = page.tags.valueof(_ORIENTATION, default=1)
    if 8 < bits < 16:
        planes = planes << (16 - bits)
    if photometric == tifffile.PHOTOMETRIC.MINISWHITE:
        if planes.dtype.kind != "u":
            raise InputError("cannot be decoded (white at 0, but no unsigned numbers).")
        planes = np.iinfo(planes.dtype).max - planes
    return (planes.transpose(1, 2, 0) if axes == "SYX" else planes), orientation


def _refuse_large(width: int, height: int, bytes_per_pixel: int, max_pixels: int):
    pixels = width * height
    if pixels > max_pixels:
        raise InputError(f"{width}x{height} pixels; at most {max_pixels:,} are read.")
    if pixels * bytes_per_pixel > MAX_BYTES:
        raise InputError(
            f"{width}x{height} pixels of {bytes_per_pixel} bytes; at most "
            f"{MAX_BYTES:,} bytes are decoded."
        )


def _orientation(picture: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) where the metadata are damaged."""
    try:
        if picture.format != "PNG":
            return picture.getexif().get(_ORIENTATION, 1)
        exif = Image.Exif()  # `getexif` would decode a PNG first
        exif.load(picture.info.get("exif"))
        return exif.get(_ORIENTATION, 1)
    except Exception:
        return 1


def _eight_bits(planes: np.ndarray) -> UInt8[np.ndarray, "..."]:
    if planes.dtype == np.uint8:
        return planes
    if planes.dtype == bool:
        return planes.astype(np.uint8) * 255
    if planes.dtype == np.uint16:
        return (planes >> 8).astype(np.uint8)
    if np.issubdtype(planes.dtype, np.integer):
        if planes.max() > 65535:
            return (np.maximum(planes, 0) >> 24).astype(np.uint8)
        return (np.clip(planes, 0, 65535) >> 8).astype(np.uint8)
    planes = np.maximum(planes, 0, dtype=np.result_type(planes, np.float32))
    top = planes.max()
    if top <= 1:
        planes *= 255
    elif top <= 2 or top > 255:
        planes /= top
        planes *= 255
    return np.rint(planes, out=planes).astype(np.uint8)


def _looks_like(data: bytes) -> str:
    """A guess for the error line at what a file is that is no image."""
    start = data[:512].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        return "it looks like a web page"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return "it looks like text"
    if not any(data[:4096]):
        return "it starts with zeros"
    return f"or one of a format other than {', '.join(FORMATS)}"

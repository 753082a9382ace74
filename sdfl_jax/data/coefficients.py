"""The quantised coefficients of a JPEG file's luminance, beside its pixels.

What a forger's program saved is saved again with other blocks: a second compression
shows in the coefficients long after it cannot be seen (CAT-Net; Kwon et al., IJCV
2022). Files of other kinds have none; they get what CAT-Net gives them, those of a JPEG
of quality 100 at full colour resolution, and its pixels.
"""

import os

import cv2
import numpy as np
import simplejpeg
from jaxtyping import Float32, Int16, UInt8

from sdfl_jax.data import images, jpeg
from sdfl_jax.errors import InputError

BLOCK = 8
ENCODED = "encoded"  # of an example: the content of its file, where pixels are its own
PLANES = ("dct", "qtable")  # of an example, once `add` was there
GREY = 127  # of pixels beyond the image: CAT-Net's 127.5, as far as bytes go


def add(example: dict) -> dict:
    """`example` with `dct` and `qtable` of its file, or of a JPEG made of its pixels.

    `dct` is int16 (8 ceil(H / 8), 8 ceil(W / 8), 1): block (i, j) at 8i, 8j, vertical
    frequency first; `qtable` float32 (8, 8) of the same order. The pixels of a file
    that is none, and of one that its EXIF data turn, become those of the JPEG.
    """
    example = dict(example)
    data = example.pop(ENCODED, None)
    if data is None or not data.startswith(jpeg.START) or images.orientation(data) != 1:
        data = simplejpeg.encode_jpeg(
            np.ascontiguousarray(example["image"]), quality=100, colorsubsampling="444"
        )
        example["image"] = images.read_image(data)
        if "warnings" in example:
            example["warnings"] = [*example["warnings"], "no_coefficients"]
    dct, qtable = read(data)
    return example | {"dct": dct, "qtable": qtable}


def read(
    data: bytes,
) -> tuple[Int16[np.ndarray, "H W 1"], Float32[np.ndarray, "8 8"]]:
    """Coefficients and table of a JPEG file's luminance, see `add`.

    A grey file's are those of its only channel, and so are those of CMYK's first.
    """
    import jpeglib  # a tenth of a second, and few networks ask for coefficients

    file = os.memfd_create("jpeg")  # jpeglib reads by name
    try:
        os.write(file, data)
        found = jpeglib.read_dct(f"/proc/self/fd/{file}")
    finally:
        os.close(file)
    rows, columns = found.Y.shape[:2]
    dct = found.Y.transpose(0, 2, 1, 3).reshape(rows * BLOCK, columns * BLOCK, 1)
    return np.ascontiguousarray(dct, np.int16), found.qt[0].astype(np.float32)


def window(
    example: dict, top: int, left: int, height: int, width: int
) -> dict[str, np.ndarray]:
    """`image`, `mask`, `dct` (H W) and `qtable` of a window on the grid of the blocks.

    `top`, `left`, `height` and `width` are multiples of 8. Beyond the image its pixels
    are grey and its mask is empty, beyond the coded blocks coefficients are zero.
    """
    part = np.s_[top : top + height, left : left + width]
    values = {"image": GREY, "mask": 0, "dct": 0}
    planes = {
        name: filled_up(example[name][part], height, width, value)
        for name, value in values.items()
    }
    return planes | {"dct": planes["dct"][..., 0], "qtable": example["qtable"]}


def refuse_resizing(example: dict):
    """Raises `InputError` where there are coefficients: they stand for whole blocks."""
    if "dct" in example:
        raise InputError(
            "JPEG coefficients cannot be resized: config.data.inputs=('rgb', 'jpeg') "
            "needs config.data.geometry='crop'."
        )


def filled_up(
    plane: UInt8[np.ndarray, "h w C"] | Int16[np.ndarray, "h w 1"],
    height: int,
    width: int,
    value: int,
) -> np.ndarray:
    """A plane with `value` at its right and lower border up to `height` x `width`."""
    h, w = plane.shape[:2]
    if (h, w) == (height, width):
        return plane
    sides = (0, height - h, 0, width - w)
    colour = (value,) * plane.shape[2]
    padded = cv2.copyMakeBorder(plane, *sides, cv2.BORDER_CONSTANT, value=colour)
    return padded.reshape(height, width, plane.shape[2])

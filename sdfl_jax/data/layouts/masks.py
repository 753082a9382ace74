"""Checks every image found: its size, its mask's size; converts masks."""

import dataclasses
import os
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from sdfl_jax.data import images, planes
from sdfl_jax.data.layouts.common import Item, Refused
from sdfl_jax.errors import InputError


def inverted(path: str) -> UInt8[np.ndarray, "H W 1"]:
    """A mask in which 0 marks the manipulated pixels; shades are kept."""
    return images.read_mask(path, inverted=True)


def green(path: str) -> UInt8[np.ndarray, "H W 1"]:
    """Columbia's edgemask: green is the spliced region, red what it was put into.

    Bright or dark, green is above 128 there and red below; between them lie only the
    blurs of JPEG.
    """
    colours = images.read_image(path)
    region = (colours[..., 1] > 128) & (colours[..., 0] < 128)
    return region[..., None].astype(np.uint8) * 255


def white(path: str) -> UInt8[np.ndarray, "H W 1"]:
    """Korus' mask of three grey levels: of black, grey and white only white counts."""
    return (images.read_mask(path) >= 192).astype(np.uint8) * 255


def numpy(path: str) -> UInt8[np.ndarray, "H W 1"]:
    """FantasticReality's array, alone in an .npz: anything but 0 is manipulated."""
    try:
        with np.load(path, allow_pickle=False) as file:
            (name,) = file.files
            array = np.squeeze(file[name])
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f"{path}: not one array in an .npz ({error}).") from None
    if array.ndim != 2:
        raise InputError(f"{path}: an array of shape {array.shape}, not H W.")
    return (array != 0).astype(np.uint8)[..., None] * 255


CONVERSIONS = {"inverted": inverted, "green": green, "white": white, "numpy": numpy}


@dataclasses.dataclass(frozen=True)
class Check:
    """Checks one item at a time; picklable, for worker processes."""

    root: str
    out: str

    def __call__(self, item: Item) -> tuple[Item | Refused, float | None, str]:
        """The item, its mask converted, or why it is refused; the share it marks; and
        whether the mask turns with its image (see `planes.turn`).

        The share is known only of masks that were converted. What turns is left to
        those who read the list: here it only has to fit.
        """
        for plane, path in (("image", item.image), ("mask", item.mask)):
            if path is not None and not os.path.isfile(path):
                return (
                    Refused(item.image, f"no {plane}: {path} does not exist"),
                    None,
                    "",
                )
        try:
            size, turns = images.upright_size(item.image)
            if item.mask is None:
                return item, None, ""
            if item.convert:
                mask = CONVERSIONS[item.convert](item.mask)
                mask_size = mask.shape[:2]
                if images.orientation(images.read_bytes(item.mask)) != 1:
                    turns = 1  # it was turned as it was read
            else:
                mask = None
                mask_size, own = images.upright_size(item.mask)
                turns = turns if own == 1 else 1
        except InputError as error:
            return Refused(item.image, f"unreadable: {error}"), None, ""
        note = planes.turn(mask_size, size, turns)
        fits = mask_size[::-1] if note == "mask_turned" and turns > 4 else mask_size
        if fits != size:
            reason = "wrong size: mask {1}x{0}, image {3}x{2}"
            return Refused(item.image, reason.format(*mask_size, *size)), None, ""
        if mask is None:
            return item, None, note
        if mask.max() < 128:
            reason = f"empty mask: {item.mask} marks no pixel"
            return Refused(item.image, reason), None, ""
        inside = os.path.relpath(item.mask, self.root).replace("..", "_")
        path = Path(self.out, "masks", images.png_name(inside))
        images.write_png(path, mask)
        item = dataclasses.replace(item, mask=str(path), convert="")
        return item, float((mask >= 128).mean()), note

    def lost(self, item: Item, reason: str) -> tuple[Refused, None, str]:
        """The answer for an item that ended the worker which looked at it."""
        return Refused(item.image, f"unreadable: {reason}"), None, ""

"""Image and mask of a line of a list, alike for shards and for evaluation."""

import numpy as np

from sdfl_jax.data import images
from sdfl_jax.data.lists import Entry
from sdfl_jax.errors import InputError

# What may be odd about them, as a warning says it.
WARNINGS = {
    "mask_size": "mask of another size than the image (resized to fit, nearest pixel)",
    "empty_mask": "manipulated image whose mask has no pixel of 128 or more",
    "no_mask": "manipulated image without a mask (trains and scores the label alone)",
    "two_levels": "mask of two grey levels on one side of 128 (the higher counts)",
    "palette_colours": "mask whose palette has dark colours (all but black count)",
    "alpha_shape": "mask of one colour (its alpha channel is the shape)",
    "no_coefficients": "image that is no JPEG file, or that its EXIF data turn (its "
    "coefficients are those of a JPEG of quality 100)",
    "few_bits": "16-bit image that uses 12 bits or fewer (read as nearly black)",
    "duplicate": "image listed more than once (kept each time)",
    "mask_turned": "mask of an image that its EXIF data turn, drawn on the pixels as "
    "stored (turned with it)",
    "mask_unsure": "mask of an image that its EXIF data turn, by whose size it may be "
    "drawn before or after that (taken as after; --mask_as_stored turns it)",
}


def read_planes(
    entry: Entry,
    data: bytes,
    mask: bytes | None,
    *,
    mask_inverted: bool = False,
    mask_as_stored: bool = False,
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Image and mask of an entry from its files' content, and what is odd about them.

    The image is uint8 H W 3, the mask uint8 h w 1 at its own size, or None where it
    marks nothing or is not known; both are upright. Of an image that EXIF data turn, a
    mask that has the size of the pixels as stored turns with it; where sizes do not
    tell, `mask_as_stored` does. `InputError` if they cannot be used.
    """
    image, warnings = images.read_noted_image(data)
    if mask is not None:
        turns = images.orientation(data)
        if images.orientation(mask) != 1:  # upright by itself
            turns = 1
        try:
            mask, notes = images.read_noted_mask(mask, mask_inverted)
        except InputError as error:
            raise InputError(f"{entry.mask}: {error}") from None
        warnings += notes
        note = turn(mask.shape[:2], image.shape[:2], turns, mask_as_stored)
        if note == "mask_turned":
            mask = images.turned(mask, turns)
        if note == "mask_turned" or mask.any():
            warnings += [note] * bool(note)
        if mask.shape[:2] != image.shape[:2]:
            warnings.append("mask_size")
        if entry.label == 0:
            if mask.max() >= 128:
                raise InputError(
                    f"{entry.mask}: marks manipulated pixels in an image whose label "
                    "says authentic"
                )
            mask[:] = 0  # fainter values are the noise of lossy masks
        if entry.label == 1 and mask.max() < 128:
            warnings.append("empty_mask")
        if not mask.any():
            mask = None
    elif entry.label == 1:
        warnings.append("no_mask")
    return image, mask, warnings


def turn(
    size: tuple[int, int],
    upright: tuple[int, int],
    orientation: int,
    as_stored: bool = False,
) -> str:
    """Whether a mask of a size turns with the image that `orientation` turned upright.

    It does for "mask_turned", may have had to for "mask_unsure", and is upright for "".
    """
    if orientation not in range(2, 9):
        return ""
    stored = upright[::-1] if orientation > 4 else upright
    if stored != upright and size in (stored, upright):
        before, after = size == stored, size == upright
    else:
        before, after = (_of_shape(size, other) for other in (stored, upright))
    if before and (as_stored or not after):
        return "mask_turned"
    return "mask_unsure" if before else ""


def _of_shape(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether one size is the other at another scale, rounded to whole pixels."""
    return abs(size[0] * other[1] - size[1] * other[0]) <= max(other)

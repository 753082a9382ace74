"""Image and mask of a line of a list, alike for shards and for evaluation."""

import numpy as np

from sdfl_jax.data import images
from sdfl_jax.data.lists import Entry
from sdfl_jax.errors import InputError


def read_planes(
    entry: Entry, data: bytes, mask: bytes | None, mask_inverted: bool
) -> tuple[np.ndarray, np.ndarray | None, list[str]]:
    """Image and mask of an entry from its files' content, and what is odd about them.

    The image is uint8 H W 3, the mask uint8 h w 1 at its own size, or None where it
    marks nothing or is not known. `InputError` if they cannot be used.
    """
    warnings = []
    image = images.read_image(data)
    if mask is not None:
        try:
            mask = images.read_mask(mask, mask_inverted)
        except InputError as error:
            raise InputError(f"{entry.mask}: {error}") from None
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

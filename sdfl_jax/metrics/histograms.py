"""One small table per image: how many pixels of each mask class have which value.

3 kB however large the image, so that a whole data set fits in memory, every threshold
can be tried afterwards and ties are handled exactly. Probability maps therefore count
in 256 bins, `round(255 p)`, which is also how they are saved.
"""

import functools
import math

import cv2
import numpy as np
from jaxtyping import Int, Integer, UInt8

from sdfl_jax.errors import InputError

BINS = 256


def to_uint8(mask_probs: np.ndarray) -> UInt8[np.ndarray, "..."]:
    """Probabilities as uint8 of the same shape: `round(255 p)`, halves up.

    uint8 input is returned as it is. Raises `InputError` for NaN, for values outside
    [0, 1] and for other types.
    """
    mask_probs = np.asarray(mask_probs)
    if mask_probs.dtype == np.uint8:
        return mask_probs
    if not np.issubdtype(mask_probs.dtype, np.floating):
        raise InputError(
            f"mask_probs has type {mask_probs.dtype}; give floats in [0, 1] or uint8."
        )
    # A blend of float32 probabilities may come out a rounding above 1.
    least, most = -1e-5, 1 + 1e-5
    if mask_probs.size and not (mask_probs.min() >= least and mask_probs.max() <= most):
        bad = np.count_nonzero(~((mask_probs >= least) & (mask_probs <= most)))
        raise InputError(
            f"mask_probs holds {bad} values that are NaN or outside [0, 1]; give"
            " probabilities (after the sigmoid), or uint8 with 255 for 1."
        )
    # Halves up, so that p >= 0.5 and a value >= 128 are the same pixels.
    wide = mask_probs.astype(np.promote_types(mask_probs.dtype, np.float32), copy=False)
    return (wide * 255 + 0.5).astype(np.uint8)


def histogram(mask: np.ndarray, mask_probs: np.ndarray) -> Int[np.ndarray, "3 256"]:
    """Counts the pixels of one image by mask class and value, int32 (3, 256).

    Rows: mask == 0, 0 < mask < 128, mask >= 128 (the reference takes any value but
    zero as manipulated, the standard metrics values from 128). Columns: `to_uint8`.
    `mask` is uint8 0-255 or bool, H W or H W 1, `mask_probs` the same shape, uint8
    or float. Raises `InputError` where shapes or types do not fit.
    """
    mask, mask_probs = np.asarray(mask), np.asarray(mask_probs)
    if mask.dtype == bool:
        mask = mask.astype(np.uint8) * 255
    if mask.dtype != np.uint8:
        raise InputError(f"mask has type {mask.dtype}; give uint8 from 0 to 255.")
    mask, mask_probs = _plane(mask), _plane(mask_probs)
    if mask.shape != mask_probs.shape or mask.ndim != 2 or not mask.size:
        raise InputError(
            f"mask has shape {mask.shape} and mask_probs {mask_probs.shape}; both must"
            " be the same H W (or H W 1)."
        )
    values = np.ascontiguousarray(to_uint8(mask_probs))
    everything = _counts(values)
    if not mask.any():
        return np.stack([everything, 0 * everything, 0 * everything])
    manipulated = _counts(values, mask >= 128)
    grey = _counts(values, (mask > 0) & (mask < 128))
    return np.stack([everything - manipulated - grey, grey, manipulated])


def inner_histogram(
    mask: np.ndarray, mask_probs: np.ndarray
) -> Int[np.ndarray, "2 256"]:
    """Counts values away from the borders of the regions, int32 (2, 256).

    Row 1: pixels that are manipulated (from 128) with all around them, 15 by 15; row 0:
    pixels with nothing manipulated around them, 11 by 11 (TruFor's evaluation:
    Guillaro et al., CVPR 2023). The others count in neither. Arguments as `histogram`.
    """
    values = np.ascontiguousarray(to_uint8(_plane(np.asarray(mask_probs))))
    mask = _plane(np.asarray(mask))
    region = (mask if mask.dtype == bool else mask >= 128).astype(np.uint8)
    if not region.any():
        return np.stack([_counts(values), np.zeros(BINS, np.int32)])
    inside = cv2.erode(region, np.ones((15, 15), np.uint8))
    outside = 1 - cv2.dilate(region, np.ones((11, 11), np.uint8))
    return np.stack([_counts(values, outside > 0), _counts(values, inside > 0)])


def _counts(values, chosen=None):
    """How many pixels, of the `chosen` ones, have each value, int32 (256,).

    A tenth of the time of `np.bincount`, which casts every pixel to int64 first.
    """
    counts = np.zeros(BINS, np.int32)
    rows = max(1, 2**24 // values.shape[1])  # OpenCV hands counts over as float32
    for top in range(0, len(values), rows):
        part = slice(top, top + rows)
        among = None if chosen is None else chosen[part].view(np.uint8)
        found = cv2.calcHist([values[part]], [0], among, [BINS], [0, BINS])
        counts += found.ravel().astype(np.int32)
    return counts


def constant_histograms(
    histograms: Integer[np.ndarray, "N 3 256"], value: int
) -> Integer[np.ndarray, "N 3 256"]:
    """The tables of maps that are `value` everywhere, over the same masks."""
    constant = np.zeros_like(histograms)
    constant[:, :, value] = histograms.sum(axis=2)
    return constant


@functools.lru_cache(maxsize=32)
def centre_prior(height: int, width: int) -> UInt8[np.ndarray, "{height} {width}"]:
    """A map that only knows that photographers and forgers centre.

    A Gaussian with a deviation of a quarter of each side: one half or more on the
    ellipse that holds the middle 27 % of the image.
    """
    y, x = (
        np.exp(-0.5 * (((np.arange(n) + 0.5) / n - 0.5) / 0.25) ** 2)
        for n in (height, width)
    )
    prior = to_uint8(np.outer(y, x))
    prior.flags.writeable = False  # it is shared by all callers
    return prior


def split(
    histograms: Integer[np.ndarray, "N 3 256"], reference: bool = False
) -> tuple[Integer[np.ndarray, "N 256"], Integer[np.ndarray, "N 256"]]:
    """Histograms of the manipulated and of the authentic pixels of each image, int64.

    `reference`: any mask value but zero is manipulated, not only values from 128.
    """
    authentic, grey, manipulated = histograms.astype(np.int64).transpose(1, 0, 2)
    if reference:
        return manipulated + grey, authentic
    return manipulated, authentic + grey


def first_bin(threshold: float) -> int:
    """The lowest value that counts as manipulated at `threshold`."""
    if not 0 <= threshold <= 1:
        raise InputError(f"The threshold is {threshold}; it must lie in [0, 1].")
    # Rounded first, because 255 * (k / 255) may come out a little above k.
    return math.ceil(round(255 * threshold, 9))


def threshold_at(value: int) -> float:
    """The threshold that `value` and all above it reach, and nothing below it.

    Halfway between two values, so that it cuts floats and uint8 alike.
    """
    return max(float(value) - 0.5, 0.0) / (BINS - 1)


def _plane(array):
    return array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array

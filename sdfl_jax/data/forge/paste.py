"""Pastes content into a region of a photograph."""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from sdfl_jax.data.forge.regions import bounding_box

Image = UInt8[np.ndarray, "H W 3"]
Region = UInt8[np.ndarray, "H W"]
Donor = Callable[[int, int], np.ndarray]
Rng = np.random.Generator


class Unsuitable(Exception):
    """The manipulation is not possible with this host, region and donor."""


def draw_feather(rng: Rng) -> int:
    """Feathering of a paste in pixels; 0, a hard edge, with probability 0.8."""
    return int(rng.integers(1, 4)) if rng.random() < 0.2 else 0


def paste(
    host: Image, content: UInt8[np.ndarray, "h w 3"], region: Region, feather: int
) -> UInt8[np.ndarray, "H W 3"]:
    """The host with `content` (the size of the region's bounding box) in the region.

    Feathering of `feather` pixels lies inside the region, so the mask stays exact.
    """
    top, left, height, width = bounding_box(region)
    here = (slice(top, top + height), slice(left, left + width))
    inside = region[here]
    if feather:
        depth = cv2.distanceTransform(region, cv2.DIST_L2, 3)[here]
        alpha = np.clip(depth / (feather + 1), 0, 1)
    else:
        alpha = (inside > 0).astype(np.float32)
    alpha = alpha[..., None]
    image = host.copy()
    mixed = content * alpha + host[here] * (1 - alpha)
    image[here] = np.round(mixed).astype(np.uint8)
    return image

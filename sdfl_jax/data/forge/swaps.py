"""Blends another photograph into a face-shaped region, as a model of face swaps.

The traces of a face swap are those of the blending, which needs no face. A method is a
function `(content, host, region) -> content` of uint8 planes that share H and W, the
region's bounding box.
"""

import cv2
import numpy as np

from sdfl_jax.data.forge.paste import Donor, Image, Region, Rng, paste
from sdfl_jax.data.forge.regions import bounding_box


def poisson(content: Image, host: Image, region: Region) -> Image:
    """The content's gradients on the host's border (Perez et al. 2003)."""
    height, width = region.shape
    frame = (2, 2, 2, 2)  # the clone must not touch the border of the picture
    content, host = (
        cv2.copyMakeBorder(plane, *frame, cv2.BORDER_REPLICATE)
        for plane in (content, host)
    )
    # A new plane in any case: OpenCV writes into it.
    mask = cv2.copyMakeBorder(region, *frame, cv2.BORDER_CONSTANT, value=0)
    centre = ((width + 4) // 2, (height + 4) // 2)
    cloned = cv2.seamlessClone(content, host, mask, centre, cv2.NORMAL_CLONE)
    return cloned[2:-2, 2:-2]


def colour_transfer(content: Image, host: Image, region: Region) -> Image:
    """The content with the host's mean and spread in Lab (Reinhard et al. 2001)."""
    content, host = (cv2.cvtColor(p, cv2.COLOR_RGB2LAB) for p in (content, host))
    (mean, spread), (wanted_mean, wanted_spread) = (
        cv2.meanStdDev(plane, mask=region) for plane in (content, host)
    )
    scale = np.clip(wanted_spread / np.maximum(spread, 1), 0.5, 2)
    response = (np.arange(256) - mean) * scale + wanted_mean  # channels 256
    table = np.clip(np.rint(response), 0, 255).astype(np.uint8).T[None]
    matched = cv2.LUT(content, np.ascontiguousarray(table))
    return cv2.cvtColor(matched, cv2.COLOR_LAB2RGB)


METHODS = {"poisson": poisson, "colour_transfer": colour_transfer}


def swap(host: Image, region: Region, donor: Donor, rng: Rng) -> tuple[Image, dict]:
    """Another photograph blended into the region by one of `METHODS`."""
    method = str(rng.choice(sorted(METHODS)))
    top, left, height, width = bounding_box(region)
    here = (slice(top, top + height), slice(left, left + width))
    blended = METHODS[method](donor(height, width), host[here], region[here])
    # Tools blur the edge of a face; it also hides that OpenCV's clone leaks out of its
    # mask, where the host stays as it was.
    feather = max(2, round(float(rng.uniform(0.02, 0.08)) * min(height, width)))
    image = paste(host, blended, region, feather)
    return image, {"method": method, "feather": feather}

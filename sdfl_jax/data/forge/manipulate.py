"""Manipulations of one photograph with the exact mask of what they changed.

A manipulation is a function `(host, region, donor, rng) -> (image, parameters)`: `host`
is uint8 H W 3, `region` uint8 H W (0 or 255), `donor(height, width)` draws a crop of
another photograph (uint8 height width 3) and `rng` is the only source of randomness.
No pixel outside `region` changes. It raises `Unsuitable` where the manipulation is not
possible in this region; another region is tried then. `KINDS` names them, each with the
source of its regions (`objects.SOURCES`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from sdfl_jax.data.forge.edits import edit
from sdfl_jax.data.forge.paste import (
    Donor,
    Image,
    Region,
    Rng,
    Unsuitable,
    draw_feather,
    paste,
)
from sdfl_jax.data.forge.regions import bounding_box
from sdfl_jax.data.forge.swaps import swap


@dataclass(frozen=True)
class Kind:
    """A manipulation, the source of its regions, and its requirements.

    `least_change`: minimum mean absolute change (of 255) inside the mask; a sky pasted
    onto itself is not a manipulation.
    """

    manipulate: Callable
    regions: str = "shape"
    needs_donor: bool = False
    least_change: float = 5.0


def splice(host: Image, region: Region, donor: Donor, rng: Rng) -> tuple[Image, dict]:
    """Another photograph's content in the region."""
    feather = draw_feather(rng)
    content = donor(*bounding_box(region)[2:])
    return paste(host, content, region, feather), {"feather": feather}


def copymove(host: Image, region: Region, donor: Donor, rng: Rng) -> tuple[Image, dict]:
    """The host's own content; half of the time rotated, scaled and mirrored."""
    top, left, height, width = bounding_box(region)
    centre = np.array([left + (width - 1) / 2, top + (height - 1) / 2])
    turn, scale, mirror = 0.0, 1.0, False
    if rng.random() < 0.5:
        turn = float(rng.uniform(-45, 45))
        scale = float(rng.uniform(0.7, 1.4))
        mirror = bool(rng.random() < 0.5)

    # Where each pixel of the region is taken from, relative to the source's centre.
    c, s = np.cos(np.deg2rad(turn)) / scale, np.sin(np.deg2rad(turn)) / scale
    to_source = np.array([[c, s], [-s, c]]) @ np.diag([-1.0 if mirror else 1.0, 1.0])
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width - 1, height - 1]
    reach = np.abs(corners / 2 @ to_source.T).max(0)
    low, high = reach, np.array(host.shape[1::-1]) - 1 - reach
    if (low > high).any():
        raise Unsuitable("the source would leave the frame")
    source = rng.uniform(low, high)
    if turn == 0.0 and scale == 1.0 and not mirror:
        source = centre + np.round(source - centre)  # whole pixels: an exact copy
    if np.abs(source - centre).max() < max(width, height) / 4:
        raise Unsuitable("the source lies on the target")

    warp = np.hstack([to_source, (source + to_source @ (-corners[2] / 2))[:, None]])
    content = cv2.warpAffine(
        host,
        warp,
        (width, height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    feather = draw_feather(rng)
    pasted = paste(host, content, region, feather)
    shift = [round(float(v), 1) for v in source - centre]
    return pasted, {
        "shift_xy": shift,
        "turn": round(turn, 1),
        "scale": round(scale, 3),
        "mirror": mirror,
        "feather": feather,
    }


def inpainting(
    host: Image, region: Region, donor: Donor, rng: Rng
) -> tuple[Image, dict]:
    """The region filled from its surroundings: Telea (2004) or Navier-Stokes
    (Bertalmio et al. 2001)."""
    method = str(rng.choice(["telea", "navier_stokes"]))
    radius = int(rng.integers(3, 6))
    flag = {"telea": cv2.INPAINT_TELEA, "navier_stokes": cv2.INPAINT_NS}[method]
    filled = cv2.inpaint(host, region, radius, flag)
    # Some versions smooth a margin too.
    image = np.where(region[..., None] > 0, filled, host)
    return image, {"method": method, "radius": radius}


KINDS = {
    "splice": Kind(splice, regions="segment", needs_donor=True),
    "copymove": Kind(copymove),
    "inpainting": Kind(inpainting),
    "object": Kind(splice, regions="grabcut", needs_donor=True),
    "edit": Kind(edit, least_change=2.0),  # a JPEG of quality 75 changes as much
    "swap": Kind(swap, regions="oval", needs_donor=True),
}

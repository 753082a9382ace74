"""Sources of regions: random shapes, or objects cut out of another photograph.

A source is a function `(height, width, donor, rng) -> (region, content, drawn)`: the
region uint8 `height` `width` (0 or 255), the content of its bounding box (None: the
manipulation takes it from its donor) and a record with the region's share of the image
as `area`. `donor` is that of a manipulation (`donor(height, width)`) and also has
`donor.segments()` and `donor.areas`, see `forger.Donor`. Raises `Unsuitable` where
nothing fits; then another draw is made.
"""

import cv2
import numpy as np

from sdfl_jax.data.forge.history import INTERPOLATIONS, perhaps_compressed
from sdfl_jax.data.forge.paste import Unsuitable
from sdfl_jax.data.forge.regions import (
    bounding_box,
    draw_share,
    oval_region,
    random_region,
)

_GRABCUT_SIDE = 64  # pixels: the least long side that GrabCut works on


def shape(height: int, width: int, donor, rng):
    """A random outline."""
    region, drawn = random_region(height, width, rng, donor.areas)
    return region, None, drawn


def oval(height: int, width: int, donor, rng):
    """The outline of a face."""
    region, drawn = oval_region(height, width, rng, donor.areas)
    return region, None, drawn


def segment(height: int, width: int, donor, rng):
    """A segment of another photograph's label map; a random outline without maps."""
    found = donor.segments()
    if found is None:
        return shape(height, width, donor, rng)
    pixels, labels, history = found
    share = draw_share(rng, donor.areas)
    sizes = np.bincount(labels.ravel())
    # Grains and backgrounds that fill half of a photograph are no objects.
    fitting = np.flatnonzero((sizes >= 400) & (sizes <= labels.size / 2))
    if not len(fitting):
        raise Unsuitable("no segment of a fitting size")
    label = int(rng.choice(fitting))
    mask = largest_part((labels == label).astype(np.uint8) * 255)
    top, left, tall, wide = bounding_box(mask)
    piece = pixels[top : top + tall, left : left + wide]
    mask = mask[top : top + tall, left : left + wide]

    natural = cv2.countNonZero(mask) / (height * width)
    smallest, largest = donor.areas
    keep = smallest <= natural <= largest and rng.random() < 0.5
    factor = 1.0 if keep else min(1.5, float(np.sqrt(share / natural)))
    if factor != 1.0:
        how = str(rng.choice(list(INTERPOLATIONS)))
        size = [max(2, round(n * factor)) for n in (wide, tall)]
        piece = cv2.resize(piece, size, interpolation=INTERPOLATIONS[how])
        mask = cv2.resize(mask, size, interpolation=cv2.INTER_NEAREST)
        history["resize"] = {"factor": round(factor, 3), "interpolation": how}
    piece = perhaps_compressed(np.ascontiguousarray(piece), history, rng)
    region, content = _place(mask, piece, height, width, rng, donor.areas)
    return region, content, _told("segment", region) | {"label": label}


def grabcut(height: int, width: int, donor, rng):
    """An object of another photograph, found by GrabCut at quarter size (Rother et al.
    2004)."""
    # The object is about a quarter of the box that it is looked for in.
    side = np.sqrt(4 * draw_share(rng, donor.areas) * height * width)
    squeeze = float(np.exp(rng.uniform(-0.4, 0.4)))
    tall, wide = (
        int(np.clip(side * s, 16, n))
        for s, n in ((squeeze, height), (1 / squeeze, width))
    )
    piece = donor(tall, wide)
    scale = min(1.0, max(0.25, _GRABCUT_SIDE / max(tall, wide)))
    size = [max(8, round(n * scale)) for n in (wide, tall)]
    small = cv2.resize(piece, size, interpolation=cv2.INTER_AREA)
    marks = np.full(small.shape[:2], cv2.GC_PR_FGD, np.uint8)
    # The middle is the object's and the rim is not; without the first, a piece that is
    # the same all over comes back empty.
    middle, core = [n // 2 for n in size], [max(1, n // 8) for n in size]
    cv2.ellipse(marks, middle, core, 0, 0, 360, cv2.GC_FGD, cv2.FILLED)
    down, across = (max(1, n // 12) for n in marks.shape)
    marks[:down] = marks[-down:] = cv2.GC_BGD
    marks[:, :across] = marks[:, -across:] = cv2.GC_BGD
    models = np.zeros((2, 1, 65))
    cv2.setRNGSeed(int(rng.integers(1 << 31)))  # it starts with a random clustering
    cv2.grabCut(small, marks, None, *models, 1, cv2.GC_INIT_WITH_MASK)
    found = (marks & 1) * np.uint8(255)  # surely or probably foreground
    found = cv2.resize(found, (wide, tall), interpolation=cv2.INTER_LINEAR)
    mask = largest_part((found > 127) * np.uint8(255))
    if cv2.countNonZero(mask) > 0.8 * mask.size:  # all but the rim
        raise Unsuitable("GrabCut found no outline")
    region, content = _place(mask, piece, height, width, rng, donor.areas)
    return region, content, _told("grabcut", region)


SOURCES = {"shape": shape, "oval": oval, "segment": segment, "grabcut": grabcut}


def largest_part(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask (0 or 255)."""
    count, parts, statistics, _ = cv2.connectedComponentsWithStats(mask)
    if count <= 2:
        return mask
    largest = 1 + int(np.argmax(statistics[1:, cv2.CC_STAT_AREA]))
    return (parts == largest) * np.uint8(255)


def _place(mask, piece, height: int, width: int, rng, areas):
    """The object anywhere in the frame, cut off at its border, as shapes are."""
    tall, wide = mask.shape
    for _ in range(8):
        top, left = (
            int(rng.integers(n)) - m // 2 for n, m in ((height, tall), (width, wide))
        )
        up, before = max(0, -top), max(0, -left)
        inside = mask[up : height - top, before : width - left]
        if areas[0] <= cv2.countNonZero(inside) / (height * width) <= areas[1]:
            break
    else:
        raise Unsuitable("too little or too much of the object is in the frame")
    top, left = top + up, left + before
    frame = np.zeros((height, width), np.uint8)
    frame[top : top + inside.shape[0], left : left + inside.shape[1]] = inside
    box_top, box_left, tall, wide = bounding_box(frame)
    up, before = up + box_top - top, before + box_left - left
    return frame, piece[up : up + tall, before : before + wide]


def _told(source: str, region: np.ndarray) -> dict:
    return {"source": source, "area": round(cv2.countNonZero(region) / region.size, 4)}

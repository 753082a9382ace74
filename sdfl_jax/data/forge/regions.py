"""Regions to manipulate: random outlines of a given area anywhere in the frame."""

import cv2
import numpy as np
from jaxtyping import Float, UInt8

# Areas as shares of the image, from and to, drawn log-uniformly: 14 % on average, as
# the usual benchmarks have it, and many small ones.
AREAS = (0.03, 0.40)


def blob(rng: np.random.Generator) -> Float[np.ndarray, "P 2"]:
    """A smooth closed outline about the origin, in x and y."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    order = np.arange(1, 7)[:, None]
    swing = rng.normal(0, 0.45, order.shape) / order
    phase = rng.uniform(0, 2 * np.pi, order.shape)
    radius = np.exp((swing * np.cos(order * angle + phase)).sum(0))
    return _around(angle, radius)


def polygon(rng: np.random.Generator) -> Float[np.ndarray, "P 2"]:
    """A straight-edged outline of 3 to 9 corners about the origin, in x and y."""
    corners = int(rng.integers(3, 10))
    # One corner per sector, never half a turn from the next: the origin stays inside.
    spread = rng.uniform(0.25, 0.75, corners)
    angle = (np.arange(corners) + spread) * 2 * np.pi / corners
    return _around(angle, rng.uniform(0.4, 1.0, corners))


def face(rng: np.random.Generator) -> Float[np.ndarray, "P 2"]:
    """An upright oval, narrower at the chin, about the origin, in x and y."""
    angle = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    x, y = np.cos(angle), np.sin(angle)
    chin = rng.uniform(0.0, 0.25)
    x = x * rng.uniform(0.65, 0.85) * (1 - chin * np.maximum(y, 0))
    return np.stack([x, y], -1) @ _rotation(rng.uniform(-0.35, 0.35))


OUTLINES = {"blob": blob, "polygon": polygon}


def random_region(
    height: int,
    width: int,
    rng: np.random.Generator,
    areas: tuple[float, float] = AREAS,
) -> tuple[UInt8[np.ndarray, "{height} {width}"], dict]:
    """A region (0 or 255) and the parameters it was drawn with.

    The centre is uniform over the frame, and the outline is scaled until its part
    inside the frame has the drawn area, so that regions cut off by the border are as
    large as others and the position of a region is not predictable.
    """
    name = str(rng.choice(sorted(OUTLINES)))
    outline = OUTLINES[name](rng)
    squeeze, turn = rng.uniform(0.5, 1.0), rng.uniform(0, 2 * np.pi)
    outline = (outline * [1.0, squeeze]) @ _rotation(turn)
    region, area = _scaled(outline, height, width, rng, areas)
    return region, {"outline": name, "area": area}


def oval_region(
    height: int,
    width: int,
    rng: np.random.Generator,
    areas: tuple[float, float] = AREAS,
) -> tuple[UInt8[np.ndarray, "{height} {width}"], dict]:
    """The same with the outline of a face."""
    region, area = _scaled(face(rng), height, width, rng, areas)
    return region, {"outline": "face", "area": area}


def draw_share(rng: np.random.Generator, areas: tuple[float, float]) -> float:
    """The area of a region as a share of the image."""
    return float(np.exp(rng.uniform(*np.log(areas))))


def _scaled(outline, height: int, width: int, rng, areas) -> tuple[np.ndarray, float]:
    """The region of an outline of a drawn area at a drawn place, and its area."""
    centre = rng.uniform(0, 1, 2) * [width, height]
    share = draw_share(rng, areas)
    low, high = 0.0, 4.0 * max(height, width)
    for _ in range(14):  # halving: the area grows with the scale
        scale = (low + high) / 2
        region = _fill(outline * scale + centre, height, width)
        if cv2.countNonZero(region) < share * height * width:
            low = scale
        else:
            high = scale
    region = _fill(outline * high + centre, height, width)
    area = cv2.countNonZero(region) / (height * width)
    return region, round(area, 4)


def bounding_box(region: UInt8[np.ndarray, "H W"]) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is set in `region`."""
    left, top, width, height = cv2.boundingRect(region)
    return top, left, height, width


def _around(angle: np.ndarray, radius: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(angle), np.sin(angle)], -1) * radius[:, None]


def _rotation(turn: float) -> np.ndarray:
    return np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])


def _fill(points: np.ndarray, height: int, width: int) -> np.ndarray:
    region = np.zeros((height, width), np.uint8)
    cv2.fillPoly(region, [np.round(points).astype(np.int32)], 255)
    return region

"""The line `copy_move`: places inside an image that look alike, drawn as lines."""

from pathlib import Path

import cv2
import numpy as np

from sdfl_jax.data import images
from sdfl_jax.drawing.overlay import thumbnail
from sdfl_jax.examine.finding import Finding

_SIDE = 1280  # pixels of the longer side that keypoints are sought at
_POINTS = 4000
_RATIO = 0.6  # of the nearest match's distance to the next one's (Amerini et al., 2011)
_NEAREST = 24  # pixels between two places that count as different ones
_TOLERANCE = 3.0  # pixels, of a match that follows a transformation
_SHUFFLES = 10
_LEAST = 12  # matches that follow one transformation
_ROWS = 1000  # of the table of distances at a time


def copy_move(path: Path) -> Finding:
    """Matched SIFT keypoints that follow one transformation, against chance.

    Chance is what the same search finds when the matches are shuffled: the places stay,
    their pairing does not.
    """
    image = images.read_image(path)
    small = thumbnail(image, _SIDE)
    scale = image.shape[1] / small.shape[1]
    here, there, points = matches(small)
    inside, transform = _follow(here, there)
    rng = np.random.default_rng(0)
    chance = [
        int(_follow(here, there[rng.permutation(len(there))])[0].sum())
        for _ in range(_SHUFFLES if len(here) >= _LEAST else 0)
    ]
    number, expected = int(inside.sum()), float(np.mean(chance)) if chance else 0.0
    most = max(chance, default=0)
    claimed = number >= max(_LEAST, 2 * most)
    found = {
        "keypoints": points,
        "matches": len(here),
        "following_one_transformation": number,
        "expected_by_chance": round(expected, 1),
        "most_by_chance": most,
        "claimed": claimed,
        "shift": None,
        "scale": None,
        "rotation_degrees": None,
    }
    if claimed:
        apart = (there - here)[inside]
        found["shift"] = [round(float(v) * scale, 1) for v in np.median(apart, axis=0)]
        a, b = transform[0, 0], transform[1, 0]
        found["scale"] = round(float(np.hypot(a, b)), 3)
        found["rotation_degrees"] = round(float(np.degrees(np.arctan2(b, a))), 1)
        summary = (
            f"{number} pairs of places follow one shift of {found['shift'][0]:g} "
            f"columns and {found['shift'][1]:g} rows (scale {found['scale']:g}, turned "
            f"by {found['rotation_degrees']:g} degrees); by chance {expected:.1f} "
            f"would (at most {most} in {_SHUFFLES} shuffles)."
        )
    else:
        summary = (
            f"No copied region: of {len(here)} pairs of places that look alike, "
            f"{number} follow one transformation; by chance {expected:.1f} would."
        )
    finding = Finding(
        [summary],
        certainty="Pairs that agree far beyond chance show the same pattern twice. "
        "Whether a hand or the world repeated it is for the eye to say.",
        limits="Windows, tiles, print and other patterns repeat by themselves. Smooth "
        "places (sky, skin) have no keypoints, and small copies too few.",
        found=found,
    )
    if claimed:
        finding.show(
            "copy_move.jpg",
            _drawn(small, here[inside], there[inside]),
            "Places that look alike and follow one transformation, joined by lines.",
        )
    return finding


def matches(image: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Pairs of places N 2 (x, y) that look alike, and the number of keypoints."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    keypoints, descriptors = cv2.SIFT_create(_POINTS).detectAndCompute(grey, None)
    nothing = np.zeros((0, 2), np.float32)
    if descriptors is None or len(keypoints) < 4:
        return nothing, nothing, len(keypoints)
    places = np.array([point.pt for point in keypoints], np.float32)
    # RootSIFT: differences of square roots tell more than those of plain histograms.
    total = descriptors.sum(axis=1, keepdims=True) + 1e-6
    codes = np.sqrt(descriptors / total)
    pairs = set()
    for start in range(0, len(codes), _ROWS):
        rows = slice(start, start + _ROWS)
        # Squared distances, of vectors of length one.
        distance = 2 - 2 * codes[rows] @ codes.T
        near = np.square(places[rows, None] - places[None]).sum(axis=2) < _NEAREST**2
        distance[near] = np.inf
        nearest = np.argpartition(distance, 2, axis=1)[:, :2]
        values = np.take_along_axis(distance, nearest, axis=1)
        order = np.argsort(values, axis=1)
        nearest = np.take_along_axis(nearest, order, axis=1)
        values = np.take_along_axis(values, order, axis=1)
        good = np.isfinite(values).all(axis=1) & (
            values[:, 0] < _RATIO**2 * values[:, 1]
        )
        for row in np.flatnonzero(good):
            first, second = start + int(row), int(nearest[row, 0])
            # One direction for all, or shifts back would cancel those forth.
            a, b = sorted((first, second), key=lambda i: (places[i, 0], places[i, 1]))
            pairs.add((*places[a], *places[b]))
    if not pairs:
        return nothing, nothing, len(keypoints)
    here, there = np.array(sorted(pairs), np.float32).reshape(-1, 2, 2).swapaxes(0, 1)
    return np.ascontiguousarray(here), np.ascontiguousarray(there), len(keypoints)


def _follow(
    here: np.ndarray, there: np.ndarray
) -> tuple[np.ndarray, np.ndarray | None]:
    """Which pairs follow the shift, turn and scale that most do; that matrix."""
    if len(here) < 3:
        return np.zeros(len(here), bool), None
    cv2.setRNGSeed(0)
    matrix, inside = cv2.estimateAffinePartial2D(
        here, there, ransacReprojThreshold=_TOLERANCE, maxIters=3000
    )
    if matrix is None:
        return np.zeros(len(here), bool), None
    # A scale of nearly nothing gathers all in one point.
    if not 0.3 < np.hypot(matrix[0, 0], matrix[1, 0]) < 3:
        return np.zeros(len(here), bool), None
    return inside.ravel().astype(bool), matrix


def _drawn(image: np.ndarray, here: np.ndarray, there: np.ndarray) -> np.ndarray:
    shown = np.ascontiguousarray(image // 2 + 90)
    width = max(1, max(image.shape[:2]) // 700)
    for a, b in zip(here, there, strict=True):
        a, b = (tuple(int(round(float(v))) for v in place) for place in (a, b))
        cv2.line(shown, a, b, (230, 30, 30), width, cv2.LINE_AA)
        for place in (a, b):
            cv2.circle(shown, place, 3 * width, (255, 220, 60), -1, cv2.LINE_AA)
    return shown

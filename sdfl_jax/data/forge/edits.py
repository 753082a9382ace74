"""Local edits: the host's own content in the region, filtered.

An edit is a function `(piece, rng) -> (piece, parameters)` of uint8 H W 3.
"""

import cv2
import numpy as np

from sdfl_jax.data.forge.history import INTERPOLATIONS
from sdfl_jax.data.forge.paste import Donor, Image, Region, Rng, draw_feather, paste
from sdfl_jax.data.forge.regions import bounding_box

_MARGIN = 16  # pixels around the region that a filter may look at


def blur(piece: Image, rng: Rng) -> tuple[Image, dict]:
    """Gaussian."""
    sigma = float(rng.uniform(1.0, 4.0))
    return cv2.GaussianBlur(piece, (0, 0), sigma), {"sigma": round(sigma, 2)}


def noise(piece: Image, rng: Rng) -> tuple[Image, dict]:
    """White Gaussian, the same in all channels of a grey picture."""
    sigma = float(rng.uniform(4.0, 16.0))
    channels = 1 if _is_grey(piece) else 3
    drawn = rng.standard_normal((*piece.shape[:2], channels), np.float32) * sigma
    return _to_bytes(piece + drawn), {"sigma": round(sigma, 2)}


def colour(piece: Image, rng: Rng) -> tuple[Image, dict]:
    """Gamma and a gain; a gain for each channel where there is colour."""
    gamma = float(np.exp(rng.uniform(-0.5, 0.5)))
    gains = rng.uniform(0.8, 1.25, 1 if _is_grey(piece) else 3)
    response = (np.arange(256)[:, None] / 255) ** gamma * gains * 255  # 256 channels
    table = np.broadcast_to(_to_bytes(response), (256, 3))
    changed = cv2.LUT(piece, np.ascontiguousarray(table[None]))
    gains = [round(float(gain), 3) for gain in gains]
    return changed, {"gamma": round(gamma, 3), "gains": gains}


def resample(piece: Image, rng: Rng) -> tuple[Image, dict]:
    """Made smaller and large again."""
    factor = float(rng.uniform(0.25, 0.7))
    how = str(rng.choice(sorted(INTERPOLATIONS)))
    height, width = piece.shape[:2]
    size = [max(2, round(n * factor)) for n in (width, height)]
    small = cv2.resize(piece, size, interpolation=cv2.INTER_AREA)
    large = cv2.resize(small, (width, height), interpolation=INTERPOLATIONS[how])
    return large, {"factor": round(factor, 3), "interpolation": how}


def median(piece: Image, rng: Rng) -> tuple[Image, dict]:
    """The median of 3, 5 or 7 pixels squared."""
    side = int(rng.choice([3, 5, 7]))
    return cv2.medianBlur(piece, side), {"side": side}


EDITS = {
    "blur": blur,
    "noise": noise,
    "colour": colour,
    "resample": resample,
    "median": median,
}


def edit(
    host: Image, region: Region, donor: Donor | None, rng: Rng
) -> tuple[Image, dict]:
    """One of `EDITS` inside the region."""
    method = str(rng.choice(list(EDITS)))
    top, left, height, width = bounding_box(region)
    up, before = min(top, _MARGIN), min(left, _MARGIN)
    around = host[
        top - up : top + height + _MARGIN, left - before : left + width + _MARGIN
    ]
    changed, parameters = EDITS[method](np.ascontiguousarray(around), rng)
    content = changed[up : up + height, before : before + width]
    feather = draw_feather(rng)
    image = paste(host, content, region, feather)
    return image, {"method": method, "feather": feather} | parameters


def _is_grey(piece: np.ndarray) -> bool:
    return bool((np.ptp(piece[::4, ::4].astype(np.int16), axis=-1) <= 8).all())


def _to_bytes(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)

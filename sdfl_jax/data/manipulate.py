"""Manipulations of one photograph with the exact mask of what they changed.

A manipulation is a function `(host, region, donor, rng) -> (image, parameters)`: `host`
is uint8 H W 3, `region` uint8 H W (0 or 255), `donor(height, width)` draws a piece of
another photograph (uint8 height width 3) and `rng` is the only source of chance. No
pixel outside `region` changes. It raises `Unsuitable` where host and region do not go
together; another region is tried then.
"""

from collections.abc import Callable

import cv2
import numpy as np
from jaxtyping import UInt8

from sdfl_jax.data.regions import bounding_box

Image = UInt8[np.ndarray, "H W 3"]
Region = UInt8[np.ndarray, "H W"]
Donor = Callable[[int, int], np.ndarray]
Rng = np.random.Generator

INTERPOLATIONS = {
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
SUBSAMPLINGS = {  # in life, cameras take 4:2:2 or 4:2:0 and editors often 4:4:4
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
}


class Unsuitable(Exception):
    """This host and this region do not go together."""


def splice(host: Image, region: Region, donor: Donor, rng: Rng) -> tuple[Image, dict]:
    """Another photograph's content in the region."""
    box = bounding_box(region)
    feather = _draw_feather(rng)
    pasted = _paste(host, donor(*box[2:]), region, box, feather)
    return pasted, {"feather": feather}


def copymove(host: Image, region: Region, donor: Donor, rng: Rng) -> tuple[Image, dict]:
    """The host's own content in the region, half the time turned, scaled, mirrored."""
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
    feather = _draw_feather(rng)
    pasted = _paste(host, content, region, (top, left, height, width), feather)
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
    """The region removed and filled from its surroundings (Telea 2004, or
    Navier-Stokes, Bertalmio et al. 2001)."""
    method = str(rng.choice(["telea", "navier_stokes"]))
    radius = int(rng.integers(3, 6))
    flag = {"telea": cv2.INPAINT_TELEA, "navier_stokes": cv2.INPAINT_NS}[method]
    filled = cv2.inpaint(host, region, radius, flag)
    # Some versions smooth a margin too.
    image = np.where(region[..., None] > 0, filled, host)
    return image, {"method": method, "radius": radius}


KINDS = {"splice": splice, "copymove": copymove, "inpainting": inpainting}
NEED_DONOR = {"splice"}


def _draw_feather(rng: Rng) -> int:
    """Width in pixels of a paste's soft edge: 0, a hard edge, four times in five."""
    return int(rng.integers(1, 4)) if rng.random() < 0.2 else 0


def _paste(host, content, region, box, feather: int) -> np.ndarray:
    """`content` (box-sized) where `region` is set; a soft edge lies inside the region,
    so that the mask stays exact."""
    top, left, height, width = box
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


def draw_compression(rng: Rng, low: int, high: int) -> dict:
    """A JPEG quality from `low` to `high` and a chroma subsampling."""
    return {
        "quality": int(rng.integers(low, high + 1)),
        "subsampling": str(rng.choice(list(SUBSAMPLINGS), p=[0.3, 0.2, 0.5])),
    }


def encode_jpeg(image: Image, quality: int, subsampling: str) -> bytes:
    """`image` (RGB) as the bytes of a JPEG file."""
    options = [
        *(cv2.IMWRITE_JPEG_QUALITY, quality),
        *(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, SUBSAMPLINGS[subsampling]),
    ]
    return cv2.imencode(".jpg", image[..., ::-1], options)[1].tobytes()


def with_history(
    photograph: Image, shape: tuple[int, int] | None, rng: Rng
) -> tuple[UInt8[np.ndarray, "h w 3"], dict]:
    """A piece of `shape` (height, width; None: all of it) with a past, and that past.

    Half of the pieces come from a photograph resized by 0.5 to 1.5 (as far as the shape
    allows) and half from one that was a JPEG of quality 60 to 98 before, each by its
    own draw; the piece's place is uniform and owes nothing to the JPEG's 8x8 grid.
    """
    height, width = photograph.shape[:2]
    least = max(np.divide(shape, (height, width))) if shape else 0.0
    factor = float(rng.uniform(0.5, 1.5)) if rng.random() < 0.5 else 1.0
    factor = max(factor, least)  # a small donor grows to fill its region
    history: dict = {}

    if shape:
        # Cut first, with a margin for the JPEG's grid, so that large photographs cost
        # no more than small ones.
        wanted = [int(np.ceil((n + 8) / factor)) for n in shape]
        piece = _cut(
            photograph,
            [min(w, n) for w, n in zip(wanted, (height, width), strict=True)],
            rng,
        )
    else:
        piece = photograph
    if factor != 1.0:
        how = str(rng.choice(list(INTERPOLATIONS)))
        resized = [max(16, round(n * factor)) for n in piece.shape[:2]]
        if shape:
            resized = [max(n, s) for n, s in zip(resized, shape, strict=True)]
        piece = cv2.resize(
            piece, (resized[1], resized[0]), interpolation=INTERPOLATIONS[how]
        )
        history["resize"] = {"factor": round(factor, 3), "interpolation": how}
    if rng.random() < 0.5:
        history["jpeg"] = draw_compression(rng, 60, 98)
        encoded = np.frombuffer(encode_jpeg(piece, **history["jpeg"]), np.uint8)
        piece = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
    if shape:
        piece = _cut(piece, shape, rng)
    return np.ascontiguousarray(piece), history


def _cut(image: np.ndarray, shape, rng) -> np.ndarray:
    top, left = (
        int(rng.integers(have - want + 1))
        for have, want in zip(image.shape[:2], shape, strict=True)
    )
    return image[top : top + shape[0], left : left + shape[1]]

"""Simulated processing history of a photograph: resizing and JPEG compression."""

import cv2
import numpy as np
from jaxtyping import UInt8

Image = UInt8[np.ndarray, "H W 3"]
Rng = np.random.Generator

INTERPOLATIONS = {
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos": cv2.INTER_LANCZOS4,
}
SUBSAMPLINGS = {  # cameras use 4:2:2 or 4:2:0, editors often 4:4:4
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
}


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
    """A crop of `shape` (height, width; None: all of it) with a simulated history.

    Returns the crop and a record of its history. Half of the crops come from a
    photograph resized by 0.5 to 1.5 (as far as the shape allows), and half from one
    that was compressed as JPEG with quality 60 to 98, drawn independently. The crop's
    position is uniform and not aligned to the 8x8 grid of that JPEG.
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
    piece = perhaps_compressed(piece, history, rng)
    if shape:
        piece = _cut(piece, shape, rng)
    return np.ascontiguousarray(piece), history


def perhaps_compressed(piece: Image, history: dict, rng: Rng) -> Image:
    """`piece`, compressed as JPEG of quality 60 to 98 half of the time.

    The compression is recorded in `history`.
    """
    if rng.random() < 0.5:
        history["jpeg"] = draw_compression(rng, 60, 98)
        encoded = np.frombuffer(encode_jpeg(piece, **history["jpeg"]), np.uint8)
        piece = cv2.imdecode(encoded, cv2.IMREAD_COLOR)[..., ::-1]
    return piece


def _cut(image: np.ndarray, shape, rng) -> np.ndarray:
    top, left = (
        int(rng.integers(have - want + 1))
        for have, want in zip(image.shape[:2], shape, strict=True)
    )
    return image[top : top + shape[0], left : left + shape[1]]

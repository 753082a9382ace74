"""The line `aids`: pictures that help an eye, and prove nothing by themselves."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from sdfl_jax.data import images
from sdfl_jax.drawing.overlay import thumbnail
from sdfl_jax.examine.finding import SIDE, Finding

_QUALITY = 90  # of the resave of error level analysis
_GHOSTS = (50, 60, 70, 75, 80, 85, 90, 95)
_LARGEST = 2048  # pixels of the longer side, beyond which the middle is looked at


def aids(path: Path) -> Finding:
    """Error level analysis, noise residual and JPEG ghosts, as pictures.

    They work on pixels as they are, so that of a larger image its middle is taken, not
    a smaller copy.
    """
    image = images.read_image(path)
    part, box = middle(image, _LARGEST)
    finding = Finding(
        [
            "Three pictures for a trained eye: error level analysis, noise residual, "
            "JPEG ghosts. Nothing is concluded from them."
        ],
        certainty="None: these are aids for looking, not measurements.",
        limits="Edges, texture and colour alone make bright and dark places in all "
        "three. Authentic photographs show striking patterns as well.",
        found={
            "looked_at": dict(zip(("x", "y", "width", "height"), box, strict=True)),
            "whole_image": box[2:] == image.shape[1::-1],
        },
    )
    finding.show(
        "ela.jpg",
        error_level(part, _QUALITY),
        f"Error level analysis: what a resave at quality {_QUALITY} changes, "
        "brightened so that one pixel in a hundred is white.",
    )
    finding.show(
        "noise.jpg",
        noise_residual(part),
        "Noise residual: what a median of 3x3 pixels takes away, stretched about grey.",
    )
    finding.show(
        "ghosts.jpg",
        _ghosts(part),
        "JPEG ghosts: the difference to resaves at qualities "
        f"{', '.join(map(str, _GHOSTS))}, smoothed. A place that is dark at a quality "
        "where the rest is not may have been saved at it before (Farid, Exposing "
        "digital forgeries from JPEG ghosts, 2009).",
    )
    return finding


def middle(
    image: np.ndarray, side: int
) -> tuple[np.ndarray, tuple[int, int, int, int]]:
    """The middle of an image, at most `side` each way, and its x, y, width, height.

    It begins on the grid of 8x8 pixels.
    """
    height, width = (min(n, side) for n in image.shape[:2])
    top, left = (image.shape[0] - height) // 16 * 8, (image.shape[1] - width) // 16 * 8
    return image[top : top + height, left : left + width], (left, top, width, height)


def resaved(image: np.ndarray, quality: int) -> np.ndarray:
    """The image after JPEG at that quality, with colours at half resolution."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality, subsampling=2)
    return np.asarray(Image.open(buffer))


def error_level(image: np.ndarray, quality: int) -> np.ndarray:
    """How much a resave changes each channel, uint8 H W 3, brightened."""
    apart = cv2.absdiff(image, resaved(image, quality))
    top = max(1.0, float(np.percentile(apart[::4, ::4], 99)))
    return cv2.convertScaleAbs(apart, alpha=255 / top)


def noise_residual(image: np.ndarray) -> np.ndarray:
    """Grey levels without their 3x3 median, uint8 H W, 128 for none."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    rest = grey.astype(np.float32) - cv2.medianBlur(grey, 3)
    spread = max(1.0, float(np.percentile(np.abs(rest[::4, ::4]), 99)))
    return np.clip(128 + rest * (127 / spread), 0, 255).astype(np.uint8)


def _ghosts(image: np.ndarray) -> np.ndarray:
    """The maps of all qualities side by side, uint8 H W."""
    columns = 4
    shown = []
    for quality in _GHOSTS:
        square = np.zeros(image.shape[:2], np.float32)
        for channel in cv2.split(cv2.absdiff(image, resaved(image, quality))):
            cv2.accumulateSquare(channel, square)
        smooth = cv2.blur(square, (16, 16))
        low, high = np.percentile(smooth[::4, ::4], (1, 99))
        level = np.clip((smooth - low) * (255 / max(high - low, 1e-6)), 0, 255)
        shown.append(thumbnail(level.astype(np.uint8), SIDE // columns))
    rows = [np.hstack(shown[i : i + columns]) for i in range(0, len(shown), columns)]
    return np.vstack(rows)

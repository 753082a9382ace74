"""An image with its predicted mask as an overlay, and thumbnails."""

import cv2
import numpy as np

_TINT = np.array([230, 30, 30], np.float32)  # red: what the network calls manipulated


def overlay(image: np.ndarray, mask_probs: np.ndarray) -> np.ndarray:
    """The image (uint8 H W 3) tinted red where `mask_probs` (H W) is high, uint8.

    `mask_probs` is float in [0, 1], or uint8 with 255 for 1. The line runs around what
    is called manipulated at 0.5.
    """
    share = np.asarray(mask_probs, np.float32)
    share = share / 255 if mask_probs.dtype == np.uint8 else share
    # Half the image stays visible even where the network is sure.
    tint = 0.5 * share[..., None]
    tinted = image * (1 - tint) + _TINT * tint
    tinted = np.ascontiguousarray(np.round(tinted).astype(np.uint8))
    called = (share >= 0.5).astype(np.uint8)
    contours, _ = cv2.findContours(called, cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    width = max(1, round(max(image.shape[:2]) / 200))
    # A light line with a dark seam is seen on any ground.
    cv2.drawContours(tinted, contours, -1, (20, 20, 20), width + 2, cv2.LINE_AA)
    cv2.drawContours(tinted, contours, -1, (255, 220, 60), width, cv2.LINE_AA)
    return tinted


def thumbnail(plane: np.ndarray, side: int) -> np.ndarray:
    """uint8 H W [3], made smaller until its longer side is at most `side`."""
    scale = side / max(plane.shape[:2])
    if scale >= 1:
        return plane
    size = tuple(max(1, round(length * scale)) for length in plane.shape[1::-1])
    return cv2.resize(plane, size, interpolation=cv2.INTER_AREA)

"""Parts of images: the label of one, and what is mirrored to fill it up."""

import cv2
import numpy as np


def label_of_part(example: dict, mask: np.ndarray) -> int:
    """Label of a part of an image by the part's mask (see `transforms.RandomCrop`)."""
    if example["has_mask"]:
        return int(example["label"] and mask.max() >= 128)
    return example["label"]


def pad(plane: np.ndarray, height: int, width: int) -> np.ndarray:
    """Mirrors a plane H W C at its right and lower border up to `height` x `width`."""
    h, w = plane.shape[:2]
    if (h, w) == (height, width):
        return plane
    sides = (0, height - h, 0, width - w)
    padded = cv2.copyMakeBorder(plane, *sides, cv2.BORDER_REFLECT_101)
    return padded.reshape(height, width, plane.shape[2])

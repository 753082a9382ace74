"""Changes to one example, a dict of planes that share H and W.

A transform draws once for all planes, so that a mask stays under its image.
"""

import dataclasses

import cv2
import grain
import numpy as np

from sdfl_jax.data import images


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomFlip(grain.transforms.RandomMap):
    """Mirrors an example along each axis half of the time."""

    planes: tuple[str, ...] = ("image", "mask")

    def random_map(self, example: dict, rng: np.random.Generator) -> dict:
        vertical, horizontal = rng.random(2) < 0.5
        if not (vertical or horizontal):
            return example
        code = -1 if vertical and horizontal else 0 if vertical else 1
        # OpenCV mirrors several times faster than a NumPy view is copied later on; it
        # drops the axis of a single channel.
        return example | {
            name: cv2.flip(example[name], code).reshape(example[name].shape)
            for name in self.planes
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Resize(grain.transforms.Map):
    """Stretches an example to `size` x `size`, whatever its aspect (the reference)."""

    size: int

    def map(self, example: dict) -> dict:
        size = (self.size, self.size)
        return example | {
            "image": images.resize_image(example["image"], *size),
            "mask": images.resize_mask(example["mask"], *size),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomCrop(grain.transforms.RandomMap):
    """Takes a window of `size` x `size` pixels as they are, anywhere in the image.

    A smaller image is mirrored at its right and lower border first, mask included. The
    label follows the window: where a manipulated image's mask is known and the window
    has no manipulated pixel (128 or more), the window is authentic. Without a mask the
    image's label stays.
    """

    size: int

    def random_map(self, example: dict, rng: np.random.Generator) -> dict:
        image, mask = example["image"], example["mask"]
        height, width = image.shape[:2]
        top = int(rng.integers(max(height - self.size, 0) + 1))
        left = int(rng.integers(max(width - self.size, 0) + 1))
        window = np.s_[top : top + self.size, left : left + self.size]
        return example | {
            "image": pad(image[window], self.size, self.size),
            "mask": pad(mask[window], self.size, self.size),
            "label": label_of_part(example, mask[window]),
        }


def label_of_part(example: dict, mask: np.ndarray) -> int:
    """Label of a part of an image, given the part's mask (see `RandomCrop`)."""
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

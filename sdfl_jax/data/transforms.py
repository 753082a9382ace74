"""Changes to one example, a dict of planes that share H and W.

A transform draws once for all planes, so that a mask stays under its image.
"""

import dataclasses

import cv2
import grain
import numpy as np

from sdfl_jax.data import coefficients, images
from sdfl_jax.data.parts import label_of_part, pad


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
    Of an example with JPEG coefficients it begins on the grid of the blocks, and what
    lies beyond the image is grey, authentic and without frequencies. The
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
        if "dct" in example:
            return self._on_the_grid(example, top, left)
        window = np.s_[top : top + self.size, left : left + self.size]
        return example | {
            "image": pad(image[window], self.size, self.size),
            "mask": pad(mask[window], self.size, self.size),
            "label": label_of_part(example, mask[window]),
        }

    def _on_the_grid(self, example: dict, top: int, left: int) -> dict:
        """Coefficients stand for blocks of 8x8, so the window begins with one."""
        top, left = (
            start // coefficients.BLOCK * coefficients.BLOCK for start in (top, left)
        )
        planes = coefficients.window(example, top, left, self.size, self.size)
        return example | planes | {"label": label_of_part(example, planes["mask"])}

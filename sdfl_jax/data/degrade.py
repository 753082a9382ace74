"""Post-processing of images, as on their way through the web, at given strengths.

A `Degradation` changes one example before the network sees it; the mask follows where
the geometry changes. Its draws follow from the example's name, so that an example is
changed alike in every run, process and order.

| kind | strength |
| --- | --- |
| jpeg | quality of one JPEG compression, colours at half resolution |
| blur | side of the Gaussian kernel in pixels; deviation 0.15 side + 0.35 |
| noise | standard deviation of Gaussian noise, of 255 |
| resize | factor on both sides; bilinear, averaging areas where it shrinks |
| crop | share of each side that is kept, of a window anywhere |
| social | number of uploads; see `UPLOADS` |
"""

import dataclasses
import hashlib

import cv2
import imagecodecs
import numpy as np

from sdfl_jax.data import images
from sdfl_jax.data.parts import label_of_part
from sdfl_jax.errors import InputError, valid

# Longest side in pixels and JPEG quality of one upload after the other. Made after what
# is known of large services in general; it is none of them.
UPLOADS = ((2048, 85), (1080, 71), (1600, 60))


def _jpeg(image, quality: int, rng):
    return images.read_image(
        imagecodecs.jpeg8_encode(image, level=int(quality), subsampling="420")
    )


def _blur(image, side: int, rng):
    return cv2.GaussianBlur(image, (int(side), int(side)), 0)


def _noise(image, deviation: float, rng):
    noise = rng.standard_normal(image.shape, np.float32) * np.float32(deviation)
    return np.clip(np.rint(image + noise), 0, 255).astype(np.uint8)


def _social(image, uploads: int, rng):
    for side, quality in UPLOADS[: int(uploads)]:
        if max(image.shape[:2]) > side:
            image = _scaled(image, side / max(image.shape[:2]))
        image = _jpeg(image, quality, rng)
    return image


def _scaled(image, factor: float, rng=None):
    height, width = (max(1, round(n * factor)) for n in image.shape[:2])
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=how)


def _window(image, share: float, rng):
    """A window (slices) of the image, anywhere in it."""
    sides = [max(1, round(n * share)) for n in image.shape[:2]]
    starts = [
        int(rng.integers(n - side + 1))
        for n, side in zip(image.shape[:2], sides, strict=True)
    ]
    return tuple(
        slice(start, start + side) for start, side in zip(starts, sides, strict=True)
    )


_CHANGES = {
    "jpeg": _jpeg,
    "blur": _blur,
    "noise": _noise,
    "resize": _scaled,
    "social": _social,
}

# Of each kind: its unit and the strengths that an evaluation goes through.
STRENGTHS = {
    "jpeg": ("quality", (100, 90, 80, 70, 60, 50)),
    "blur": ("side of the kernel, pixels", (3, 7, 11, 15, 19, 23)),
    "noise": ("standard deviation, of 255", (3, 7, 11, 15, 19, 23)),
    "resize": ("factor on both sides", (0.25, 0.5, 0.75, 1.25, 1.5, 2.0)),
    "crop": ("share of each side kept", (0.9, 0.8, 0.7, 0.6, 0.5)),
    "social": ("uploads", tuple(range(1, len(UPLOADS) + 1))),
}


@dataclasses.dataclass(frozen=True)
class Degradation:
    """Changes an example by one kind and strength of the table above.

    Keeps the example's keys. Where the size changes, mask (nearest pixel), `height` and
    `width` follow; after a crop that leaves nothing manipulated the label does, too.
    Raises `InputError` for another kind, and for examples whose image is not stored at
    its own size.
    """

    kind: str
    strength: float

    def __post_init__(self):
        if self.kind not in STRENGTHS:
            raise InputError(
                f"No degradation {self.kind!r}; {valid(self.kind, STRENGTHS)}"
            )

    def __call__(self, example: dict) -> dict:
        image, mask = example["image"], example["mask"]
        if image.shape[:2] != (example["height"], example["width"]):
            raise InputError(
                f"{example['name']}: stored resized, and a degradation is of the image "
                "as it was; build with --storage=original."
            )
        seed = f"{self.kind}\0{self.strength}\0{example['name']}"
        digest = hashlib.sha256(seed.encode(errors="surrogateescape")).digest()
        rng = np.random.default_rng(np.frombuffer(digest, np.uint32))
        if self.kind == "crop":
            window = _window(image, self.strength, rng)
            image = np.ascontiguousarray(image[window])
            mask = np.ascontiguousarray(mask[window])
        else:
            image = _CHANGES[self.kind](image, self.strength, rng)
            mask = images.resize_mask(mask, *image.shape[:2])
        height, width = image.shape[:2]
        changed = {"image": image, "mask": mask, "height": height, "width": width}
        if self.kind == "crop":
            changed["label"] = label_of_part(example, mask)
        if "original_mask" in example:
            changed["original_mask"] = mask[..., 0]
        return example | changed

r"""Forgeries made while a network trains: none comes twice, and none is kept.

`config.data.train="forge:DIR[:WEIGHT][,DIR[:WEIGHT]...]"` names folders of photographs
and how often each is drawn from, whatever its number of files. An example is a function
of the seed and its position alone, so a resumed run, and any number of workers and
processes, see the same stream.

A canvas is a part of a photograph, resized, with colours and at times a focus of its
own and a past (a JPEG, sharpening, tones, lettering). Three in five are then
manipulated, and all go through the same end: they may be resized, sharpened, saved once
or twice.
"""

import hashlib
import io
import os
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import grain
import numpy as np
from jaxtyping import UInt8
from PIL import Image, JpegPresets
from skimage.segmentation import felzenszwalb

from sdfl_jax.data import ahead, pipeline, transforms
from sdfl_jax.data.forge.edits import edit
from sdfl_jax.data.forge.history import INTERPOLATIONS, SUBSAMPLINGS, encode_jpeg
from sdfl_jax.data.forge.objects import largest_part
from sdfl_jax.data.forge.paste import Unsuitable
from sdfl_jax.data.forge.regions import bounding_box, oval_region, random_region
from sdfl_jax.data.forge.swaps import colour_transfer, swap
from sdfl_jax.data.images import read_image
from sdfl_jax.data.search import SUFFIXES
from sdfl_jax.errors import InputError

PREFIX = "forge:"
SPLITS = ("train", "val")

# Shares of the examples.
KINDS = {
    "authentic": 0.40,
    "splice": 0.28,
    "copymove": 0.12,
    "removal": 0.11,
    "edit": 0.05,
    "swap": 0.04,
}
MIN_TEXTURE = 6.0  # deviation of the luminance (of 255): less shows nothing at all
MIN_CHANGE = 4.0  # mean absolute change inside a mask; less is no manipulation

# Shares of the canvases that are given other colours, and a subject in focus.
_GRADED, _FOCUSED = 0.5, 0.3

# Shares of what is saved: as WebP, and as JPEG with an editor's tables. From a quality
# on, the editor's strength of about that quality.
_WEBP, _EDITORS = 0.07, 0.12
_EDITORS_TABLES = (
    (0, "low"),
    (72, "web_high"),
    (76, "medium"),
    (82, "high"),
    (88, "maximum"),
    (96, "web_maximum"),
)
_GREY = np.full((3, 3), 1 / 3)  # as a matrix of colours
_HELD_OUT = 10  # one photograph in so many is kept for validation
_SMALL_SIDE = 128  # of the pictures in which objects are looked for
_CACHE_BYTES = 1536 << 20


@dataclass(frozen=True)
class Folder:
    """The photographs of one folder that a split takes, and the folder's weight."""

    path: str
    weight: float
    names: tuple[str, ...]


def is_stream(text: str) -> bool:
    """Whether `config.data.train` asks for forgeries in place of shards."""
    return str(text).startswith(PREFIX)


def folders(text: str, split: str = "train") -> list[Folder]:
    """The folders of `forge:DIR[:WEIGHT],...` with their photographs of `split`.

    A tenth of the photographs, chosen by a hash of their names, is "val", the others
    are "train". `InputError` for a folder that holds none, or a weight that is none.
    """
    found = []
    for item in text.removeprefix(PREFIX).split(","):
        path, colon, weight = item.rpartition(":")
        try:
            path, weight = (path, float(weight)) if colon else (item, 1.0)
        except ValueError:
            path, weight = item, 1.0
        if not Path(path).is_dir():
            raise InputError(f"{PREFIX}{item}: no folder of photographs at {path}.")
        if not weight > 0:
            raise InputError(f"{PREFIX}{item}: a weight is a number above 0.")
        names = sorted(
            p.relative_to(path).as_posix()
            for p in Path(path).rglob("*")
            if p.suffix.lower() in SUFFIXES
        )
        names = tuple(name for name in names if split_of(name) == split)
        if not names:
            raise InputError(
                f"{path} holds no photographs for {split} "
                f"({', '.join(sorted(SUFFIXES))})."
            )
        found.append(Folder(path, weight, names))
    return found


def split_of(name: str) -> str:
    """ "train" or "val", by the name up to a double underscore (see `photo_folder`)."""
    scene = os.path.splitext(name)[0].split("__")[0]
    number = int.from_bytes(hashlib.sha256(scene.encode()).digest()[:4], "big")
    return "val" if number % _HELD_OUT == 0 else "train"


class Stream:
    """Examples by position: `stream(position)`; picklable, for worker processes.

    `size`: height and width of an example. What was read is kept, up to a limit.
    """

    def __init__(
        self,
        text: str,
        *,
        size: int | tuple[int, int],
        seed: int,
        split: str = "train",
    ):
        self.size = (size, size) if isinstance(size, int) else tuple(size)
        self.seed = seed
        self.folders = folders(text, split)
        weights = np.array([folder.weight for folder in self.folders])
        self._shares = np.cumsum(weights / weights.sum())
        self._kinds, self._kind_shares = list(KINDS), np.cumsum(list(KINDS.values()))
        self._read = _Photographs()

    @property
    def photographs(self) -> int:
        return sum(len(folder.names) for folder in self.folders)

    def __call__(self, position: int) -> dict:
        """`image` uint8 H W 3, `mask` uint8 H W 1, `label`, `kind`, `host`, `area`."""
        rng = np.random.default_rng([self.seed, int(position)])
        kind = self._kinds[int(np.searchsorted(self._kind_shares, rng.random()))]
        for _ in range(20):
            made = self._make(kind, rng)
            if made is not None:
                return made
        raise InputError(
            "The photographs are empty areas almost everywhere; give others."
        )

    def _make(self, kind: str, rng) -> dict | None:
        host = self._draw(rng)
        canvas, view = self._canvas(host, rng)
        if cv2.meanStdDev(cv2.cvtColor(canvas, cv2.COLOR_RGB2GRAY))[1] < MIN_TEXTURE:
            return None
        forger = _Forger(self, host, view, rng)
        if rng.random() < _GRADED:
            canvas = _graded(canvas, rng)
        if rng.random() < _FOCUSED:
            canvas = forger.focused(canvas)
        canvas = _past(canvas, rng)
        region = np.zeros(canvas.shape[:2], np.uint8)
        if kind != "authentic":
            for _ in range(4):
                try:
                    image, region = getattr(forger, kind)(canvas)
                except Unsuitable:
                    continue
                if not region.any() or region.mean() > 0.6 * 255:
                    continue
                if cv2.absdiff(image, canvas)[region > 0].mean() >= MIN_CHANGE:
                    break
            else:
                return None
            canvas = image
        image, region = _end(canvas, region, self.size, rng)
        area = float(np.count_nonzero(region)) / region.size
        return {
            "image": image,
            "mask": region[..., None],
            "label": int(area > 0),
            "kind": kind,
            "host": host,
            "area": area,
        }

    def _draw(self, rng) -> str:
        folder = self.folders[int(np.searchsorted(self._shares, rng.random()))]
        name = folder.names[int(rng.integers(len(folder.names)))]
        return os.path.join(folder.path, name)

    def _canvas(self, host: str, rng):
        """Part of a photograph, larger than an example by one of a few factors.

        Beside it the box that it shows (top, left, height, width) and whether it is
        mirrored.
        """
        grow = float(rng.choice([1.0, 4 / 3, 5 / 3], p=[0.6, 0.25, 0.15]))
        extra = float(rng.choice([1.0, 1.25, 1.6, 0.8], p=[0.7, 0.12, 0.08, 0.10]))
        tall, wide = (8 * round(n * grow * extra / 8) for n in self.size)
        pixels = self._read.pixels(host)
        most = min(pixels.shape[0] / tall, pixels.shape[1] / wide)
        draw = rng.random()
        if draw < 0.25 and most >= 1:
            scale = 1.0  # pixels as they are
        elif draw > 0.6:
            scale = most  # all of it, or nearly: what it shows stands in the middle
        else:
            scale = most if most <= 1 else float(np.exp(rng.uniform(0, np.log(most))))
        height, width = (
            min(n, round(side * scale))
            for n, side in zip(pixels.shape[:2], (tall, wide), strict=True)
        )
        top = int(rng.integers(pixels.shape[0] - height + 1))
        left = int(rng.integers(pixels.shape[1] - width + 1))
        piece = pixels[top : top + height, left : left + width]
        piece = _resized(piece, tall, wide, rng)
        mirrored = bool(rng.random() < 0.5)
        if mirrored:
            piece = cv2.flip(piece, 1)
        return np.ascontiguousarray(piece), ((top, left, height, width), mirrored)


def train_batches(
    text: str,
    *,
    batch_size: int,
    image_size: int,
    seed: int,
    flips: bool = True,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    start_step: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """What `pipeline.train_batches` gives, of a stream of forgeries.

    `index` is an example's position, up to 2**31.
    """
    part = pipeline.part_of_batch(batch_size, processes)
    steps = [
        _Forge(Stream(text, size=image_size, seed=seed)),
        *([transforms.RandomFlip()] if flips else []),
        pipeline.ForTraining(),
    ]
    batches = (
        grain.MapDataset.range(1 << 40)  # more than anybody could ask for
        .seed(seed)
        .apply(steps)
        .batch(part, drop_remainder=True)[process::processes]
    )
    return ahead.prefetch(batches[start_step:], workers)


def steps_per_epoch(text: str, batch_size: int) -> int:
    """Steps that take as many examples as there are photographs."""
    photographs = sum(len(folder.names) for folder in folders(text))
    return max(1, photographs // batch_size)


class _Forge(grain.transforms.Map):
    """A position of a stream to its example."""

    def __init__(self, source: Stream):
        self._source = source

    def map(self, position: int) -> dict:
        example = self._source(position) | {"has_mask": True, "damaged": -1}
        return example | {"index": position % (1 << 31)}


class _Forger:
    """The manipulations of one canvas; each gives the image and the region (0, 255).

    A pixel is in the region where what was put there has more than half of the say.
    """

    def __init__(self, stream: Stream, host: str, view, rng):
        self._stream, self._host, self._view, self._rng = stream, host, view, rng
        self._read = stream._read

    def focused(self, canvas):
        """A subject sharp and lit before a background that is neither.

        As a lens and a lamp make it, so the sensor's noise comes afterwards and is the
        same everywhere: a subject that stands out is no evidence of a manipulation.
        """
        rng = self._rng
        try:
            mask = self._own_mask(canvas, most=0.6)
        except Unsuitable:
            return canvas
        rim = int(rng.integers(2, 7))
        mask = cv2.dilate(mask, np.ones((2 * rim + 1, 2 * rim + 1), np.uint8))
        sharp = _soft(mask, float(rng.uniform(2, 8)))
        sigma = float(np.exp(rng.uniform(np.log(1.0), np.log(8.0))))
        image = cv2.GaussianBlur(canvas, (0, 0), sigma)
        if rng.random() < 0.5:
            image = _toned(image, rng)
        subject = canvas
        if rng.random() < 0.5:  # a flower, a parrot, a parasol
            colours = _saturating(float(np.exp(rng.uniform(0.2, 1.2))))
            subject = cv2.transform(canvas, colours)
        _blend(image, subject, sharp)
        noise = rng.standard_normal(image.shape[:2], np.float32)
        noise *= float(np.exp(rng.uniform(np.log(0.5), np.log(5.0))))
        return np.clip(np.rint(image + noise[..., None]), 0, 255).astype(np.uint8)

    def splice(self, canvas):
        """Objects, segments or shapes of one to four other photographs."""
        rng = self._rng
        count = int(rng.choice([1, 2, 3, 4], p=[0.45, 0.25, 0.18, 0.12]))
        region = np.zeros(canvas.shape[:2], np.uint8)
        for _ in range(count):
            share = float(np.exp(rng.uniform(np.log(0.015), np.log(0.35)))) / count**0.5
            donor = self._stream._draw(rng)
            if donor == self._host:
                continue
            content, mask = self._cut_out(donor, canvas.shape[:2], share)
            content = _treated(content, rng)
            if rng.random() < 0.2:  # matched to where it goes, by and large
                around = cv2.resize(
                    canvas, mask.shape[::-1], interpolation=cv2.INTER_AREA
                )
                content = colour_transfer(content, around, mask)
            canvas = self._place(canvas, region, content, mask)
        return canvas, region

    def copymove(self, canvas):
        """A part of the canvas, twice at times, half the time turned or scaled."""
        rng, region = self._rng, np.zeros(canvas.shape[:2], np.uint8)
        mask = self._own_mask(canvas)
        top, left, height, width = bounding_box(mask)
        box = np.s_[top : top + height, left : left + width]
        content, mask = canvas[box], mask[box]
        source = (top + height / 2, left + width / 2)
        copied = canvas
        for _ in range(1 + (rng.random() < 0.2)):
            piece, cover = content, mask
            if rng.random() < 0.5:
                piece, cover = _turned(content, mask, rng)
            if rng.random() < 0.25:
                piece = _treated(piece, rng)
            copied = self._place(copied, region, piece, cover, away_from=source)
        return copied, region

    def removal(self, canvas):
        """A region filled from its surroundings: by Telea or Navier and Stokes, by the
        patch that fits around it best, or by a soft clone of what lies beside."""
        rng = self._rng
        mask = self._own_mask(canvas, most=0.15)
        draw = rng.random()
        if draw < 0.3:
            return _patched(canvas, mask), mask
        if draw < 0.75:
            mask = cv2.dilate(mask, np.ones((3, 3), np.uint8))
            method = cv2.INPAINT_TELEA if rng.random() < 0.5 else cv2.INPAINT_NS
            filled = cv2.inpaint(canvas, mask, int(rng.integers(3, 6)), method)
            return np.where(mask[..., None] > 0, filled, canvas), mask
        top, left, height, width = bounding_box(mask)
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.8, 1.3)
        down = round(np.sin(angle) * reach * height)
        right = round(np.cos(angle) * reach * width)
        if top + down < 0 or top + down + height > canvas.shape[0]:
            down = -down
        if left + right < 0 or left + right + width > canvas.shape[1]:
            right = -right
        above, before = top + down, left + right
        if (
            min(above, before) < 0
            or above + height > canvas.shape[0]
            or before + width > canvas.shape[1]
        ):
            raise Unsuitable("nowhere to clone from")
        content = canvas[above : above + height, before : before + width]
        alpha = _soft(mask[top : top + height, left : left + width], 2.0)
        image = canvas.copy()
        _blend(image[top : top + height, left : left + width], content, alpha)
        return image, mask

    def edit(self, canvas):
        """The canvas's own content filtered (see `edits`)."""
        mask = self._own_mask(canvas)
        image, _ = edit(canvas, mask, None, self._rng)
        return image, mask

    def swap(self, canvas):
        """Another photograph blended into an oval (see `swaps`)."""
        mask, _ = oval_region(*canvas.shape[:2], self._rng)
        image, _ = swap(canvas, mask, self._piece, self._rng)
        return image, mask

    def _piece(self, height: int, width: int, donor: str | None = None):
        """A part of another photograph, resized to `height` x `width`."""
        rng = self._rng
        pixels = self._read.pixels(donor or self._stream._draw(rng))
        most = min(pixels.shape[0] / height, pixels.shape[1] / width)
        scale = most if most <= 1 else float(np.exp(rng.uniform(0, np.log(most))))
        tall, wide = (
            max(1, min(n, round(side * scale)))
            for n, side in zip(pixels.shape[:2], (height, width), strict=True)
        )
        top = int(rng.integers(pixels.shape[0] - tall + 1))
        left = int(rng.integers(pixels.shape[1] - wide + 1))
        piece = pixels[top : top + tall, left : left + wide]
        return _resized(piece, height, width, rng)

    def _cut_out(self, donor: str, shape, share: float):
        """Content (uint8 h w 3) and its mask (uint8 h w) of a wanted share."""
        rng, kind = self._rng, self._rng.random()
        if kind < 0.25:
            mask, _ = random_region(*shape, rng)
            top, left, height, width = bounding_box(mask)
            mask = mask[top : top + height, left : left + width]
            # As large as wanted, whatever random_region drew.
            natural = np.count_nonzero(mask) / (shape[0] * shape[1])
            factor = min(1.0, (share / max(natural, 1e-6)) ** 0.5)
            height, width = (max(8, round(n * factor)) for n in (height, width))
            mask = _binary(cv2.resize(mask, (width, height)))
            return self._piece(height, width, donor), mask
        pixels = self._read.pixels(donor)
        small = self._read.object(donor) if kind < 0.7 else None
        if small is None:
            small = self._read.segment(donor, rng)
        top, left, height, width = bounding_box(small)
        mask = small[top : top + height, left : left + width]
        zoom = pixels.shape[0] / small.shape[0], pixels.shape[1] / small.shape[1]
        rows = slice(int(top * zoom[0]), int((top + height) * zoom[0]))
        columns = slice(int(left * zoom[1]), int((left + width) * zoom[1]))
        content = pixels[rows, columns]
        natural = np.count_nonzero(mask) * zoom[0] * zoom[1]
        factor = (share * shape[0] * shape[1] / max(natural, 1)) ** 0.5
        fits = [1.2 * n / m for n, m in zip(shape, content.shape[:2], strict=True)]
        factor = min(factor, 1.5, *fits)
        height, width = (max(8, round(n * factor)) for n in content.shape[:2])
        content = _resized(content, height, width, rng)
        mask = _binary(cv2.resize(mask, (width, height), interpolation=cv2.INTER_CUBIC))
        if rng.random() < 0.4:
            content, mask = _turned(content, mask, rng)
        elif rng.random() < 0.5:
            content, mask = cv2.flip(content, 1), cv2.flip(mask, 1)
        return content, mask

    def _own_mask(self, canvas, most: float = 0.35):
        """A region of the canvas: its object, one of its segments, or a shape."""
        rng, shape = self._rng, canvas.shape[:2]
        kind = rng.random()
        if kind < 0.6:
            small = self._read.object(self._host) if kind < 0.3 else None
            if small is None:
                small = self._read.segment(self._host, rng)
            (top, left, height, width), mirrored = self._view
            pixels = self._read.pixels(self._host)
            zoom = [n / m for n, m in zip(small.shape, pixels.shape[:2], strict=True)]
            rows = slice(int(top * zoom[0]), int(np.ceil((top + height) * zoom[0])))
            columns = slice(int(left * zoom[1]), int(np.ceil((left + width) * zoom[1])))
            mask = cv2.resize(
                small[rows, columns], shape[::-1], interpolation=cv2.INTER_CUBIC
            )
            mask = _binary(cv2.flip(mask, 1) if mirrored else mask)
            if 0.01 <= np.count_nonzero(mask) / mask.size <= most:
                return largest_part(mask)
        mask, _ = random_region(*shape, rng)
        if np.count_nonzero(mask) > most * mask.size:
            raise Unsuitable("too large")
        return mask

    def _place(self, canvas, region, content, mask, away_from=None):
        """Puts `content` anywhere in `canvas`, and adds its cover to `region`."""
        rng, (tall, wide) = self._rng, canvas.shape[:2]
        height, width = mask.shape
        for _ in range(6):
            top, left = (
                int(rng.uniform(-0.15 * m, n - 0.85 * m)) if n > 0.7 * m else 0
                for n, m in ((tall, height), (wide, width))
            )
            if away_from is None or (
                abs(top + height / 2 - away_from[0]) > height / 2
                or abs(left + width / 2 - away_from[1]) > width / 2
            ):
                break
        else:
            raise Unsuitable("the source lies on the target")
        up, before = max(0, -top), max(0, -left)
        down, right = min(height, tall - top), min(width, wide - left)
        if down - up < 4 or right - before < 4:
            raise Unsuitable("outside of the frame")
        draw = rng.random()
        if draw < 0.3:
            alpha = mask.astype(np.float32) / 255
        elif draw < 0.42:
            alpha = _matte(content, mask, int(rng.integers(2, 7)))
        else:
            sigma = rng.uniform(0.5, 1.2) if draw < 0.8 else rng.uniform(1.2, 4.0)
            alpha = _soft(mask, float(sigma))
        alpha = alpha[up:down, before:right]
        here = np.s_[top + up : top + down, left + before : left + right]
        image = canvas.copy()
        _blend(image[here], content[up:down, before:right], alpha)
        region[here] |= (alpha > 0.5) * np.uint8(255)
        return image


class _Photographs:
    """Photographs read last, and where their objects are; each found once."""

    def __init__(self):
        self._pixels: OrderedDict[str, np.ndarray] = OrderedDict()
        self._bytes = 0
        self._objects: dict[str, np.ndarray | None] = {}
        self._segments: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def __reduce__(self):
        return _Photographs, ()

    def pixels(self, path: str) -> UInt8[np.ndarray, "H W 3"]:
        with self._lock:
            if path in self._pixels:
                self._pixels.move_to_end(path)
                return self._pixels[path]
        pixels = read_image(path)
        with self._lock:
            if path not in self._pixels:
                self._pixels[path] = pixels
                self._bytes += pixels.nbytes
            while self._bytes > _CACHE_BYTES and len(self._pixels) > 1:
                self._bytes -= self._pixels.popitem(last=False)[1].nbytes
        return pixels

    def object(self, path: str) -> UInt8[np.ndarray, "h w"] | None:
        """The mask of what stands in the middle, on a small picture, by GrabCut."""
        if path not in self._objects:
            self._objects[path] = _grabcut(self._small(path))
        return self._objects[path]

    def segment(self, path: str, rng) -> UInt8[np.ndarray, "h w"]:
        """The mask of one segment, with those beside it at times (Felzenszwalb and
        Huttenlocher 2004)."""
        if path not in self._segments:
            labels = felzenszwalb(self._small(path), scale=150, sigma=0.8, min_size=60)
            self._segments[path] = labels.astype(np.uint16)
        labels = self._segments[path]
        y, x = (int(rng.integers(n)) for n in labels.shape)
        mask = (labels == labels[y, x]).astype(np.uint8)
        for _ in range(int(rng.integers(3))):
            rim = cv2.dilate(mask, np.ones((3, 3), np.uint8)) - mask
            beside = np.unique(labels[rim > 0])
            if len(beside):
                mask |= labels == beside[int(rng.integers(len(beside)))]
        if mask.mean() > 0.6 or mask.sum() < 40:
            raise Unsuitable("no segment of a fitting size")
        kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
        return largest_part(cv2.morphologyEx(mask, cv2.MORPH_CLOSE, kernel) * 255)

    def _small(self, path: str) -> np.ndarray:
        pixels = self.pixels(path)
        scale = min(1.0, _SMALL_SIDE / max(pixels.shape[:2]))
        size = [max(16, round(n * scale)) for n in pixels.shape[1::-1]]
        return cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)


def _grabcut(small: np.ndarray) -> np.ndarray | None:
    """None where nothing stands out."""
    marks = np.full(small.shape[:2], cv2.GC_PR_FGD, np.uint8)
    down, across = (max(2, n // 14) for n in marks.shape)
    marks[:down] = marks[-down:] = cv2.GC_BGD
    marks[:, :across] = marks[:, -across:] = cv2.GC_BGD
    cv2.setRNGSeed(1)  # it starts with a random clustering
    models = np.zeros((2, 1, 65))
    cv2.grabCut(small, marks, None, *models, 2, cv2.GC_INIT_WITH_MASK)
    mask = largest_part((marks & 1) * np.uint8(255))
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (3, 3))
    mask = cv2.morphologyEx(mask, cv2.MORPH_OPEN, kernel)
    share = np.count_nonzero(mask) / mask.size
    return mask if 0.03 < share < 0.6 else None


def _past(canvas, rng):
    """What may have happened to a photograph before anybody manipulates it."""
    if rng.random() < 0.06:
        canvas = _lettered(canvas, rng)
    if rng.random() < 0.40:
        canvas = _sharpened(canvas, rng)
    if rng.random() < 0.15:
        canvas = _toned(canvas, rng)
    if rng.random() < 0.65:
        canvas = _saved(canvas, int(rng.integers(60, 99)), rng)
    return canvas


def _graded(image, rng):
    """Other colours by a matrix near one that turns hues, and other contrasts.

    A few photographs then teach what a manipulation looks like and not which colours
    they have.
    """
    turn = rng.normal(0, 0.5) if rng.random() < 0.5 else 0.0
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5
    turned = (
        np.cos(turn) * np.eye(3) + (1 - np.cos(turn)) * _GREY + np.sin(turn) * cross
    )
    colours = _saturating(float(np.exp(rng.normal(0.1, 0.45)))) @ turned
    contrast = float(np.exp(rng.normal(0.05, 0.25)))
    levels = contrast * colours + rng.normal(0, 0.03, (3, 3))
    middle = float(image.mean())
    offset = middle - contrast * middle + rng.normal(0, 10)
    return cv2.transform(image, np.column_stack([levels, np.full(3, offset)]))


def _saturating(factor: float) -> np.ndarray:
    return _GREY + factor * (np.eye(3) - _GREY)


def _treated(content, rng):
    """What may happen to a donor's piece on its way into another photograph."""
    if rng.random() < _GRADED / 2:
        content = _graded(content, rng)
    if rng.random() < 0.3:
        content = _toned(content, rng)
    if rng.random() < 0.15:
        content = _sharpened(content, rng)
    elif rng.random() < 0.1:
        content = cv2.GaussianBlur(content, (0, 0), float(rng.uniform(0.5, 1.2)))
    if rng.random() < 0.4:
        content = _saved(content, int(rng.integers(50, 98)), rng)
    return content


def _end(canvas, region, size: tuple[int, int], rng):
    """The canvas, saved and cut to an example; its region likewise."""
    if rng.random() < 0.25:
        # Made larger for this, or resized afterwards as a whole.
        factor = float(rng.uniform(0.6, 1.0)) if canvas.shape[0] > size[0] else 1.0
        tall, wide = (
            max(least, round(n * factor))
            for n, least in zip(canvas.shape[:2], size, strict=True)
        )
        canvas = _resized(canvas, tall, wide, rng)
        region = _binary(cv2.resize(region, (wide, tall)))
    tall, wide = (max(n, m) for n, m in zip(canvas.shape[:2], size, strict=True))
    if (tall, wide) != canvas.shape[:2]:
        canvas = _resized(canvas, tall, wide, rng)
        region = _binary(cv2.resize(region, (wide, tall)))
    # Cut on the 8x8 grid most of the time, as whole images and tiles of them are, and
    # before the file is written, which for pixels at such a place is the same.
    step = 8 if rng.random() < 0.75 else 1
    wanted = rng.random() < 0.8
    for _ in range(4):
        top, left = (
            step * int(rng.integers((n - m) // step + 1))
            for n, m in zip((tall, wide), size, strict=True)
        )
        cut = np.s_[top : top + size[0], left : left + size[1]]
        if not wanted or np.count_nonzero(region[cut]) > 0.01 * size[0] * size[1]:
            break
    canvas, region = np.ascontiguousarray(canvas[cut]), region[cut]
    if rng.random() < 0.12:
        canvas = _sharpened(canvas, rng)
    if rng.random() < 0.10:
        canvas = _toned(canvas, rng)
    for _ in range(int(rng.choice(3, p=[0.25, 0.5, 0.25]))):
        draw = rng.random()
        low, high = (94, 101) if draw < 0.4 else (75, 95) if draw < 0.82 else (50, 76)
        canvas = _saved(canvas, int(rng.integers(low, high)), rng)
    if np.count_nonzero(region) < 16:
        region = np.zeros_like(region)
    return canvas, region


def _saved(image, quality: int, rng):
    """As a JPEG of libjpeg's tables, at times of an editor's, or as a WebP."""
    draw = rng.random()
    if draw < _WEBP:
        encoded = cv2.imencode(
            ".webp", image[..., ::-1], [cv2.IMWRITE_WEBP_QUALITY, min(quality, 100)]
        )[1]
    elif draw < _WEBP + _EDITORS:
        encoded = _saved_by_an_editor(image, quality)
    else:
        how = str(rng.choice(list(SUBSAMPLINGS), p=[0.3, 0.2, 0.5]))
        encoded = np.frombuffer(encode_jpeg(image, quality, how), np.uint8)
    return cv2.cvtColor(cv2.imdecode(encoded, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def _saved_by_an_editor(image, quality: int):
    """With the tables of Photoshop's own scale, one for each of its strengths."""
    named = [name for least, name in _EDITORS_TABLES if quality >= least][-1]
    preset = JpegPresets.presets[named]
    with io.BytesIO() as file:
        Image.fromarray(image).save(
            file,
            "JPEG",
            qtables=preset["quantization"],
            subsampling=preset["subsampling"],
        )
        return np.frombuffer(file.getvalue(), np.uint8)


def _patched(canvas, mask):
    """The region filled with what fits its surroundings best, elsewhere in the canvas.

    The step that exemplar-based filling repeats (Criminisi et al. 2004), once for the
    whole region, blended over two pixels.
    """
    rim = 6
    top, left, height, width = bounding_box(mask)
    top, left = max(0, top - rim), max(0, left - rim)
    down = min(canvas.shape[0], top + height + 2 * rim)
    right = min(canvas.shape[1], left + width + 2 * rim)
    box = np.s_[top:down, left:right]
    hole = cv2.dilate(mask[box], np.ones((3, 3), np.uint8))
    known = (hole == 0).astype(np.float32)
    tall, wide = hole.shape
    if not known.any() or min(canvas.shape[0] - tall, canvas.shape[1] - wide) < 8:
        raise Unsuitable("no patch of that size elsewhere")
    pixels, known = canvas.astype(np.float32), cv2.merge([known] * 3)
    misfit = cv2.matchTemplate(pixels, pixels[box], cv2.TM_SQDIFF, mask=known)
    # Patches that hold a part of what is to go are none.
    holes = cv2.boxFilter(
        mask.astype(np.float32), -1, (wide, tall), anchor=(0, 0),
        borderType=cv2.BORDER_CONSTANT,
    )[: misfit.shape[0], : misfit.shape[1]]  # fmt: skip
    misfit[holes > 0] = np.inf
    row, column = np.unravel_index(np.argmin(misfit), misfit.shape)
    if not np.isfinite(misfit[row, column]):
        raise Unsuitable("no patch without the region elsewhere")
    image = canvas.copy()
    patch = canvas[row : row + tall, column : column + wide]
    _blend(image[box], patch, _soft(mask[box], 1.0))
    return image


def _resized(piece, height: int, width: int, rng):
    if piece.shape[:2] == (height, width):
        return piece
    smaller = height < piece.shape[0]
    if smaller and rng.random() < 0.6:
        how = "area"
    else:
        how = str(rng.choice(list(INTERPOLATIONS)))
    if height < 0.5 * piece.shape[0]:
        how = "area"  # the others would leave out pixels
    return cv2.resize(piece, (width, height), interpolation=INTERPOLATIONS[how])


def _sharpened(image, rng):
    amount, sigma = float(rng.uniform(0.3, 1.5)), float(rng.uniform(0.6, 1.6))
    return cv2.addWeighted(
        image, 1 + amount, cv2.GaussianBlur(image, (0, 0), sigma), -amount, 0
    )


def _toned(image, rng):
    gamma = float(np.exp(rng.uniform(-0.35, 0.35)))
    gains = rng.uniform(0.85, 1.18) * rng.uniform(0.94, 1.06, 3)
    levels = (np.arange(256)[:, None] / 255) ** gamma * gains * 255  # 256 3
    table = np.clip(np.rint(levels), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table[None])


def _lettered(image, rng):
    """Letters, a bar or a frame, as posters and cameras put them into pictures."""
    image = image.copy()
    height, width = image.shape[:2]
    colour = [int(c) for c in rng.integers(0, 256, 3)]
    draw = rng.random()
    if draw < 0.7:
        letters = "".join(chr(int(c)) for c in rng.integers(48, 91, rng.integers(3, 9)))
        place = int(rng.integers(0, width // 2)), int(rng.integers(12, height))
        scale, thick = float(rng.uniform(0.4, 1.8)), int(rng.integers(1, 4))
        cv2.putText(image, letters, place, int(rng.integers(4)), scale, colour, thick,
                    cv2.LINE_AA)  # fmt: skip
    elif draw < 0.85:
        side = int(rng.integers(3, 12))
        cv2.rectangle(image, (0, 0), (width - 1, height - 1), colour, side)
    else:
        top, tall = int(rng.integers(0, height)), int(rng.integers(4, height // 5))
        image[top : top + tall] = colour
    return image


def _turned(content, mask, rng):
    """Both turned, scaled and mirrored about their middle, nothing cut off."""
    height, width = mask.shape
    turn = float(rng.uniform(-30, 30)) if rng.random() < 0.7 else 0.0
    scale = float(np.exp(rng.uniform(-0.35, 0.3)))
    warp = cv2.getRotationMatrix2D((width / 2, height / 2), turn, scale)
    wide, tall = np.abs(warp[:, :2]) @ [width, height]
    wide, tall = max(8, int(wide)), max(8, int(tall))
    warp[:, 2] += [(wide - width) / 2, (tall - height) / 2]
    if rng.random() < 0.3:
        warp[0] = -warp[0] + [0, 0, wide - 1]
    content = cv2.warpAffine(
        content, warp, (wide, tall), flags=cv2.INTER_CUBIC,
        borderMode=cv2.BORDER_REFLECT_101,
    )  # fmt: skip
    mask = cv2.warpAffine(mask, warp, (wide, tall), flags=cv2.INTER_LINEAR)
    return content, _binary(mask)


def _soft(mask, sigma: float):
    return cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT).astype(
        np.float32
    ) / np.float32(255)


def _matte(content, mask, radius: int):
    """The mask with the content's own outlines: hair, fur, leaves.

    A guided filter (He, Sun and Tang, ECCV 2010), stretched: most is all or none.
    """
    guide = cv2.cvtColor(content, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    cover = mask.astype(np.float32) / 255
    mean = lambda x: cv2.blur(x, (2 * radius + 1, 2 * radius + 1))
    by_guide = mean(guide * cover) - mean(guide) * mean(cover)
    by_guide /= mean(guide * guide) - mean(guide) ** 2 + 1e-4
    rest = mean(cover) - by_guide * mean(guide)
    alpha = mean(by_guide) * guide + mean(rest)
    return np.clip((alpha - 0.15) / 0.7, 0, 1)


def _blend(target, content, alpha):
    """Mixes `content` into `target`, which is a view of the image."""
    host = target.astype(np.float32)
    host += (content.astype(np.float32) - host) * alpha[..., None]
    target[...] = np.rint(host)


def _binary(mask):
    return (mask > 127) * np.uint8(255)

"""One image: a host image with a simulated processing history, then a manipulation.

Authentic images are host images that are not manipulated; all are saved the same way.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

from sdfl_jax.data.forge import history
from sdfl_jax.data.forge.manipulate import KINDS
from sdfl_jax.data.forge.objects import SOURCES
from sdfl_jax.data.forge.paste import Unsuitable
from sdfl_jax.data.forge.photo_folder import Photograph
from sdfl_jax.data.forge.regions import AREAS
from sdfl_jax.data.images import encode_png, read_image, read_labels
from sdfl_jax.data.lists import SPLITS
from sdfl_jax.errors import InputError

# The last save, of authentic and manipulated images alike; the others become PNG.
JPEG_SHARE, JPEG_LOW, JPEG_HIGH = 0.7, 75, 99

# Standard deviation (of 255) of a host's luminance: nothing can be found, or hidden, in
# an empty piece. It applies to authentic images alike.
MIN_TEXTURE = 6.0


@dataclass(frozen=True)
class Task:
    """One image to make."""

    split: str
    index: int
    kind: str  # of KINDS, or authentic

    @property
    def name(self) -> str:
        return f"{self.split}/{self.index:06d}"


class Forger:
    """Makes one image per task; each depends on the seed and its task alone.

    `areas`: of the regions, as shares of the image, from and to.
    """

    def __init__(
        self,
        sides: dict[str, list[Photograph]],
        size: int,
        seed: int,
        areas: tuple[float, float] = AREAS,
    ):
        self.size, self.seed, self.areas = size, seed, areas
        self.groups = {split: _by_group(photos) for split, photos in sides.items()}
        self._cache = _Cache()

    def make(self, task: Task) -> tuple[np.ndarray, np.ndarray | None, bytes, dict]:
        """Image (uint8 H W 3), mask (uint8 H W, None: authentic), file bytes, record.

        Host image and final compression have random streams of their own, so what is
        drawn there cannot depend on whether the image is manipulated.
        """
        key = (SPLITS.index(task.split), task.index)
        streams = np.random.SeedSequence(self.seed, spawn_key=key).spawn(3)
        host_rng, forge_rng, save_rng = map(np.random.default_rng, streams)
        for _ in range(20):
            photo, host, host_history = self._draw_host(task.split, host_rng)
            record = {"host": photo.name, "host_history": host_history}
            if task.kind == "authentic":
                image, region = host, None
                break
            made = self._manipulate(task, photo, host, forge_rng)
            if made:
                image, region, details = made
                record |= details
                break
        else:
            raise InputError(
                f"No {task.kind} changes the {task.split} photographs visibly; they "
                "are too flat: give others, or other --kinds."
            )
        suffix, encoded, record["save"] = _save(image, save_rng)
        nothing = dict.fromkeys(("area", "donor", "region", "parameters"))
        record = nothing | {"donor_history": None} | record
        record |= {
            "image": f"images/{task.name}{suffix}",
            "mask": None if region is None else f"masks/{task.name}.png",
            "edge": None,
            "label": int(region is not None),
            "source": "forge",
            "group": photo.group,
            "kind": task.kind,
            "split": task.split,
        }
        return image, region, encoded, record

    def _draw_host(self, split: str, rng) -> tuple[Photograph, np.ndarray, dict]:
        groups = self.groups[split]
        for _ in range(100):
            photo = _choose(groups, sorted(groups), rng)
            shape = (self.size, self.size) if self.size else None
            pixels = self._cache.read(photo)
            host, simulated = history.with_history(pixels, shape, rng)
            if cv2.cvtColor(host, cv2.COLOR_RGB2GRAY).std() >= MIN_TEXTURE:
                return photo, host, simulated
        raise InputError(
            f"The {split} photographs are empty areas almost everywhere; give others."
        )

    def _manipulate(self, task: Task, photo: Photograph, host, rng):
        """Image, region and record, or None where this host will not do."""
        kind = KINDS[task.kind]
        for _ in range(10):
            groups = self.groups[task.split]
            donor = Donor(groups, photo, self._cache, rng, self.areas)
            try:
                region, content, drawn = SOURCES[kind.regions](
                    *host.shape[:2], donor, rng
                )
                give = donor if content is None else _already(content)
                image, parameters = kind.manipulate(host, region, give, rng)
            except Unsuitable:
                continue
            change = cv2.absdiff(image, host)[region > 0].mean()
            if change < kind.least_change:
                continue
            record = {"region": drawn, "parameters": parameters, "area": drawn["area"]}
            if donor.drawn:
                record["donor"] = "|".join(other.name for other, _ in donor.drawn)
                record["donor_history"] = donor.drawn[0][1]
            return image, region, record
        return None


class Donor:
    """Draws from photographs of other groups than the host's, and keeps a record."""

    def __init__(self, groups: dict, host: Photograph, cache: "_Cache", rng, areas):
        self._groups, self._host, self._cache, self._rng = groups, host, cache, rng
        self.areas = areas  # wanted, as shares of the image, from and to
        self.drawn: list[tuple[Photograph, dict]] = []  # with their histories

    def __call__(self, height: int, width: int) -> np.ndarray:
        """A crop, uint8 `height` `width` 3, with a simulated processing history."""
        other = self._choose(self._groups)
        pixels = self._cache.read(other)
        piece, simulated = history.with_history(pixels, (height, width), self._rng)
        self.drawn.append((other, simulated))
        return piece

    def segments(self) -> tuple[np.ndarray, np.ndarray, dict] | None:
        """A whole photograph, its labels (int H W) and its history to fill in; None
        where no other photograph has a segment map."""
        labelled = {
            name: [photo for photo in group if photo.segments]
            for name, group in self._groups.items()
            if name != self._host.group
        }
        labelled = {name: group for name, group in labelled.items() if group}
        if not labelled:
            return None
        other = self._choose(labelled)
        simulated: dict = {}
        self.drawn.append((other, simulated))
        return self._cache.read(other), read_labels(other.segments), simulated

    def _choose(self, groups: dict) -> Photograph:
        """A photograph of another group; grey with grey and colour with colour where
        possible, because a grey patch in a colour picture teaches nothing else."""
        others = [name for name in sorted(groups) if name != self._host.group]
        alike = [name for name in others if groups[name][0].grey == self._host.grey]
        return _choose(groups, alike or others, self._rng)


def _already(content: np.ndarray):
    """A donor that has been asked: the region came with its content."""
    return lambda height, width: content


class _Cache:
    """The photographs read last, up to 256 MB of pixels."""

    def __init__(self, limit: int = 256 << 20):
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def read(self, photo: Photograph) -> np.ndarray:
        if photo.path in self._kept:
            self._kept.move_to_end(photo.path)
            return self._kept[photo.path]
        pixels = read_image(photo.path)
        self._kept[photo.path] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels


def _save(image: np.ndarray, rng) -> tuple[str, bytes, dict]:
    if rng.random() < JPEG_SHARE:
        how = history.draw_compression(rng, JPEG_LOW, JPEG_HIGH)
        return ".jpg", history.encode_jpeg(image, **how), {"format": "jpeg", **how}
    return ".png", encode_png(image, level=3), {"format": "png"}


def _by_group(photos: Sequence[Photograph]) -> dict[str, list[Photograph]]:
    groups: dict[str, list[Photograph]] = {}
    for photo in photos:
        groups.setdefault(photo.group, []).append(photo)
    return groups


def _choose(groups: dict, names: list[str], rng) -> Photograph:
    """A photograph of one of `names`; each scene is as likely as any other."""
    scene = groups[names[rng.integers(len(names))]]
    return scene[rng.integers(len(scene))]

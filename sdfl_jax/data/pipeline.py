"""From shards to batches, in NumPy alone.

Training batches are a function of the step: the same examples and the same random draws
for any number of workers and processes, and from any step on, so that a resumed run
sees what an uninterrupted one would have seen.
"""

import collections
import dataclasses
import os
from collections.abc import Iterator, Sequence

import cv2
import grain
import numpy as np
from absl import flags

from sdfl_jax.data import images, records, transforms
from sdfl_jax.errors import InputError

GEOMETRIES = ("resize", "crop")
MAX_SIDE = 1024  # of a tile in evaluation
OVERLAP = 64  # of neighbouring tiles

# Sides that "crop" pads to in evaluation: multiples of 32, the encoders' coarsest
# stride. A network compiles once for each pair of them, so they are few.
SIDES = (64, 96, 128, 192, 256, 384, 512, 640, 768, 896, 1024)


# -- Training ---


def train_batches(
    folder: str | os.PathLike,
    *,
    batch_size: int,
    image_size: int,
    geometry: str,
    seed: int,
    flips: bool = True,
    balance: bool = True,
    process: int = 0,
    processes: int = 1,
    workers: int = 0,
    start_step: int = 0,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless shuffled batches of a shard folder, from step `start_step` on.

    A batch holds `image` uint8 b H W 3, `mask` uint8 b H W 1, `label` and `has_mask`
    float32 b, and `index` int32 b, the examples' places in the shards. H = W =
    `image_size`; b is `batch_size` / `processes`, and the parts of all processes, in
    order, are the batch that one process would make. Examples are decoded in threads,
    or in `workers` processes of their own.

    `geometry` "resize" stretches whole images, "crop" cuts random windows at native
    resolution. With `balance` an epoch takes every class as often as the largest (see
    `_Balance`). `InputError` for settings that do not fit the shards or each other.
    """
    if batch_size < 1 or batch_size % processes:
        raise InputError(
            f"A batch of {batch_size} cannot be split over {processes} processes."
        )
    manifest = _fitting_manifest(folder, image_size, geometry)
    steps = [
        _Load(records.RecordSource(folder)),
        transforms.Resize(size=image_size)
        if geometry == "resize"
        else transforms.RandomCrop(size=image_size),
        *([transforms.RandomFlip()] if flips else []),
        _ForTraining(),
    ]
    order = _Balance(records.labels(manifest), seed) if balance else _Everything()
    length = _epoch_length(folder, manifest, balance)
    part = batch_size // processes
    batches = (
        grain.MapDataset.range(length)
        .seed(seed)
        .shuffle()
        .repeat()
        .map_with_index(order)
        .apply(steps)
        .batch(part, drop_remainder=True)[
            process::processes
        ]  # consecutive parts make up a global batch
    )
    return _prefetch(batches[start_step:], workers)


def steps_per_epoch(
    folder: str | os.PathLike, batch_size: int, balance: bool = True
) -> int:
    """Steps that take every example once, rarer classes repeated if `balance`."""
    length = _epoch_length(folder, records.load_manifest(folder), balance)
    return max(1, length // batch_size)


def _fitting_manifest(folder, image_size: int, geometry: str) -> dict:
    if geometry not in GEOMETRIES:
        raise InputError(f"No geometry {geometry!r}; there are {list(GEOMETRIES)}.")
    manifest = records.load_manifest(folder)
    stored = manifest["settings"]["image_size"]
    if stored and geometry == "crop":
        raise InputError(
            f"{folder}: resized to {stored}x{stored}, and geometry 'crop' needs native "
            "resolution; build with --storage=original."
        )
    if stored and stored != image_size:
        raise InputError(
            f"{folder}: resized to {stored}x{stored}, not {image_size}x{image_size}; "
            f"build with --image_size={image_size} or --storage=original."
        )
    return manifest


def _epoch_length(folder, manifest: dict, balance: bool) -> int:
    counts = np.bincount(records.labels(manifest), minlength=2)
    if not balance:
        return int(counts.sum())
    if not counts.all():
        missing = ("authentic", "manipulated")[int(np.argmin(counts))]
        raise InputError(
            f"{folder}: no {missing} image to balance the classes with; add some or "
            "train with balance=False."
        )
    return len(counts) * int(counts.max())


@dataclasses.dataclass(frozen=True)
class _Everything:
    """The examples of an epoch, each once."""

    def __call__(self, position: int, slot: int) -> int:
        return slot


class _Balance:
    """Fills the slots of an epoch with every class as often as the largest one.

    Each class has as many slots as the largest has examples, and goes through its own
    examples in a circle that continues from epoch to epoch, so within an epoch no
    example comes up more than once more often than another of its class.
    """

    def __init__(self, labels: np.ndarray, seed: int):
        rng = np.random.default_rng(seed)
        # Shuffled, so that the examples with one turn more are no stretch of the list.
        self._classes = [rng.permutation(np.flatnonzero(labels == c)) for c in (0, 1)]
        self._slots = max(len(members) for members in self._classes)

    def __call__(self, position: int, slot: int) -> int:
        epoch = position // (2 * self._slots)
        label, turn = divmod(slot, self._slots)
        members = self._classes[label]
        return int(members[(epoch * self._slots + turn) % len(members)])


class _Load(grain.transforms.Map):
    """An example's place in the shards to the example."""

    def __init__(self, source: records.RecordSource):
        self._source = source

    def map(self, index: int) -> dict:
        example = records.decode(self._source[index], original_mask=False)
        return example | {"index": index}


class _ForTraining(grain.transforms.Map):
    """Keeps the arrays that a training step reads."""

    def map(self, example: dict) -> dict:
        return {
            "image": example["image"],
            "mask": example["mask"],
            "label": np.float32(example["label"]),
            "has_mask": np.float32(example["has_mask"]),
            "index": np.int32(example["index"]),
        }


def _prefetch(dataset: grain.MapDataset, workers: int) -> Iterator:
    """Runs ahead of the reader in threads, or in `workers` processes with threads."""
    threads = min(16, max(2, (os.cpu_count() or 1) // max(1, workers)))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    ahead = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # only `absl.app.run` parses them
            flags.FLAGS.mark_as_parsed()
        ahead = ahead.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(ahead)


# -- Evaluation ---


@dataclasses.dataclass(frozen=True)
class Tile:
    """One row of a batch: the part `box` (top, left, height, width) of an example.

    `index` is the example's place in its source, `parts` how many tiles it has. Below
    and to the right of `box` the row is padding. `resized`: the box covers the whole
    image, stretched to the row.
    """

    example: dict
    index: int
    box: tuple[int, int, int, int]
    parts: int
    resized: bool


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of one shape: arrays, and the tile of each row up to the last valid one.

    `arrays` holds `image` uint8 B H W 3, `mask` uint8 B H W 1, `label` and `has_mask`
    float32 B, `valid` bool B; rows that are not valid repeat the first. `errors` are
    examples that could not be read: `name`, `index` and `error`.
    """

    arrays: dict[str, np.ndarray]
    tiles: list[Tile]
    errors: list[dict]


class FileSource:
    """Image files as a source of examples without masks, in the order given.

    `root`: what names are relative to; by default the folder that holds all of them.
    """

    def __init__(
        self, paths: Sequence[str | os.PathLike], root: str | os.PathLike | None = None
    ):
        self._paths = [os.fspath(path) for path in paths]
        if root is None and self._paths:
            parents = {os.path.dirname(os.path.abspath(path)) for path in self._paths}
            root = os.path.commonpath(parents)
        self._root = root

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> dict:
        path = self._paths[index]
        name = os.path.relpath(path, self._root).replace(os.sep, "/")
        try:
            image = images.read_image(path)
        except InputError as error:
            return {"name": name, "error": str(error)}
        height, width = image.shape[:2]
        mask = np.zeros((height, width, 1), np.uint8)
        return {
            "image": image,
            "mask": mask,
            "original_mask": mask[..., 0],
            "label": 0,
            "has_mask": False,
            "height": height,
            "width": width,
            "name": name,
            "source": "",
            "group": "",
            "kind": "",
        }


def eval_batches(
    source,
    *,
    batch_size: int,
    image_size: int,
    geometry: str,
    workers: int = 0,
    keep_images: bool = False,
    max_side: int = MAX_SIDE,
) -> Iterator[Batch]:
    """Every example of `source` exactly once, in batches of `batch_size` rows.

    `source` is a shard folder, a `RecordSource` or a `FileSource`. With `geometry`
    "resize" a row is a whole image stretched to `image_size`. With "crop" it is the
    image at native resolution, mirrored up to one of a few sides (`SIDES`), or one of
    several overlapping tiles where a side exceeds `max_side`; `Assembler` joins them
    again.

    Batches hold one shape. To keep them full, rows wait for others of their shape, but
    never longer than eight batches of rows. `keep_images` leaves the image in the
    tile's example.
    """
    if geometry not in GEOMETRIES:
        raise InputError(f"No geometry {geometry!r}; there are {list(GEOMETRIES)}.")
    if isinstance(source, str | os.PathLike):
        _fitting_manifest(source, image_size, geometry)
        source = records.RecordSource(source)
    cut = _Cut(source, image_size, geometry, max_side, keep_images)
    examples = grain.MapDataset.range(len(source)).map(cut)
    return _group(_prefetch(examples, workers), len(source), batch_size)


class _Cut:
    """A place in the source to the example's rows: (tile, image, mask, label) each."""

    def __init__(self, source, image_size, geometry, max_side, keep_images):
        self._source = source
        self._image_size = image_size
        self._geometry = geometry
        self._max_side = max_side
        self._keep_images = keep_images

    def __call__(self, index: int):
        example = self._source[index]
        if isinstance(example, bytes):
            example = records.decode(example)
        example["index"] = index
        if "error" in example:
            return example
        image, mask = example["image"], example["mask"]
        if not self._keep_images:
            del example["image"]
        del example["mask"]
        if self._geometry == "resize":
            side = self._image_size
            box = (0, 0, example["height"], example["width"])
            image = images.resize_image(image, side, side)
            mask = images.resize_mask(mask, side, side)
            tile = Tile(example, index, box, parts=1, resized=True)
            return [(tile, image, mask, example["label"])]

        height, width = image.shape[:2]
        rows, tall = _spans(height, self._max_side)
        columns, wide = _spans(width, self._max_side)
        parts = len(rows) * len(columns)
        cuts = []
        for top in rows:
            for left in columns:
                window = np.s_[top : top + tall, left : left + wide]
                box = (top, left, *image[window].shape[:2])
                label = example["label"]
                if parts > 1:
                    label = transforms.label_of_part(example, mask[window])
                cuts.append(
                    (
                        Tile(example, index, box, parts, resized=False),
                        transforms.pad(image[window], tall, wide),
                        transforms.pad(mask[window], tall, wide),
                        label,
                    )
                )
        return cuts


def _spans(length: int, max_side: int) -> tuple[list[int], int]:
    """Where tiles start along an axis, and their side."""
    if length <= max_side:
        return [0], min((side for side in SIDES if side >= length), default=max_side)
    overlap = min(OVERLAP, max_side // 2)
    count = -(-(length - overlap) // (max_side - overlap))
    return np.linspace(0, length - max_side, count).astype(int).tolist(), max_side


def _group(examples: Iterator, count: int, batch_size: int) -> Iterator[Batch]:
    """Batches of one shape; errors go with the batch that follows them."""
    waiting = collections.OrderedDict()  # shape -> rows, oldest first
    errors, arrived, unread, first_error = [], 0, 0, None
    ready = None  # one batch is held back, so that late errors find one to go with
    for example in examples:
        if isinstance(example, dict):
            errors.append(example)
            unread += 1
            first_error = first_error or example["error"]
            continue
        for row in example:
            rows = waiting.setdefault(row[1].shape, [])
            rows.append((arrived, row))
            arrived += 1
            full = row[1].shape if len(rows) == batch_size else None
            oldest = min(waiting, key=lambda shape: waiting[shape][0][0])
            if full is None and arrived - waiting[oldest][0][0] > 8 * batch_size:
                full = oldest
            if full is not None:
                if ready is not None:
                    yield ready
                ready = _batch(waiting.pop(full), batch_size, errors)
                errors = []
    for rows in waiting.values():
        if ready is not None:
            yield ready
        ready = _batch(rows, batch_size, errors)
        errors = []
    if ready is None:
        if unread:
            raise InputError(f"None of {unread} files can be read; {first_error}")
        return
    yield dataclasses.replace(ready, errors=ready.errors + errors)


def _batch(rows: list, batch_size: int, errors: list[dict]) -> Batch:
    rows = [row for _, row in rows]
    filled = rows + [rows[0]] * (batch_size - len(rows))
    arrays = {
        "image": np.stack([image for _, image, _, _ in filled]),
        "mask": np.stack([mask for _, _, mask, _ in filled]),
        "label": np.array([label for _, _, _, label in filled], np.float32),
        "has_mask": np.array(
            [row[0].example["has_mask"] for row in filled], np.float32
        ),
        "valid": np.arange(batch_size) < len(rows),
    }
    return Batch(arrays, [row[0] for row in rows], errors)


class Assembler:
    """Joins the maps of tiles into maps of whole images, in the source's order."""

    def __init__(self):
        self._open = {}  # index -> [example, tiles missing, sum, weights, score]
        self._done = {}  # index -> finished, waiting for its turn
        self._next = 0

    def add(
        self, batch: Batch, mask_probs: np.ndarray, scores: np.ndarray
    ) -> list[tuple[dict, np.ndarray, float]]:
        """Takes a batch's `mask_probs` B H W and `scores` B.

        Returns the examples that are complete and next in order, each with its
        probabilities float32 h w at the original size and its score, the maximum over
        its tiles. Where tiles overlap, each counts the less the nearer its border is.
        """
        for example in batch.errors:
            self._done[example["index"]] = None
        for row, tile in enumerate(batch.tiles):
            probs = np.asarray(mask_probs[row], np.float32)
            score = float(scores[row])
            if tile.parts == 1:
                whole = self._untile(tile, probs)
                self._done[tile.index] = (tile.example, whole, score)
            else:
                self._blend(tile, probs, score)
        finished = []
        while self._next in self._done:
            one = self._done.pop(self._next)
            if one is not None:
                finished.append(one)
            self._next += 1
        return finished

    def _untile(self, tile: Tile, probs: np.ndarray) -> np.ndarray:
        height, width = tile.box[2:]
        if tile.resized and probs.shape != (height, width):
            return cv2.resize(probs, (width, height), interpolation=cv2.INTER_LINEAR)
        return probs[:height, :width].copy()  # a view would keep the whole batch alive

    def _blend(self, tile: Tile, probs: np.ndarray, score: float):
        top, left, height, width = tile.box
        if tile.index not in self._open:
            size = (tile.example["height"], tile.example["width"])
            sums = np.zeros(size, np.float32), np.zeros(size, np.float32)
            self._open[tile.index] = [tile.parts, -np.inf, *sums]
        state = self._open[tile.index]
        weights = np.outer(_taper(height), _taper(width))
        window = np.s_[top : top + height, left : left + width]
        state[0] -= 1
        state[1] = max(state[1], score)
        state[2][window] += weights * probs[:height, :width]
        state[3][window] += weights
        if not state[0]:
            _, score, total, weight = self._open.pop(tile.index)
            self._done[tile.index] = (tile.example, total / weight, score)


def _taper(length: int) -> np.ndarray:
    """Weights along a tile: rising over the overlap, 1 inside, falling again."""
    rise = np.arange(1, length + 1, dtype=np.float32) / OVERLAP
    return np.minimum(1, np.minimum(rise, rise[::-1]))

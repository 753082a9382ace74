"""From shards to batches, in NumPy alone.

Training batches are a function of the step: the same examples and the same random draws
for any number of workers and processes, and from any step on, so that a resumed run
sees what an uninterrupted one would have seen.
"""

import dataclasses
import os
from collections.abc import Callable, Iterable, Iterator, Sequence

import grain
import numpy as np
from absl import flags

from sdfl_jax.data import images, records, tiling, transforms
from sdfl_jax.data.damaged import Load
from sdfl_jax.data.setup import setup
from sdfl_jax.data.tiling import Assembler, Batch, Tile
from sdfl_jax.data.workers import end_with_parent
from sdfl_jax.errors import InputError

__all__ = [
    "Assembler",
    "Batch",
    "FileSource",
    "Tile",
    "eval_batches",
    "one_ahead",
    "steps_per_epoch",
    "stream_batches",
    "train_batches",
    "unlabelled",
]

GEOMETRIES = ("resize", "crop")
_PATIENCE = 8  # batches of rows that an evaluation row waits for others of its shape


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
    float32 b, and int32 b `index`, the examples' places in the shards, and `damaged`,
    that of a record which another one replaced (see `damaged.Load`), else -1. H = W =
    `image_size`; b is `batch_size` / `processes`, and the parts of all processes, in
    order, are the batch that one process would make. Examples are decoded in threads,
    or in `workers` processes of their own.

    `geometry` "resize" stretches whole images, "crop" cuts random windows at native
    resolution. With `balance` an epoch takes every class as often as the largest (see
    `_Balance`). `InputError` for settings that do not fit the shards or each other.
    """
    part = part_of_batch(batch_size, processes)
    manifest = _fitting_manifest(folder, image_size, geometry)
    steps = [
        Load(records.RecordSource(folder), records.labels(manifest)),
        transforms.Resize(size=image_size)
        if geometry == "resize"
        else transforms.RandomCrop(size=image_size),
        *([transforms.RandomFlip()] if flips else []),
        ForTraining(),
    ]
    order = _Balance(records.labels(manifest), seed) if balance else _Everything()
    length = _epoch_length(folder, manifest, balance)
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
    return prefetch(batches[start_step:], workers)


def steps_per_epoch(
    folder: str | os.PathLike, batch_size: int, balance: bool = True
) -> int:
    """Whole batches in one pass over the examples, rarer classes repeated if `balance`.

    At least 1. The examples that fill no batch any more, fewer than `batch_size`, come
    first in the next pass, so an epoch of so many steps sees each example at most once
    more than another, and up to `batch_size` - 1 of them not at all.
    """
    length = _epoch_length(folder, records.load_manifest(folder), balance)
    return max(1, length // batch_size)


def part_of_batch(batch_size: int, processes: int) -> int:
    """What each process makes of a batch; `InputError` where that is not whole."""
    if batch_size < 1 or batch_size % processes:
        raise InputError(
            f"A batch of {batch_size} cannot be split over {processes} processes."
        )
    return batch_size // processes


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


class ForTraining(grain.transforms.Map):
    """Keeps the arrays that a training step reads; see `train_batches`."""

    def map(self, example: dict) -> dict:
        return {
            "image": example["image"],
            "mask": example["mask"],
            "label": np.float32(example["label"]),
            "has_mask": np.float32(example["has_mask"]),
            "index": np.int32(example["index"]),
            "damaged": np.int32(example["damaged"]),
        }


def prefetch(dataset: grain.MapDataset, workers: int) -> Iterator:
    """Runs ahead of the reader in threads, or in `workers` processes with threads."""
    threads = min(16, max(2, (os.cpu_count() or 1) // max(1, workers)))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    ahead = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # only `absl.app.run` parses them
            flags.FLAGS.mark_as_parsed()
        ahead = ahead.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), _start_worker
        )
    return iter(ahead)


def _start_worker(worker: int, workers: int):
    setup()
    end_with_parent()


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
        return unlabelled(name, image)


def unlabelled(name: str, image: np.ndarray) -> dict:
    """An image (uint8 H W 3) of which nothing is known, as an example."""
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
    max_side: int = tiling.MAX_SIDE,
    overlap: int = tiling.OVERLAP,
    scoring: str = "original",
) -> Iterator[Batch]:
    """Every example of `source` exactly once, in batches of `batch_size` rows.

    `source` is a shard folder, a `RecordSource` or anything indexed that gives examples
    (`FileSource`, `eval_sources`). With `geometry` "resize" a row is a whole image
    stretched to `image_size`; with `scoring` "network" it is scored at that size, mask
    and map alike, instead of the image's. With "crop" it is the image at native
    resolution, mirrored up to one of a few sides (`tiling.SIDES`), or one of several
    tiles where a side exceeds `max_side`, which overlap by `overlap` but never by more
    than half; `Assembler` joins them again.

    Batches hold one shape. To keep them full, rows wait for others of their shape, but
    never longer than eight batches of rows. `keep_images` leaves the image in the
    tile's example.
    """
    if geometry not in GEOMETRIES:
        raise InputError(f"No geometry {geometry!r}; there are {list(GEOMETRIES)}.")
    if max_side % tiling.STRIDE or max_side < tiling.STRIDE:
        raise InputError(
            f"Tiles of {max_side} pixels; a multiple of {tiling.STRIDE} is needed."
        )
    if isinstance(source, str | os.PathLike):
        _fitting_manifest(source, image_size, geometry)
        source = records.RecordSource(source)
    rows = _Rows(
        source,
        {
            "image_size": image_size,
            "geometry": geometry,
            "max_side": max_side,
            "overlap": overlap,
            "scoring": scoring,
            "keep_image": keep_images,
        },
    )
    examples = grain.MapDataset.range(len(source)).map(rows)
    return _group(prefetch(examples, workers), batch_size)


def stream_batches(
    examples: Iterable[dict],
    *,
    batch_size: int,
    image_size: int,
    geometry: str,
    max_side: int = tiling.MAX_SIDE,
    overlap: int = tiling.OVERLAP,
) -> Iterator[Batch]:
    """`eval_batches` of examples that come one after the other, images kept."""
    settings = {
        "image_size": image_size,
        "geometry": geometry,
        "max_side": max_side,
        "overlap": overlap,
        "scoring": "original",
        "keep_image": True,
    }
    rows = (
        tiling.cut(example | {"index": index}, **settings)
        for index, example in enumerate(examples)
    )
    return _group(rows, batch_size)


def one_ahead(
    batches: Iterable[Batch], step: Callable[[dict], dict]
) -> Iterator[tuple[Batch, dict]]:
    """Batches with what `step` makes of their arrays; the next is computed meanwhile.

    For a step that returns before it is done, as compiled ones do.
    """
    pending = None
    for batch in batches:
        outputs = step(batch.arrays)
        if pending:
            yield pending
        pending = batch, outputs
    if pending:
        yield pending


class NothingRead(InputError):
    """Not one file can be read; `examples` holds `name` and `error` of each."""

    def __init__(self, examples: list[dict]):
        first = examples[0]["error"]
        super().__init__(f"None of {len(examples)} files can be read; {first}")
        self.examples = examples


class _Rows:
    """An example's place in the source to its rows, or to the error of reading it."""

    def __init__(self, source, settings: dict):
        self._source = source
        self._settings = settings

    def __call__(self, index: int) -> list[tiling.Row] | dict:
        example = self._source[index]
        if isinstance(example, bytes):
            example = records.decode(example)
        example["index"] = index
        return example if "error" in example else tiling.cut(example, **self._settings)


def _group(examples: Iterator, batch_size: int) -> Iterator[Batch]:
    """Batches of one shape; errors go with the batch that follows them."""
    waiting = {}  # shape -> (number, row) of each row of this shape, in order
    errors, unread, number = [], [], 0
    ready = None  # one batch is held back, so that late errors find one to go with

    def due():
        """The shape to send now: a full one, or one whose first row waits too long."""
        for shape, rows in waiting.items():
            if len(rows) == batch_size or number - rows[0][0] > _PATIENCE * batch_size:
                return shape
        return None

    def send(shape):
        nonlocal ready, errors
        rows = [row for _, row in waiting.pop(shape)]
        before, ready = ready, tiling.stack(rows, batch_size, errors)
        errors = []
        return [] if before is None else [before]

    for example in examples:
        if isinstance(example, dict):
            errors.append(example)
            unread.append(example)
            continue
        for row in example:
            waiting.setdefault(row.image.shape, []).append((number, row))
            number += 1
            while (shape := due()) is not None:
                yield from send(shape)
    for shape in list(waiting):
        yield from send(shape)
    if ready is not None:
        yield dataclasses.replace(ready, errors=ready.errors + errors)
    elif unread:
        raise NothingRead(unread)

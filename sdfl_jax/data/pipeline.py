"""From shards to batches, in NumPy alone.

Training batches are a function of the step: the same examples and the same random draws
for any number of workers and processes, and from any step on, so that a resumed run
sees what an uninterrupted one would have seen.
"""

import concurrent.futures
import dataclasses
import itertools
import os
from collections.abc import Iterator, Sequence

import grain
import numpy as np
from absl import flags

from sdfl_jax.data import coefficients, mixing, records, tiling, transforms
from sdfl_jax.data.batches import (
    FileSource,
    NothingRead,
    group,
    one_ahead,
    rows_of,
    stream_batches,
    unlabelled,
)
from sdfl_jax.data.damaged import UNREADABLE, Load
from sdfl_jax.data.setup import setup
from sdfl_jax.data.tiling import Assembler, Batch, Tile, maps_of, parted
from sdfl_jax.data.workers import end_with_parent
from sdfl_jax.errors import InputError

__all__ = [
    "Assembler",
    "Batch",
    "FileSource",
    "NothingRead",
    "Tile",
    "eval_batches",
    "maps_of",
    "one_ahead",
    "parted",
    "steps_per_epoch",
    "stream_batches",
    "train_batches",
    "unlabelled",
]

GEOMETRIES = ("resize", "crop")

# Of whose sizes canvases are chosen, evenly spaced, and the threads that read them.
_SIZES, _THREADS = 4096, 16


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
    inputs: Sequence[str] = ("rgb",),
) -> Iterator[dict[str, np.ndarray]]:
    """Endless shuffled batches of shards, from step `start_step` on.

    `folder` is a folder of shards or a mix of several (`mixing.parts`).

    A batch holds `image` uint8 b H W 3, `mask` uint8 b H W 1, `label` and `has_mask`
    float32 b, and int32 b `index`, the examples' places in the shards, and `damaged`,
    that of a record which another one replaced (see `damaged.Load`), else -1. H = W =
    `image_size`; b is `batch_size` / `processes`, and the parts of all processes, in
    order, are the batch that one process would make. Examples are decoded in threads,
    or in `workers` processes of their own.

    `geometry` "resize" stretches whole images, "crop" cuts random windows at native
    resolution. With `balance` an epoch takes every class as often as the largest (see
    `_Balance`); a mix's counts say that instead. `InputError` for settings that do not
    fit the shards or each other.

    `inputs` ("rgb", "jpeg") adds `dct` int16 b H W and `qtable` float32 b 8 8, see
    `coefficients.add`; windows then begin on the grid of the blocks.
    """
    if "jpeg" in inputs and (flips or geometry != "crop" or image_size % 8):
        raise InputError(
            "JPEG coefficients are neither mirrored nor resized: data.inputs=('rgb', "
            "'jpeg') needs data.flips=False, data.geometry='crop' and an image_size "
            "of whole blocks of 8."
        )
    part = part_of_batch(batch_size, processes)
    if mixing.is_mix(folder):
        mix = mixing.parts(folder)
        for one in mix:
            _fitting_manifest(one.folder, image_size, geometry)
        load = Load(mixing.Source(mix), mixing.classes(mix), tuple(inputs))
        order = mixing.Draw(mix, seed)
    else:
        manifest = _fitting_manifest(folder, image_size, geometry)
        load = Load(
            records.RecordSource(folder), records.labels(manifest), tuple(inputs)
        )
        order = _Balance(records.labels(manifest), seed) if balance else _Everything()
    steps = [
        load,
        transforms.Resize(size=image_size)
        if geometry == "resize"
        else transforms.RandomCrop(size=image_size),
        *([transforms.RandomFlip()] if flips else []),
        ForTraining(),
    ]
    batches = (
        grain.MapDataset.range(_epoch_length(folder, balance))
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

    A pass over a mix takes what its counts say.

    At least 1. The examples that fill no batch any more, fewer than `batch_size`, come
    first in the next pass, so an epoch of so many steps sees each example at most once
    more than another, and up to `batch_size` - 1 of them not at all.
    """
    return max(1, _epoch_length(folder, balance) // batch_size)


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


def _epoch_length(folder, balance: bool) -> int:
    if mixing.is_mix(folder):
        return sum(part.count for part in mixing.parts(folder))
    counts = np.bincount(records.labels(records.load_manifest(folder)), minlength=2)
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
            **{name: example[name] for name in coefficients.PLANES if name in example},
        }


def prefetch(dataset: grain.MapDataset, workers: int) -> Iterator:
    """Runs ahead of the reader in threads, or in `workers` processes with threads."""
    threads = min(16, max(2, (os.cpu_count() or 1) // max(1, workers)))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=threads)
    ahead = dataset.to_iter_dataset(options)
    if workers:
        if not flags.FLAGS.is_parsed():  # only `absl.app.run` parses them
            flags.FLAGS.mark_as_parsed()
        _let_tracker_be_silent()
        ahead = ahead.mp_prefetch(
            grain.MultiprocessingOptions(num_workers=workers), _start_worker
        )
    return iter(ahead)


def _let_tracker_be_silent():
    """Keeps the process that watches over shared memory from its warning.

    It removes what workers had fetched ahead when a run ends, as it should; what it
    says of it looks like a failure. It is started with the environment of then.
    """
    silence = "ignore:resource_tracker:UserWarning"
    filters = os.environ.get("PYTHONWARNINGS", "").split(",")
    if silence not in filters:
        os.environ["PYTHONWARNINGS"] = ",".join(filter(None, [*filters, silence]))


def _start_worker(worker: int, workers: int):
    setup()
    end_with_parent()


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
    inputs: Sequence[str] = ("rgb",),
    canvas: bool = False,
    again: tiling.SecondLook = tiling.ONCE,
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
    tile's example; `inputs` as for `train_batches`. With `canvas` rows of several sizes
    share a few canvases, chosen by the sizes of the examples (`tiling.canvases`), and
    say what of it is theirs. With `again` a small image has a second row, of itself
    enlarged (`tiling.cut`).
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
            "again": again,
            "canvases": _canvases(source, max_side, overlap, again)
            if canvas and geometry == "crop"
            else (),
        },
        tuple(inputs),
    )
    examples = grain.MapDataset.range(len(source)).map(rows)
    return group(prefetch(examples, workers), batch_size)


def _canvases(
    source, max_side: int, overlap: int, again: tiling.SecondLook
) -> list[tuple[int, int]]:
    """For the rows of all examples, by the sizes of some thousand of them.

    For any rows where the source does not know sizes.
    """
    every = -(-len(source) // _SIZES) or 1

    def sizes(index: int) -> list[tuple[int, int] | None]:
        try:
            return [source.size(index)]
        except UNREADABLE:  # told when its turn comes
            return []

    if not hasattr(source, "size"):
        return tiling.ladder(max_side)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(sizes, range(0, len(source), every))
        found = list(itertools.chain.from_iterable(found))
    if None in found:
        return tiling.ladder(max_side)
    return tiling.canvases(found, max_side, overlap, every=every, again=again)


class _Rows:
    """An example's place in the source to its rows, or to the error of reading it."""

    def __init__(self, source, settings: dict, inputs: tuple[str, ...]):
        self._source = source
        self._settings = settings
        self._inputs = inputs

    def __call__(self, index: int) -> list[tiling.Row] | dict:
        example = self._source[index]
        if isinstance(example, bytes):
            example = records.decode(example)
        example["index"] = index
        return rows_of(example, self._inputs, self._settings)

"""From shards to batches of training, in NumPy alone.

They are a function of the step: the same examples and the same random draws
for any number of workers and processes, and from any step on, so that a resumed run
sees what an uninterrupted one would have seen.
"""

import dataclasses
import os
from collections.abc import Iterator, Sequence

import grain
import numpy as np

from sdfl_jax.data import ahead, coefficients, mixing, records, transforms
from sdfl_jax.data.damaged import Load
from sdfl_jax.errors import InputError


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
            records.fitting_manifest(one.folder, image_size, geometry)
        load = Load(mixing.Source(mix), mixing.classes(mix), tuple(inputs))
        order = mixing.Draw(mix, seed)
    else:
        manifest = records.fitting_manifest(folder, image_size, geometry)
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
    return ahead.prefetch(batches[start_step:], workers)


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

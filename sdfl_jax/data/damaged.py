"""Damaged records: replaced, counted, and tolerated up to a limit."""

import os
import sys

import grain
import numpy as np

from sdfl_jax.data import coefficients, mixing, records
from sdfl_jax.errors import InputError

# Records that a run goes on without: a share of the examples, and in small sets a few
# of them, while half are whole. More is no accident but a disk or a copy gone wrong.
MOST_SHARE, MOST_OF_FEW = 0.001, 10
_TRIES = 100  # replacements of one record, before the shards count as lost


class Load(grain.transforms.Map):
    """A record's place in the shards to its example.

    A record that cannot be read is replaced by the next readable one of its class, so
    that batches stay full and every process and every run makes the same choice. Its
    place then stands in `damaged` (else -1); `index` is that of the example taken.
    """

    def __init__(
        self,
        source: records.RecordSource | mixing.Source,
        labels: np.ndarray,
        inputs: tuple[str, ...] = ("rgb",),
    ):
        self._source, self._inputs = source, inputs
        self._labels = labels

    def map(self, index: int) -> dict:
        try:
            return self._read(index) | {"damaged": -1}
        except records.UNREADABLE:
            return self._replacement(index) | {"damaged": index}

    def _read(self, place: int) -> dict:
        example = records.decode(self._source[place], original_mask=False)
        if "jpeg" in self._inputs:
            example = coefficients.add(example)
        return example | {"index": place}

    def _replacement(self, index: int) -> dict:
        for place in self._same_class_from(index)[1:_TRIES]:
            try:
                return self._read(place)
            except records.UNREADABLE:
                continue
        raise InputError(
            f"Record {index} of the shards cannot be read, and neither can the next "
            "ones of its class; copy the folder again or build it anew."
        )

    def _same_class_from(self, index: int) -> list[int]:
        """Places of `index`'s class in a circle that begins there."""
        members = np.flatnonzero(self._labels == self._labels[index])
        return np.roll(members, -np.searchsorted(members, index)).tolist()


class DamagedRecords:
    """Counts damaged records and reports each once.

    `examples`: how many of an epoch, or of validation data, this process reads.
    """

    def __init__(self, folder: str | os.PathLike, examples: int):
        self._folder = folder
        self._examples = examples
        self.places: set[int] = set()

    def see(self, damaged: np.ndarray):
        """Takes places in the shards, and -1 for what was not damaged (`Load`).

        Raises `InputError` with the list once more are damaged than `tolerated`.
        """
        new = set(damaged[damaged >= 0].tolist()) - self.places
        self.places |= new
        for place in sorted(new):
            print(
                f"{self._folder}: record {place} is damaged; the run goes on without "
                "it.",
                file=sys.stderr,
            )
        most = tolerated(self._examples)
        if len(self.places) > most:
            raise InputError(
                f"{self._folder}: {len(self.places)} of {self._examples} records are "
                f"damaged, more than {most}: {sorted(self.places)}; copy the folder "
                "again or build it anew (python -m sdfl_jax.data.build --verify lists "
                "all that is wrong)."
            )


def tolerated(examples: int) -> int:
    """How many of `examples` may be damaged before a run ends: 0.1 %, or up to ten."""
    return max(int(MOST_SHARE * examples), min(MOST_OF_FEW, examples // 2))

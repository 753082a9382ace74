"""Several sets of shards as one to train on, with a number drawn from each an epoch.

`config.data.train="casia2=shards/a:1869,imd2020=shards/c:1869"` names them. What an
epoch takes of a set follows from the seed, the set's place in the text and the number
of the epoch, so it is the same on any number of processes and in a run that goes on.
"""

import dataclasses
import functools
import os
import re
from collections.abc import Sequence

import numpy as np

from sdfl_jax.data import records
from sdfl_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Part:
    """One of the sets: its name, its shards and what an epoch takes of it."""

    name: str
    folder: str
    examples: int
    count: int  # the number that was asked for, or all of `examples`


def is_mix(text: str | os.PathLike) -> bool:
    """Whether `config.data.train` names several sets, and not one folder of shards."""
    text = os.fspath(text)
    return not os.path.isdir(text) and ("=" in text or "," in text)


def parts(text: str) -> tuple[Part, ...]:
    """The sets of `NAME=SHARDS[:COUNT],...`; without a count all of a set.

    `InputError` for an item of another form, a name that comes twice, a count below 1
    and a folder that holds no finished shards or not one example.
    """
    found = []
    for item in text.split(","):
        name, equals, place = item.strip().partition("=")
        if not equals or not place or not re.fullmatch(r"\w[\w.+-]*", name):
            raise InputError(
                f"config.data.train={text}: {item!r} is not NAME=SHARDS or "
                "NAME=SHARDS:COUNT."
            )
        if name in {part.name for part in found}:
            raise InputError(f"config.data.train={text}: two sets are called {name!r}.")
        folder, colon, count = place.rpartition(":")
        if not colon or os.path.isdir(place):
            folder, count = place, ""
        elif not re.fullmatch(r"0*[1-9]\d*", count):
            raise InputError(
                f"config.data.train={text}: {item!r} takes {count!r} of each epoch, "
                "where a whole number of 1 or more is expected."
            )
        examples = records.load_manifest(folder)["examples"]
        if not examples:
            raise InputError(f"config.data.train={text}: {folder} holds no example.")
        found.append(Part(name, folder, examples, int(count or examples)))
    return tuple(found)


class Source:
    """The records of all parts, one after the other."""

    def __init__(self, mix: Sequence[Part]):
        self._sources = [records.RecordSource(part.folder) for part in mix]
        self._starts = starts(mix)

    def __len__(self) -> int:
        return sum(len(source) for source in self._sources)

    def __getitem__(self, index: int) -> bytes:
        part = int(np.searchsorted(self._starts, index, side="right")) - 1
        return self._sources[part][index - int(self._starts[part])]


def starts(mix: Sequence[Part]) -> np.ndarray:
    """Where each part's records begin among those of all, int64 P."""
    return np.cumsum([0, *(part.examples for part in mix[:-1])])


def classes(mix: Sequence[Part]) -> np.ndarray:
    """What a record can stand in for: label and part in one number, int32 N."""
    labels = [records.labels(records.read_manifest(part.folder)) for part in mix]
    return np.concatenate(
        [2 * number + part.astype(np.int32) for number, part in enumerate(labels)]
    )


class Draw:
    """The slots of an epoch, filled from each part as often as it asks.

    An epoch draws without putting back; a part that gives more than it holds gives
    everything first, and as often as that goes.
    """

    def __init__(self, mix: Sequence[Part], seed: int):
        self._parts = tuple(mix)
        self._seed = seed
        self._ends = np.cumsum([part.count for part in mix])
        self._starts = starts(mix)

    def __call__(self, position: int, slot: int) -> int:
        epoch = position // int(self._ends[-1])
        number = int(np.searchsorted(self._ends, slot, side="right"))
        part = self._parts[number]
        turn = slot - int(self._ends[number]) + part.count
        round_, place = divmod(turn, part.examples)
        order = _order(self._seed, number, epoch, round_, part.examples)
        return int(self._starts[number] + order[place])


@functools.lru_cache(maxsize=256)
def _order(seed: int, part: int, epoch: int, round_: int, examples: int) -> np.ndarray:
    return np.random.default_rng((seed, part, epoch, round_)).permutation(examples)

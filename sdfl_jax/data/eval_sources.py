"""Where evaluation's examples come from: shards, lists of files, and changes to them.

A source is picklable and indexed; an item is an example as `records.decode` gives it,
or `name` and `error` of one that cannot be read.
"""

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence

import numpy as np

from sdfl_jax.data import images, records
from sdfl_jax.data.lists import (
    Entry,
    Rejected,
    nothing_usable,
    read_list,
    repeated,
)
from sdfl_jax.data.planes import read_planes
from sdfl_jax.errors import InputError

SIZE_MISMATCH = ("resize", "skip", "error")


@dataclasses.dataclass(frozen=True)
class DataSet:
    """One of the data sets that are scored together.

    `sha256` is that of the file which says what the set holds: a manifest or a list.
    """

    name: str
    path: str
    source: object
    sha256: str


def shard_sets(text: str) -> list[DataSet]:
    """The sets of `NAME=SHARDS[,NAME=SHARDS]`, or of one folder without a name."""
    return [
        _data_set(
            name, path, records.RecordSource(path), os.path.join(path, records.MANIFEST)
        )
        for name, path in parse_sets(text).items()
    ]


def list_sets(text: str, **how) -> list[DataSet]:
    """The sets of `NAME=FILE[,NAME=FILE]`, or of one list without a name.

    `how` are the keywords of `ListSource`.
    """
    return [
        _data_set(name, path, ListSource(path, **how), path)
        for name, path in parse_sets(text).items()
    ]


def parse_sets(text: str) -> dict[str, str]:
    """Paths by name; a path without a name is called as its last part is.

    What exists is a path, whatever is in its name. `InputError` for names that come
    twice or could not name a folder.
    """
    sets = {}
    for item in _items(text):
        name, equals, path = item.partition("=")
        if not equals or os.path.exists(item):
            name, path = os.path.basename(os.path.normpath(item)), item
            name = re.sub(r"[^\w.+ -]|^[^\w]", "_", name)
        if not path or not re.fullmatch(r"\w[\w.+ -]*", name):
            raise InputError(
                f"{item!r}: NAME=PATH is expected, a name of letters, digits and _.+-"
            )
        if name in sets:
            raise InputError(
                f"Two data sets are called {name!r}; NAME=PATH names them."
            )
        sets[name] = path
    return sets


def _items(text: str) -> list[str]:
    """The parts of `text` between commas, but for commas in paths that exist."""
    parts, items = text.split(","), []
    while parts:
        for count in range(len(parts), 0, -1):
            item = ",".join(parts[:count])
            if os.path.exists(item) or os.path.exists(item.partition("=")[2] or "="):
                break
        items.append(item)
        parts = parts[count:]
    return items


def _data_set(name: str, path: str, source, described: str) -> DataSet:
    with open(described, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return DataSet(name, path, source, digest)


def kinds_of(part: DataSet) -> set[str]:
    """The kinds of manipulation in a data set, as its list or manifest names them."""
    if isinstance(part.source, ListSource):
        return {entry.kind for entry in part.source.entries}
    return set(records.load_manifest(part.path)["kinds"])


class ListSource:
    """The images of a list (`lists.read_list`), straight from their files.

    What `data.build` would reject is an item with an `error`: lines that are no
    entries, which come last, and files that cannot be used. `InputError` for a list
    that names no image which exists.
    """

    def __init__(
        self,
        paths_file: str | os.PathLike,
        *,
        root: str | os.PathLike | None = None,
        replace: Sequence[str] = (),
        mask_inverted: bool = False,
        mask_as_stored: bool = False,
    ):
        self.entries, self._rejected = read_list(paths_file, root=root, replace=replace)
        if not any(os.path.exists(entry.image) for entry in self.entries):
            absent = [
                Rejected(line=entry.line, path=entry.image, reason="no such file")
                for entry in self.entries
            ]
            raise nothing_usable(paths_file, self.entries, [*self._rejected, *absent])
        self._repeated = repeated(self.entries)
        self._masks = {
            "mask_inverted": mask_inverted,
            "mask_as_stored": mask_as_stored,
        }

    def __len__(self) -> int:
        return len(self.entries) + len(self._rejected)

    def __getitem__(self, index: int) -> dict:
        if index < len(self.entries):
            entry = self.entries[index]
            try:
                return self._read(entry)
            except InputError as error:
                return {"name": entry.name, "error": str(error)}
        row = self._rejected[index - len(self.entries)]
        return {
            "name": row.path or f"line {row.line}",
            "error": f"line {row.line}: {row.reason}",
        }

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, without decoding it where that can be."""
        if index >= len(self.entries):
            raise InputError("A line that is no entry.")
        return images.size_of(self.entries[index].image)

    def _read(self, entry: Entry) -> dict:
        data = images.read_bytes(entry.image)
        mask = None if entry.mask is None else images.read_bytes(entry.mask)
        try:
            image, mask, warnings = read_planes(entry, data, mask, **self._masks)
        except InputError as error:
            path = "" if str(entry.mask) in str(error) else f"{entry.image}: "
            raise InputError(f"{path}{error}") from None
        size = height, width = image.shape[:2]
        resized = mask is not None and mask.shape[:2] != size
        if mask is None:
            mask = np.zeros((height, width, 1), np.uint8)
        mask = images.resize_mask(mask, height, width)
        return {
            "image": image,
            "encoded": data,
            "mask": mask,
            "original_mask": mask[..., 0],
            "mask_resized": resized,
            "warnings": warnings + ["duplicate"] * (entry.line in self._repeated),
            "label": entry.label,
            "has_mask": entry.label == 0 or entry.mask is not None,
            "height": height,
            "width": width,
            **{name: getattr(entry, name) for name in ("name", "source", "group")},
            "kind": entry.kind,
        }


@dataclasses.dataclass(frozen=True)
class Part:
    """Every `step`-th item of a source from `first` on: what one process takes."""

    source: object
    first: int
    step: int

    def __len__(self) -> int:
        return len(range(self.first, len(self.source), self.step))

    def __getitem__(self, index: int):
        return self.source[self._place(index)]

    def size(self, index: int) -> tuple[int, int] | None:
        return self.source.size(self._place(index))

    def _place(self, index: int) -> int:
        return range(self.first, len(self.source), self.step)[index]


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A source's examples, decoded and made fit for scoring.

    `size_mismatch` says what becomes of a mask whose size is not its image's: "resize"
    takes the nearest pixel, "skip" leaves the image out of the pixel metrics (as the
    reference does) and keeps its score, "error" is an `InputError`. An empty mask fits
    any image. `change` is applied to each example last.
    """

    source: object
    size_mismatch: str = "resize"
    change: Callable[[dict], dict] | None = None

    def __len__(self) -> int:
        return len(self.source)

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width of an example's image; None where `change` may change it."""
        return self.source.size(index) if self.change is None else None

    def __getitem__(self, index: int) -> dict:
        try:
            example = self.source[index]
            if isinstance(example, bytes):
                example = records.decode(example)
        except records.UNREADABLE as error:
            return {"name": f"record {index}", "error": str(error)}
        if "error" in example:
            return example
        example.setdefault("warnings", _warnings(example))
        if example["mask_resized"] and self.size_mismatch == "error":
            raise InputError(
                f"{example['name']}: its mask has another size than the image; "
                "--size_mismatch=resize or skip goes on."
            )
        if example["mask_resized"] and self.size_mismatch == "skip":
            example["has_mask"] = False
        if not self.change:
            return example
        example.pop("encoded", None)  # its pixels will be others
        return self.change(example)


def _warnings(example: dict) -> list[str]:
    """What is odd about an example of shards that only its pixels show."""
    marks = example["label"] == 0 or (example["original_mask"] >= 128).any()
    return ["empty_mask"] if example["has_mask"] and not marks else []

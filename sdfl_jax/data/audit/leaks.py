"""Leakage between lists of images, and mistakes in their labels and masks.

Comparisons of lists in memory; `audit` is the command that reads and writes them.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from operator import attrgetter
from typing import NamedTuple

import numpy as np

from sdfl_jax.data import origins
from sdfl_jax.data.audit import similar
from sdfl_jax.data.lists import Entry, Rejected

# The first of each pair is the one whose metrics a leak inflates.
PAIRS = (("test", "train"), ("test", "val"), ("val", "train"))

LEAKS = {
    "same_file": "the same path in two lists",
    "same_name": "the same file name in another folder",
    "same_photograph": "made of the same photograph (CASIA names)",
    "same_video": "of the same video or actor (FaceForensics++ names)",
    "same_group": "the same group (column of the list)",
    "same_bytes": "the same bytes under another name",
    "near_duplicate": "almost the same picture (perceptual hash)",
}
OTHERS = {
    "listed_twice": "a path listed again",
    "copy": "the same bytes again, under another name",
    "bad_line": "a line that cannot be used",
    "no_mask": "manipulated, no mask listed",
    "mask_missing": "the mask's file does not exist",
    "mask_empty": "manipulated, nothing marked in the mask",
    "mask_of_authentic": "authentic, pixels marked in the mask",
    "unreadable": "an image or mask that cannot be read",
}
_LETTER = re.compile(r"[^\W\d_]")


class Line(NamedTuple):
    """A line of a list, with the origins that its names give; paths are normalised."""

    line: int
    path: str  # as it is told: relative to the root
    image: str
    mask: str | None
    label: int
    photographs: tuple[str, ...]
    videos: tuple[str, ...]
    group: tuple[str, ...]

    @classmethod
    def of(cls, entry: Entry) -> "Line":
        image = entry.image
        if "/." in image or "//" in image:  # rare, and normpath is slow
            image = os.path.normpath(image)
        return cls(
            entry.line,
            entry.name,
            image,
            entry.mask,
            entry.label,
            origins.photographs(image),
            origins.videos(image),
            origins.listed_group(entry.source, entry.group),
        )


class Finding(NamedTuple):
    """What is wrong with line `a`, and the related line `b` where there is one."""

    finding: str
    split_a: str
    a: Line | Rejected
    split_b: str = ""
    b: Line | None = None
    detail: str = ""


class Looks(NamedTuple):
    """Of an image file: SHA-256 of its bytes, perceptual hash, or an error."""

    digest: str = ""
    fingerprint: bytes | None = None
    error: str = ""


Matches = Iterator[tuple[Line, Line, str]]


def audit(
    lists: dict[str, Sequence[Line]],
    looks: dict[str, Looks] | None = None,
    marks: dict[str, str] | None = None,
) -> list[Finding]:
    """All findings in the lists (by split), leaks first.

    A leak is reported once for each line of the first list of a pair, with the first
    related line of the other list. `looks` (by image path) and `marks` (by mask
    path) are what `look` returns; without them only names are compared.
    """
    found = []
    for name, match in _matchers(looks or {}).items():
        for split_a, split_b in PAIRS:
            if split_a in lists and split_b in lists:
                found += [
                    Finding(name, split_a, a, split_b, b, detail)
                    for a, b, detail in match(lists[split_a], lists[split_b])
                ]
    for split, entries in lists.items():
        found += _repeated(split, entries, looks or {})
        found += _files(split, entries, looks or {}, marks)
    order = {name: place for place, name in enumerate(LEAKS | OTHERS)}
    return sorted(found, key=lambda row: order[row.finding])


def leaks(findings: Sequence[Finding], split: str = "test") -> list[Finding]:
    """The findings that inflate the metrics of `split`."""
    return [f for f in findings if f.finding in LEAKS and f.split_a == split]


def fix(
    lists: dict[str, Sequence[Line]], looks: dict[str, Looks] | None = None
) -> dict[str, list[Line]]:
    """The lists without leaks and duplicates, by the rules of the command's help."""
    looks = looks or {}
    kept = {}
    for split, entries in lists.items():
        repeated = {row.a.line for row in _repeated(split, entries, looks)}
        kept[split] = [entry for entry in entries if entry.line not in repeated]
    pairs = [pair for pair in PAIRS if set(pair) <= kept.keys()]
    # A file name that occurs once says more than one that occurs often, so names that
    # said nothing may speak once other lines are gone: again, until nothing is found.
    dropping = True
    while dropping:
        dropping = False
        for match in _matchers(looks).values():
            for split_a, split_b in pairs:
                matched = match(kept[split_b], kept[split_a])
                lines = {entry.line for entry, _, _ in matched}
                if lines:
                    dropping = True
                    kept[split_b] = [e for e in kept[split_b] if e.line not in lines]
    return kept


# Comparisons: each yields the lines of the first list that have a relative in the
# second, once, with that relative.


def _matchers(looks: dict[str, Looks]) -> dict[str, Callable[..., Matches]]:
    matchers = {
        "same_file": partial(_by_keys, lambda entry: (entry.image,)),
        "same_name": partial(_by_name, looks),
        "same_photograph": partial(_by_keys, attrgetter("photographs")),
        "same_video": partial(_by_keys, attrgetter("videos")),
        "same_group": partial(_by_keys, attrgetter("group")),
    }
    if looks:
        matchers["same_bytes"] = partial(_by_bytes, looks)
        matchers["near_duplicate"] = partial(_by_looks, looks)
    return matchers


def _by_keys(keys, a: Sequence[Line], b: Sequence[Line]) -> Matches:
    first: dict[str, Line] = {}
    for entry in b:
        for key in keys(entry):
            first.setdefault(key, entry)
    for entry in a:
        shared = [key for key in keys(entry) if key in first]
        if shared:
            detail = "" if shared[0] == entry.image else " + ".join(shared)
            yield entry, first[shared[0]], detail


def _by_name(looks, a: Sequence[Line], b: Sequence[Line]) -> Matches:
    """Files of the same name in two folders, where the name identifies an image.

    Names without a letter are numbers that every folder has, and names that one list
    uses in several folders identify nothing either. Files that were read and differ
    are not reported.
    """
    known = [_named(entries) for entries in (a, b)]
    told = set()
    for name, one in known[0].items():
        other = known[1].get(name)
        if one is None or other is None or one.image == other.image:
            continue
        if _LETTER.search(name.rpartition(".")[0]) and not _differ(one, other, looks):
            told.add(one.image)
    for entry in a:
        if entry.image in told:
            yield entry, known[1][_name(entry)], ""


def _named(entries: Sequence[Line]) -> dict[str, Line | None]:
    """The entry of each file name, None where several paths have it."""
    known: dict[str, Line | None] = {}
    for entry in entries:
        one = known.setdefault(_name(entry), entry)
        if one is not None and one.image != entry.image:
            known[_name(entry)] = None
    return known


def _name(entry: Line) -> str:
    return entry.image.rpartition("/")[2]


def _differ(one: Line, other: Line, looks) -> bool:
    """True if both were read and neither bytes nor looks agree."""
    x, y = looks.get(one.image, Looks()), looks.get(other.image, Looks())
    if not x.digest or not y.digest or x.digest == y.digest:
        return False
    if x.fingerprint is None or y.fingerprint is None:
        return x.fingerprint != y.fingerprint
    bits = int.from_bytes(x.fingerprint) ^ int.from_bytes(y.fingerprint)
    return bits.bit_count() > similar.NEAR


def _by_bytes(looks, a: Sequence[Line], b: Sequence[Line]) -> Matches:
    def keys(entry):
        digest = looks.get(entry.image, Looks()).digest
        return (digest,) if digest else ()

    paths = {entry.image for entry in b}
    others = (entry for entry in a if entry.image not in paths)  # told as the same file
    for entry, other, _ in _by_keys(keys, list(others), b):
        yield entry, other, ""


def _by_looks(looks, a: Sequence[Line], b: Sequence[Line]) -> Matches:
    """Pairs within `similar.NEAR` bits whose bytes differ."""
    known = {looks.get(entry.image, Looks()).digest for entry in b}
    a = [e for e in a if looks.get(e.image, Looks()).digest not in known]
    (a, hashes_a), (b, hashes_b) = _fingerprints(a, looks), _fingerprints(b, looks)
    index, distance = similar.nearest(hashes_a, hashes_b)
    for entry, other, bits in zip(a, index, distance, strict=True):
        if other >= 0:
            yield entry, b[other], f"{bits} of 256 bits differ"


def _fingerprints(entries: Sequence[Line], looks):
    found = [(e, looks.get(e.image, Looks()).fingerprint) for e in entries]
    found = [(entry, hash) for entry, hash in found if hash is not None]
    joined = b"".join(hash for _, hash in found)
    hashes = np.frombuffer(joined, np.uint8).reshape(-1, similar.BYTES)
    return [entry for entry, _ in found], hashes


# Checks of one list


def _repeated(split: str, entries: Sequence[Line], looks) -> list[Finding]:
    found = []
    paths: dict[str, Line] = {}
    digests: dict[str, Line] = {}
    for entry in entries:
        first = paths.setdefault(entry.image, entry)
        if first is not entry:
            detail = "" if first.label == entry.label else "with another label"
            found.append(Finding("listed_twice", split, entry, split, first, detail))
            continue
        digest = looks.get(entry.image, Looks()).digest
        first = digests.setdefault(digest, entry) if digest else entry
        if first is not entry:
            detail = "" if first.label == entry.label else "with another label"
            found.append(Finding("copy", split, entry, split, first, detail))
    return found


def _files(split: str, entries: Sequence[Line], looks, marks) -> list[Finding]:
    found = []
    for entry in entries:
        error = looks[entry.image].error if entry.image in looks else ""
        if error:
            found.append(Finding("unreadable", split, entry, detail=error))
        if entry.mask is None:
            if entry.label:
                found.append(Finding("no_mask", split, entry))
        elif marks is not None:
            mark = marks[entry.mask]
            if mark == "missing":
                name, mark = "mask_missing", entry.mask
            elif mark not in ("empty", "marked"):
                name = "unreadable"
            elif (mark == "marked") == bool(entry.label):
                continue
            else:
                name = "mask_empty" if entry.label else "mask_of_authentic"
                mark = ""
            found.append(Finding(name, split, entry, detail=mark))
    return found

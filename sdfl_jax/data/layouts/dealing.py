"""Assigns images to splits by group: seeded, or as the data set defines them."""

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sdfl_jax.data import origins
from sdfl_jax.data.layouts.common import (
    TRAIN_VAL,
    Item,
    Refused,
    split_in_name,
)
from sdfl_jax.data.lists import SPLITS, read_list
from sdfl_jax.errors import InputError

Ratios = tuple[tuple[float, ...], tuple[float, ...]]  # of authentic, of manipulated

DEFAULT: Ratios = ((8, 1, 1), (8, 1, 1))


def parse_ratios(text: str) -> Ratios:
    """'8:1:1', or 'A:B:C/D:E:F' where manipulated images have ratios of their own."""
    parts = text.split("/")
    if len(parts) > 2 or not all(
        re.fullmatch(r"\d+(\.\d+)?(:\d+(\.\d+)?){2}", p) for p in parts
    ):
        raise InputError(
            f"--split={text}: give train:val:test such as 8:1:1 (authentic/manipulated "
            "such as 6:2:2/5:2:3), study or published."
        )
    ratios = tuple(tuple(map(float, part.split(":"))) for part in parts)
    if not all(sum(part) > 0 for part in ratios):
        raise InputError(f"--split={text}: all three are 0.")
    return ratios[0], ratios[-1]


def groups_of(items: Sequence[Item]) -> list[str]:
    """The group of each item, "" where nothing is known of its origin."""
    return origins.connected(item.parents for item in items)


def deal(
    items: Sequence[Item], groups: Sequence[str], ratios: Ratios, seed: int
) -> list[str]:
    """A split for each item; no group is in two.

    Groups are taken in seeded order, large ones first; each goes to the split with the
    largest share still to fill, relative to its target for both classes. So all splits
    fill at the same rate with groups of similar composition. No split with a target
    stays empty while another holds several groups.
    """
    members = defaultdict(list)
    for index in sorted(range(len(items)), key=lambda i: items[i].image):
        members[groups[index] or f"\0{items[index].image}"].append(index)
    names = sorted(members)
    np.random.default_rng(seed).shuffle(names)
    names.sort(key=lambda name: -len(members[name]))  # stable

    def count(indices) -> np.ndarray:  # authentic, manipulated, both
        manipulated = sum(items[index].label for index in indices)
        return np.array([len(indices) - manipulated, manipulated, len(indices)])

    totals = count(range(len(items)))
    shares = np.array([np.array(part) / sum(part) for part in ratios])
    targets = totals[:2, None] * shares  # label, split
    targets = np.concatenate([targets, targets.sum(axis=0, keepdims=True)])
    need, targets = targets.copy(), np.maximum(targets, 1e-9)
    totals = np.maximum(totals, 1)
    dealt = {}
    for name in names:
        counts = count(members[name])
        # The third row keeps the remainders of both classes out of the same split.
        empty = (counts / totals) @ ((need - counts[:, None]) / targets)
        dealt[name] = int(np.argmax(empty))
        need[:, dealt[name]] -= counts
    _fill_empty(dealt, names, wanted=np.flatnonzero(targets[2] > 1e-6))
    splits = [""] * len(items)
    for name, indices in members.items():
        for index in indices:
            splits[index] = SPLITS[dealt[name]]
    return splits


def _fill_empty(dealt: dict[str, int], names: list[str], wanted: np.ndarray):
    for split in wanted:
        held = Counter(dealt.values())
        if not held[split] and held and max(held.values()) > 1:
            richest = held.most_common(1)[0][0]
            smallest = [name for name in names if dealt[name] == richest][-1]
            dealt[smallest] = int(split)


def keep_or_deal(
    items: Sequence[Item], groups: Sequence[str], ratios: Ratios, seed: int
) -> list[str]:
    """Splits as the data set gives them; what it gives none goes with its group.

    Where that has none either it is dealt, and so are images published to train and
    validate on, between these two.
    """
    splits = [item.split for item in items]
    of_group = defaultdict(Counter)
    for split, group in zip(splits, groups, strict=True):
        if group and split:
            of_group[group][split] += 1
    for index, group in enumerate(groups):
        if not splits[index] and of_group[group]:
            splits[index] = of_group[group].most_common(1)[0][0]
    train_val = tuple((part[0], part[1], 0) for part in ratios)
    for given, shares in (("", ratios), (TRAIN_VAL, train_val)):
        chosen = [index for index, split in enumerate(splits) if split == given]
        if not chosen:
            continue
        some = [items[index] for index in chosen], [groups[index] for index in chosen]
        for index, split in zip(chosen, deal(*some, shares, seed), strict=True):
            splits[index] = split
    return splits


def by_published_lists(
    items: Sequence[Item], folder: Path
) -> tuple[list[tuple[int, str]], list[Refused]]:
    """(index of item, split) for each line of the lists, matched by file name.

    As published: an image that several lists name is in several splits. Lists are the
    .txt, .csv and .tsv files of `folder` with train, val or test in their names.
    """
    if not folder.is_dir():
        raise InputError(f"--lists={folder}: no such folder.")
    lists = {
        path: split_in_name(path.stem)
        for path in sorted(folder.iterdir())
        if path.suffix.lower() in (".txt", ".csv", ".tsv")
    }
    lists = {path: split for path, split in lists.items() if split}
    if not lists:
        raise InputError(
            f"--lists={folder}: no list with train, val or test in its name."
        )
    by_name = defaultdict(list)
    for index, item in enumerate(items):
        by_name[Path(item.image).stem.lower()].append(index)
    rows, refused, seen = [], [], set()
    for path, split in lists.items():
        for entry in read_list(path)[0]:
            image = Path(entry.image)
            found = by_name[image.stem.lower()]
            if len(found) > 1:  # such as n.tif of several folders
                folder_of = lambda i: Path(items[i].image).parent.name.lower()
                found = [i for i in found if folder_of(i) == image.parent.name.lower()]
            if len(found) == 1 and (found[0], split) not in seen:
                seen.add((found[0], split))
                rows.append((found[0], split))
    listed = {index for index, _ in rows}
    refused = [
        Refused(item.image, "not published: no list names it")
        for index, item in enumerate(items)
        if index not in listed
    ]
    return rows, refused

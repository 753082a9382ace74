"""Shared by all layouts: images found, files rejected, matching of masks."""

import dataclasses
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from sdfl_jax.data.search import files_below
from sdfl_jax.data.workers import Workers
from sdfl_jax.errors import InputError

TRAIN_VAL = "train+val"  # published as training images, some of which shall validate

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Item:
    """An image that a layout found.

    `convert` names what turns its mask white on black (see `masks.CONVERSIONS`).
    `parents` are the photographs or videos it stems from, by any unique name; images
    that share one, even by way of others, stay in one split. `split` is where the data
    set itself puts the image, "" if nowhere.
    """

    image: str
    label: int
    mask: str | None = None
    edge: str | None = None
    convert: str = ""
    source: str = ""
    kind: str = ""
    parents: tuple[str, ...] = ()
    split: str = ""


@dataclasses.dataclass(frozen=True)
class Refused:
    """A file or folder that is not used; the reason's class ends at a colon."""

    path: str
    reason: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """Settings of a layout beside the folder of the data set."""

    out: Path
    seed: int = 0
    workers: Workers = 0
    progress: bool = True
    splits: Path | None = None
    frames: int = 8
    compression: str = ""
    replace: Sequence[str] = ()


Found = tuple[list[Item], list[Refused]]


def open_root(root: Path, *names: str) -> Path:
    """The folder of the data set; with `names`, the one that has any of them in it.

    Archives wrap their content: a folder that holds a single folder is passed by.
    """
    if not root.is_dir():
        raise InputError(f"--root={root}: no such folder.")
    while names and child(root, *names) is None:
        folders = [p for p in root.iterdir() if p.is_dir() and p.name[0] not in "._"]
        if len(folders) != 1:
            break
        root = folders[0]
    return root


def image_files(folder: Path, skip: Path | None = None) -> list[Path]:
    """All image files below `folder`, sorted; nothing below `skip`."""
    return files_below(folder, skip=[] if skip is None else [skip])


def child(folder: Path, *names: str) -> Path | None:
    """The first subfolder with one of `names` in any case; None if there is none."""
    found = {p.name.lower(): p for p in folder.iterdir() if p.is_dir()}
    return next((found[n.lower()] for n in names if n.lower() in found), None)


def missing_folder(path: Path) -> Refused:
    return Refused(str(path), "folder missing: the layout expects it")


def plain_stem(path: Path) -> str:
    """The name without its ending and without what marks a mask, in lower case."""
    return re.sub(r"[_-]?(gt|mask|forged|edgemask)$", "", path.stem.lower())


def match_masks(
    images: Iterable[Path],
    masks: Iterable[Path],
    image_key=lambda path: path.stem.lower(),
    mask_key=plain_stem,
) -> tuple[dict[Path, Path], list[Refused]]:
    """Masks by image, matched by name alone, and what is left over on both sides."""
    by_key: dict[str, list[Path]] = {}
    for mask in masks:
        by_key.setdefault(mask_key(mask), []).append(mask)
    pairs, refused, used = {}, [], set()
    for image in images:
        key = image_key(image)
        found = by_key.get(key, [])
        used.add(key)
        if len(found) == 1:
            pairs[image] = found[0]
        elif not found:
            refused.append(Refused(str(image), "no mask: none of its name"))
        else:
            names = ", ".join(sorted(str(mask) for mask in found))
            refused.append(Refused(str(image), f"several masks: {names}"))
    for key, found in by_key.items():
        if key not in used:
            reason = "mask without image: no image of its name"
            refused += [Refused(str(mask), reason) for mask in found]
    return pairs, refused


def split_of(path: Path, root: Path) -> str:
    """The split that a folder between `root` and the file names; "" if none does."""
    for part in path.relative_to(root).parts[:-1]:
        if part.lower() in _SPLIT_WORDS:
            return _SPLIT_WORDS[part.lower()]
    return ""


def split_in_name(name: str) -> str:
    """The split that a word in a file name gives; "" if none or several do."""
    words = re.split(r"[^a-z]+", name.lower())
    found = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    return found.pop() if len(found) == 1 else ""

"""A folder of photographs: usable files, their scenes and their split."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sdfl_jax.data.images import read_image, read_labels
from sdfl_jax.data.lists import SPLITS
from sdfl_jax.data.search import SUFFIXES, files_below
from sdfl_jax.data.workers import Workers, each
from sdfl_jax.errors import InputError

SHARES = (8, 1, 1)  # of train, val and test

# A label map or a drawing repeats its neighbour in 98 % of its pixels and more; no
# photograph among a thousand did in over 60 %.
_FLAT = 0.8


@dataclass(frozen=True)
class Photograph:
    """One usable file; `group` names its scene, which stays in one split."""

    path: str
    name: str  # relative to the folder, forward slashes
    group: str
    grey: bool
    height: int
    width: int
    digest: str
    segments: str | None = None  # its label map, see `with_segments`


def find_photographs(
    folder: str | Path, *, size: int, workers: Workers = 0, progress: bool = True
) -> tuple[list[Photograph], list[tuple[str, str]]]:
    """The photographs below `folder`, and (name, reason) of each file left out.

    Left out are unreadable files, those with a side below `size`, label maps, drawings
    and other images of flat areas, and, where a top-level folder is named as a split,
    everything outside of such folders. Files whose names agree before a double
    underscore (`street__left.png`, `street__right.png`), in the same folder, are one
    scene; a second file with the same bytes is left out.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"No folder of photographs at {folder}.")
    paths = files_below(folder)
    if not paths:
        raise InputError(f"{folder} holds no photographs ({', '.join(SUFFIXES)}).")
    in_splits = [p for p in paths if _top_folder(p, folder) in SPLITS]
    outside = sorted(set(paths) - set(in_splits)) if in_splits else []
    left_out = [
        (p.relative_to(folder).as_posix(), "outside of train, val and test")
        for p in outside
    ]
    paths = in_splits or paths

    with tqdm(
        total=len(paths),
        desc="looking at photographs",
        unit="file",
        disable=not progress,
    ) as bar:
        inspected = list(
            each(
                partial(_inspect, folder=folder, size=size),
                paths,
                lost=partial(_unreadable, folder=folder),
                workers=workers,
                chunk=16,
                bar=bar,
            )
        )
    inspected = _drop_copies(inspected)
    photographs = [found for found in inspected if isinstance(found, Photograph)]
    left_out += [found for found in inspected if not isinstance(found, Photograph)]
    return photographs, left_out


def split_photographs(
    photographs: Sequence[Photograph], rng: np.random.Generator
) -> dict[str, list[Photograph]]:
    """Train, val and test photographs; no group is in two splits.

    Top-level folders named train, val and test give the split where they exist;
    without them groups are split 8:1:1.
    """
    sides = {
        name: [photo for photo in photographs if photo.name.startswith(f"{name}/")]
        for name in SPLITS
    }
    if any(sides.values()):
        return sides

    groups = sorted({photo.group for photo in photographs})
    rng.shuffle(groups)
    val, test = (max(1, round(len(groups) * s / sum(SHARES))) for s in SHARES[1:])
    side = {group: "val" for group in groups[:val]}
    side |= {group: "test" for group in groups[val : val + test]}
    return {
        name: [p for p in photographs if side.get(p.group, "train") == name]
        for name in SPLITS
    }


def with_segments(
    photographs: Sequence[Photograph], folder: str | Path
) -> tuple[list[Photograph], list[tuple[str, str]]]:
    """The photographs with their label maps, and (name, reason) of maps that do not
    fit.

    The map of street/a.jpg is street/a.png or a.png below `folder`. `InputError` where
    no photograph has one.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"--segments={folder}: no such folder.")
    found, left_out = [], []
    for photo in photographs:
        name = Path(photo.name).with_suffix(".png")
        places = [p for p in (folder / name, folder / name.name) if p.is_file()]
        if places:
            try:
                size = read_labels(places[0]).shape
            except InputError as error:
                reason = str(error).removeprefix(f"{places[0]}: ")
                left_out.append(
                    (places[0].name, f"segment map is unreadable: {reason}")
                )
                places = []
            else:
                if size != (photo.height, photo.width):
                    reason = f"segment map of another size than {photo.name}"
                    left_out.append((places[0].name, reason))
                    places = []
        found.append(replace(photo, segments=str(places[0])) if places else photo)
    if not any(photo.segments for photo in found):
        raise InputError(
            f"--segments={folder} holds no PNG named and sized as a photograph; the "
            "map of photo.jpg is photo.png."
        )
    return found, left_out


def _top_folder(path: Path, folder: Path) -> str:
    parts = path.relative_to(folder).parts
    return parts[0] if len(parts) > 1 else ""


def _inspect(path: Path, folder: Path, size: int) -> Photograph | tuple[str, str]:
    name = path.relative_to(folder).as_posix()
    try:
        pixels = read_image(path)
        digest = hashlib.sha1(path.read_bytes()).hexdigest()
    except (InputError, OSError) as error:
        reason = str(error).removeprefix(f"{path}: ")
        return _unreadable(path, reason, folder)
    height, width = pixels.shape[:2]
    if min(height, width) < max(size, 16):
        return name, f"smaller than {max(size, 16)} pixels: {width}x{height}"
    rows = pixels[:: max(1, height // 64)].astype(np.int16)
    if (rows[:, 1:] == rows[:, :-1]).all(-1).mean() > _FLAT:
        return name, "flat areas: a label map or a drawing, no photograph"
    grey = bool((np.ptp(rows, axis=-1) <= 8).all())
    scene = path.stem.split("__")[0]
    group = path.with_name(scene).relative_to(folder).as_posix()
    return Photograph(str(path), name, group, grey, height, width, digest)


def _unreadable(path: Path, reason: str, folder: Path) -> tuple[str, str]:
    return path.relative_to(folder).as_posix(), f"unreadable: {reason}"


def _drop_copies(inspected: list) -> list:
    """Replaces files whose bytes were seen before: they add nothing and could leak."""
    first: dict[str, str] = {}
    kept = []
    for found in inspected:
        if isinstance(found, Photograph):
            original = first.setdefault(found.digest, found.name)
            if original != found.name:
                found = (found.name, f"the same bytes as {original}")
        kept.append(found)
    return kept

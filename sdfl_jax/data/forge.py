r"""Forgeries with exact masks out of any folder of photographs.

python -m sdfl_jax.data.forge --photos=DIR --out=DIR --count=N --seed=S
    [--count_val=N/8] [--count_test=N/8] [--size=128] [--authentic=0.3]
    [--kinds=splice,copymove,inpainting] [--workers=CORES] [--strict]

--count images are made for training, --count_val and --count_test for the others.
PHOTOS/train, PHOTOS/val and PHOTOS/test decide the split where they exist; otherwise
the photographs are dealt 8:1:1. Authentic and manipulated images take the same way: a
piece at native resolution with a past (resizing, JPEG), then, for a manipulated one,
the manipulation, then one save (JPEG 75 to 99 for 70 %, PNG for the others).

OUT gets images/SPLIT/, masks/SPLIT/ and paths_{train,val,test}.csv (image, mask, edge,
label, source, group, kind; paths relative to OUT; no mask for authentic images), and
forgeries.csv with all that was drawn for each image. The same seed gives the same bytes
with any number of workers. Work happens in OUT.partial, which becomes OUT when it is
whole; an interrupted run goes on from there.
"""

import argparse
import csv
import difflib
import json
import multiprocessing
import os
import shutil
from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from sdfl_jax.data import album, manipulate
from sdfl_jax.data.album import SPLITS, Photograph
from sdfl_jax.data.manipulate import KINDS, NEED_DONOR
from sdfl_jax.data.regions import random_region
from sdfl_jax.errors import InputError, one_line

VERSION = 1  # counts up when the same settings give other bytes

JPEG_SHARE, JPEG_LOW, JPEG_HIGH = 0.7, 75, 99

# Mean absolute change (of 255) that a manipulation must make inside its mask: a sky
# pasted onto itself is no manipulation.
MIN_CHANGE = 5.0
# Standard deviation (of 255) of a host's luminance: nothing can be found, or hidden, in
# an empty piece. It applies to authentic images alike.
MIN_TEXTURE = 6.0

LIST_COLUMNS = ("image", "mask", "edge", "label", "source", "group", "kind")
RECORD_COLUMNS = (
    *("image", "split", "kind", "label", "area", "host", "donor"),
    *("region", "parameters", "host_history", "donor_history", "save"),
)


@dataclass(frozen=True)
class Task:
    """One image to make."""

    split: str
    index: int
    kind: str  # of KINDS, or authentic

    @property
    def name(self) -> str:
        return f"{self.split}/{self.index:06d}"


class Forger:
    """Makes image after image; each depends on the seed and its task alone."""

    def __init__(self, sides: dict[str, list[Photograph]], size: int, seed: int):
        self.size, self.seed = size, seed
        self.groups = {split: _by_group(photos) for split, photos in sides.items()}
        self._cache = _Cache()

    def make(self, task: Task) -> tuple[np.ndarray, np.ndarray | None, bytes, dict]:
        """Image (uint8 H W 3), mask (uint8 H W, None: authentic), file bytes, record.

        The host and the save have their own streams of chance, so what is drawn there
        cannot depend on whether the image is manipulated.
        """
        key = (SPLITS.index(task.split), task.index)
        streams = np.random.SeedSequence(self.seed, spawn_key=key).spawn(3)
        host_rng, forge_rng, save_rng = map(np.random.default_rng, streams)
        for _ in range(20):
            photo, host, past = self._draw_host(task.split, host_rng)
            record = {"host": photo.name, "host_history": past}
            if task.kind == "authentic":
                image, region = host, None
                break
            made = self._manipulate(task, photo, host, forge_rng)
            if made:
                image, region, details = made
                record |= details
                break
        else:
            raise InputError(
                f"No {task.kind} changes the {task.split} photographs visibly; they "
                "are too flat: give others, or other --kinds."
            )
        suffix, encoded, record["save"] = _save(image, save_rng)
        record |= {
            "image": f"images/{task.name}{suffix}",
            "split": task.split,
            "kind": task.kind,
            "label": int(region is not None),
            "group": photo.group,
            "mask": None if region is None else f"masks/{task.name}.png",
        }
        return image, region, encoded, record

    def _draw_host(self, split: str, rng) -> tuple[Photograph, np.ndarray, dict]:
        groups = self.groups[split]
        for _ in range(100):
            photo = _choose(groups, sorted(groups), rng)
            shape = (self.size, self.size) if self.size else None
            host, past = manipulate.with_history(self._cache.read(photo), shape, rng)
            if cv2.cvtColor(host, cv2.COLOR_RGB2GRAY).std() >= MIN_TEXTURE:
                return photo, host, past
        raise InputError(
            f"The {split} photographs are empty areas almost everywhere; give others."
        )

    def _manipulate(self, task: Task, photo: Photograph, host, rng):
        """Image, region and record, or None where this host will not do."""
        for _ in range(10):
            donors: list[tuple[Photograph, dict]] = []

            def donor(height: int, width: int, donors=donors) -> np.ndarray:
                other = self._choose_donor(task.split, photo, rng)
                pixels = self._cache.read(other)
                piece, past = manipulate.with_history(pixels, (height, width), rng)
                donors.append((other, past))
                return piece

            region, drawn = random_region(*host.shape[:2], rng)
            try:
                image, parameters = KINDS[task.kind](host, region, donor, rng)
            except manipulate.Unsuitable:
                continue
            change = cv2.absdiff(image, host)[region > 0].mean()
            if change < MIN_CHANGE:
                continue
            record = {"region": drawn, "parameters": parameters, "area": drawn["area"]}
            if donors:
                record["donor"] = "|".join(other.name for other, _ in donors)
                record["donor_history"] = donors[0][1]
            return image, region, record
        return None

    def _choose_donor(self, split: str, host: Photograph, rng) -> Photograph:
        """A photograph of another group; grey with grey and colour with colour where
        possible, because a grey patch in a colour picture teaches nothing else."""
        groups = self.groups[split]
        others = [name for name in sorted(groups) if name != host.group]
        alike = [name for name in others if groups[name][0].grey == host.grey]
        return _choose(groups, alike or others, rng)


class _Cache:
    """The photographs read last, up to 256 MB of pixels."""

    def __init__(self, limit: int = 256 << 20):
        self._limit, self._bytes = limit, 0
        self._kept: OrderedDict[str, np.ndarray] = OrderedDict()

    def read(self, photo: Photograph) -> np.ndarray:
        if photo.path in self._kept:
            self._kept.move_to_end(photo.path)
            return self._kept[photo.path]
        pixels = album.read_photograph(photo.path)
        self._kept[photo.path] = pixels
        self._bytes += pixels.nbytes
        while self._bytes > self._limit and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return pixels


def plan(counts: dict[str, int], authentic: float, kinds: Sequence[str], seed: int):
    """The tasks of all splits: exact shares of each kind, in seeded order."""
    tasks = []
    for side, (split, count) in enumerate(counts.items()):
        untouched = min(count, round(count * authentic))
        names = ["authentic"] * untouched
        names += [kinds[i % len(kinds)] for i in range(count - untouched)]
        sequence = np.random.SeedSequence(seed, spawn_key=(side,))
        np.random.default_rng(sequence).shuffle(names)
        tasks += [Task(split, index, kind) for index, kind in enumerate(names)]
    return tasks


def forge(
    photos: str | Path,
    out: str | Path,
    *,
    count: int,
    count_val: int | None = None,
    count_test: int | None = None,
    seed: int = 0,
    size: int = 128,
    authentic: float = 0.3,
    kinds: Sequence[str] = tuple(KINDS),
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
) -> dict[str, Counter]:
    """Makes the forgeries (see the module) and returns how many of each kind by split.

    Raises InputError for settings or photographs that will not do.
    """
    counts = {"train": count, "val": count_val, "test": count_test}
    counts |= {k: max(1, count // 8) for k, v in counts.items() if v is None}
    _check_settings(counts, authentic, kinds, size)
    photographs, left_out = album.open_album(photos, size=size, progress=progress)
    _tell_left_out(left_out, strict)
    sides = album.split_album(photographs, np.random.default_rng(seed))
    _check_sides(sides, counts, kinds, photos, size)
    settings = {
        "version": VERSION,
        "counts": counts,
        "seed": seed,
        "size": size,
        "authentic": authentic,
        "kinds": list(kinds),
        "photographs": {
            split: {photo.name: photo.digest for photo in photographs}
            for split, photographs in sides.items()
        },
    }

    out = Path(out).absolute()
    tasks = plan(counts, authentic, kinds, seed)
    made = {split: Counter() for split in counts}
    for task in tasks:
        made[task.split][task.kind] += 1
    if _holds(out, settings):
        print(f"{out} already holds these forgeries.")
        return made

    partial = out.with_name(out.name + ".partial")
    records = _resume(partial, settings)
    todo = [task for task in tasks if task.name not in records]
    forger = Forger({split: sides[split] for split in counts}, size, seed)
    with open(partial / "done.jsonl", "a") as done:
        for task, record in _run(forger, todo, partial, workers, progress):
            records[task.name] = record
            done.write(json.dumps([task.name, record]) + "\n")
            done.flush()
    ordered = [records[task.name] for task in tasks]
    _write_lists(partial, ordered)
    (partial / "done.jsonl").unlink()
    os.rename(partial, out)  # replaces an empty folder
    return made


def _run(forger, tasks, folder, workers, progress) -> Iterator[tuple[Task, dict]]:
    workers = len(os.sched_getaffinity(0)) if workers is None else workers
    workers = min(workers, max(1, len(tasks) // 64))  # a worker takes 1 s to start
    bar = dict(total=len(tasks), desc="forging", unit="image", disable=not progress)
    if workers <= 1:
        results = (_make_and_write(task, forger, folder) for task in tasks)
        yield from zip(tasks, tqdm(results, **bar), strict=True)
        return
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(forger, folder),
    ) as pool:
        results = pool.map(_make_in_worker, tasks, chunksize=8)
        yield from zip(tasks, tqdm(results, **bar), strict=True)


def _start_worker(forger: Forger, folder: Path) -> None:
    global _worker
    cv2.setNumThreads(1)  # the processes share the cores already
    _worker = (forger, folder)


def _make_in_worker(task: Task) -> dict:
    return _make_and_write(task, *_worker)


def _make_and_write(task: Task, forger: Forger, folder: Path) -> dict:
    _, region, encoded, record = forger.make(task)
    (folder / record["image"]).write_bytes(encoded)
    if region is not None:
        mask = cv2.imencode(".png", region)[1].tobytes()
        (folder / record["mask"]).write_bytes(mask)
    return record


def _save(image: np.ndarray, rng) -> tuple[str, bytes, dict]:
    if rng.random() < JPEG_SHARE:
        how = manipulate.draw_compression(rng, JPEG_LOW, JPEG_HIGH)
        return ".jpg", manipulate.encode_jpeg(image, **how), {"format": "jpeg", **how}
    encoded = cv2.imencode(".png", image[..., ::-1])[1].tobytes()
    return ".png", encoded, {"format": "png"}


def _by_group(photos: Sequence[Photograph]) -> dict[str, list[Photograph]]:
    groups: dict[str, list[Photograph]] = {}
    for photo in photos:
        groups.setdefault(photo.group, []).append(photo)
    return groups


def _choose(groups: dict, names: list[str], rng) -> Photograph:
    """A photograph of one of `names`; each scene is as likely as any other."""
    scene = groups[names[rng.integers(len(names))]]
    return scene[rng.integers(len(scene))]


def _check_settings(counts, authentic, kinds, size) -> None:
    for flag, value in zip(
        ("count", "count_val", "count_test"), counts.values(), strict=True
    ):
        if value < (flag == "count"):
            raise InputError(
                f"--{flag}={value}: give a number from {int(flag == 'count')}."
            )
    if not 0 <= authentic <= 1:
        raise InputError(f"--authentic={authentic}: give a share from 0 to 1.")
    if size != 0 and not 16 <= size <= 16384:
        raise InputError(
            f"--size={size}: give a side of 16 pixels or more, or 0 for whole photos."
        )
    if not kinds:
        raise InputError(f"--kinds is empty; there are {', '.join(KINDS)}.")
    for kind in kinds:
        if kind not in KINDS:
            near = difflib.get_close_matches(kind, KINDS, 1, cutoff=0.0)[0]
            raise InputError(
                f"No kind {kind!r}, the nearest is {near!r}; there are "
                f"{', '.join(KINDS)}."
            )


def _check_sides(sides, counts, kinds, photos, size) -> None:
    needed = 2 if NEED_DONOR & set(kinds) else 1
    for split, count in counts.items():
        scenes = len({photo.group for photo in sides[split]})
        if count and scenes < needed:
            flag = "--count" if split == "train" else f"--count_{split}"
            hint = "" if split == "train" else f", or {flag}=0"
            raise InputError(
                f"{photos} gives {split} {scenes} scene(s) of at least {size}x{size} "
                f"and {'/'.join(kinds)} needs {needed}: give more photographs{hint}."
            )


def _tell_left_out(left_out: list[tuple[str, str]], strict: bool) -> None:
    if left_out and strict:
        name, reason = left_out[0]
        raise InputError(
            f"{len(left_out)} file(s) cannot serve, the first is {name} ({reason})."
        )
    for name, reason in left_out[:5]:
        print(f"Left out: {name}: {reason}.")
    if len(left_out) > 5:
        print(f"Left out: {len(left_out) - 5} more.")


def _holds(out: Path, settings: dict) -> bool:
    """True if `out` was made with these settings; refuses any other content."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    if not out.is_dir() or not (out / "forge.json").is_file():
        raise InputError(f"--out={out} holds something else; give a new folder.")
    if json.loads((out / "forge.json").read_text()) != settings:
        raise InputError(
            f"--out={out} holds forgeries of other settings or photographs (forge.json "
            "there says which); give a new folder."
        )
    return True


def _resume(partial: Path, settings: dict) -> dict[str, dict]:
    """Prepares `partial` and returns the records that an interrupted run left."""
    try:
        if json.loads((partial / "forge.json").read_text()) == settings:
            lines = (partial / "done.jsonl").read_text().splitlines(keepends=True)
            # A kill can cut the last line short.
            whole = [line for line in lines if line.endswith("\n")]
            (partial / "done.jsonl").write_text("".join(whole))
            return dict(json.loads(line) for line in whole)
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        if partial.exists() and not (partial / "done.jsonl").exists():
            raise InputError(f"{partial} is in the way; move it.") from None
    if partial.exists():
        shutil.rmtree(partial)
    for kind in ("images", "masks"):
        for split in settings["counts"]:
            (partial / kind / split).mkdir(parents=True)
    (partial / "done.jsonl").touch()
    (partial / "forge.json").write_text(json.dumps(settings, indent=1))
    return {}


def _write_lists(folder: Path, records: list[dict]) -> None:
    for split in SPLITS:
        rows = [
            (r["image"], r["mask"], None, r["label"], "forge", r["group"], r["kind"])
            for r in records
            if r["split"] == split
        ]
        if rows:
            _write_csv(folder / f"paths_{split}.csv", LIST_COLUMNS, rows)
    rows = [[_cell(r.get(column)) for column in RECORD_COLUMNS] for r in records]
    _write_csv(folder / "forgeries.csv", RECORD_COLUMNS, rows)


def _cell(value):
    return json.dumps(value) if isinstance(value, dict) else value


def _write_csv(path: Path, columns, rows) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["None" if v is None else v for v in row] for row in rows])


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.data.forge", description=__doc__.split("\n\n")[0][2:]
    )
    parser.add_argument("--photos", required=True, help="folder of photographs")
    parser.add_argument("--out", required=True, help="new folder")
    parser.add_argument("--count", type=int, required=True, help="training images")
    parser.add_argument("--count_val", type=int, help="default: count / 8")
    parser.add_argument("--count_test", type=int, help="default: count / 8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--size", type=int, default=128, help="0: whole photographs")
    parser.add_argument("--authentic", type=float, default=0.3, help="their share")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--workers", type=int, help="default: all cores")
    parser.add_argument(
        "--strict", action="store_true", help="stop at a file that cannot serve"
    )
    settings = vars(parser.parse_args(argv))
    settings["kinds"] = [kind for kind in settings["kinds"].split(",") if kind]
    made = forge(**settings)
    for split, kinds in made.items():
        each = ", ".join(f"{number} {kind}" for kind, number in sorted(kinds.items()))
        print(f"{split}: {sum(kinds.values())} images ({each or 'none'})")


if __name__ == "__main__":
    main()

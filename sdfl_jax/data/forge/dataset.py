"""A data set of forgeries: its plan, files and lists; resumes after a kill."""

import difflib
import functools
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sdfl_jax.data.forge import photo_folder
from sdfl_jax.data.forge.forger import Forger, Task
from sdfl_jax.data.forge.manipulate import KINDS
from sdfl_jax.data.forge.regions import AREAS
from sdfl_jax.data.images import encode_png
from sdfl_jax.data.lists import SPLITS
from sdfl_jax.data.workers import Workers, WorkersDie, each
from sdfl_jax.errors import InputError
from sdfl_jax.files import locked_output, write_csv, write_json

VERSION = 2  # counts up when the same settings give other bytes


LIST_COLUMNS = ("image", "mask", "edge", "label", "source", "group", "kind")


RECORD_COLUMNS = (
    *("image", "split", "kind", "label", "area", "host", "donor"),
    *("region", "parameters", "host_history", "donor_history", "save"),
)


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
    areas: tuple[float, float] = AREAS,
    segments: str | Path | None = None,
    workers: Workers | None = None,
    strict: bool = False,
    progress: bool = True,
) -> dict[str, Counter]:
    """Makes a data set of forgeries; returns the number of images by split and kind.

    The command's help describes settings and output. Raises `InputError` for settings
    or photographs that cannot be used, for an `out` with other content or in use by
    another process, and for an interrupted run with other settings.
    """
    counts = {"train": count, "val": count_val, "test": count_test}
    counts |= {k: max(1, count // 8) for k, v in counts.items() if v is None}
    _check_settings(counts, authentic, kinds, areas, size)
    workers = os.cpu_count() or 1 if workers is None else workers
    photographs, left_out = photo_folder.find_photographs(
        photos, size=size, workers=workers, progress=progress
    )
    if segments is not None:
        photographs, no_maps = photo_folder.with_segments(photographs, segments)
        left_out += no_maps
    sides = photo_folder.split_photographs(photographs, np.random.default_rng(seed))
    _tell_left_out(left_out, strict)
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
    if tuple(areas) != AREAS:
        settings["areas"] = list(areas)
    if segments is not None:
        settings["segments"] = {
            photo.name: hashlib.sha1(Path(photo.segments).read_bytes()).hexdigest()
            for photo in photographs
            if photo.segments
        }

    out = Path(out).absolute()
    tasks = plan(counts, authentic, kinds, seed)
    made = {split: Counter() for split in counts}
    for task in tasks:
        made[task.split][task.kind] += 1
    with locked_output(out):
        if _holds(out, settings):
            print(f"{out} already holds these forgeries.")
        else:
            kept = {split: sides[split] for split in counts}
            forger = Forger(kept, size, seed, areas)
            _fill(out, forger, tasks, settings, left_out, workers, progress)
    return made


def _fill(out: Path, forger, tasks, settings, left_out, workers, progress) -> None:
    """Makes the missing images in OUT.partial, then renames it to OUT."""
    partial = out.with_name(out.name + ".partial")
    records = _resume(partial, settings)
    todo = [task for task in tasks if task.name not in records]
    with open(partial / "done.jsonl", "a") as done:
        try:
            for task, record in _run(forger, todo, partial, workers, progress):
                records[task.name] = record
                done.write(json.dumps([task.name, record]) + "\n")
                done.flush()
        except WorkersDie as error:
            raise InputError(f"{error} The same command goes on from there.") from None
    ordered = [records[task.name] for task in tasks]
    _write_lists(partial, ordered)
    columns = ("name", "reason")
    rows = [dict(zip(columns, file, strict=True)) for file in left_out]
    write_csv(partial / "left_out.csv", rows, columns)
    os.rename(partial, out)  # replaces an empty folder
    (out / "done.jsonl").unlink()


def _run(forger, tasks, folder, workers, progress) -> Iterator[tuple[Task, dict]]:
    with tqdm(
        total=len(tasks), desc="forging", unit="image", disable=not progress
    ) as bar:
        make = functools.partial(_make_and_write, forger=forger, folder=folder)
        records = each(make, tasks, lost=_lost, workers=workers, chunk=8, bar=bar)
        yield from zip(tasks, records, strict=True)


def _lost(task: Task, reason: str):
    raise InputError(f"{task.name} ({task.kind}) cannot be made: {reason}.")


def _make_and_write(task: Task, forger: Forger, folder: Path) -> dict:
    _, region, encoded, record = forger.make(task)
    (folder / record["image"]).write_bytes(encoded)
    if region is not None:
        (folder / record["mask"]).write_bytes(encode_png(region, level=3))
    return record


def _check_settings(counts, authentic, kinds, areas, size) -> None:
    for flag, value in zip(
        ("count", "count_val", "count_test"), counts.values(), strict=True
    ):
        if value < (flag == "count"):
            raise InputError(
                f"--{flag}={value}: give a number from {int(flag == 'count')}."
            )
    if not 0 <= authentic <= 1:
        raise InputError(f"--authentic={authentic}: give a share from 0 to 1.")
    if not 0 < areas[0] <= areas[1] <= 1:
        low, high = areas
        raise InputError(f"--areas={low}:{high}: give two shares above 0 and up to 1.")
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
    needed = 2 if any(KINDS[kind].needs_donor for kind in kinds) else 1
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
    reasons = Counter(reason.split(":")[0] for _, reason in left_out)
    for reason, number in reasons.items():
        names = [name for name, why in left_out if why.split(":")[0] == reason]
        more = f" and {number - 3} more" if number > 3 else ""
        print(f"Left out, {reason}: {', '.join(names[:3])}{more}.")


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
    """Prepares `partial` and returns the records that an interrupted run left.

    Of a run with other settings nothing is lost: `InputError` names them.
    """
    try:
        before = json.loads((partial / "forge.json").read_text())
        lines = (partial / "done.jsonl").read_text().splitlines(keepends=True)
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        if partial.exists() and not (partial / "done.jsonl").exists():
            raise InputError(f"{partial} is in the way; move it.") from None
    else:
        keys = dict.fromkeys([*settings, *before])
        differing = [key for key in keys if before.get(key) != settings.get(key)]
        if differing:
            raise InputError(
                f"{partial} holds an interrupted run of {len(lines)} images with other "
                f"{', '.join(differing)}; go on with those settings, delete it or give "
                "another --out."
            )
        # A kill can cut the last line short.
        whole = [line for line in lines if line.endswith("\n")]
        (partial / "done.jsonl").write_text("".join(whole))
        return dict(json.loads(line) for line in whole)
    if partial.exists():  # an interrupted start, before the settings were written
        shutil.rmtree(partial)
    for kind in ("images", "masks"):
        for split in settings["counts"]:
            (partial / kind / split).mkdir(parents=True)
    (partial / "done.jsonl").touch()
    write_json(partial / "forge.json", settings)
    return {}


def _write_lists(folder: Path, records: list[dict]) -> None:
    # A word, not an empty cell, says that there is none, as in the lists of the field.
    records = [{k: "None" if v is None else v for k, v in r.items()} for r in records]
    for split in SPLITS:
        rows = [record for record in records if record["split"] == split]
        if rows:
            # Only a manipulation has a kind.
            rows = [row | {"kind": row["kind"] * row["label"]} for row in rows]
            write_csv(folder / f"paths_{split}.csv", rows, LIST_COLUMNS)
    rows = [
        {k: json.dumps(v) if isinstance(v, dict) else v for k, v in record.items()}
        for record in records
    ]
    write_csv(folder / "forgeries.csv", rows, RECORD_COLUMNS)

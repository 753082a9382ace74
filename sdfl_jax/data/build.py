"""A list of images becomes a folder of shards.

python -m sdfl_jax.data.build --paths_file=paths_train.txt --out=shards/train

Shards are written by worker processes, each beside its place and then renamed, with a
note of what it holds; a build that was killed goes on after the last finished shard and
ends in the same bytes. The same list, settings and files give the same shards, whatever
the number of workers.
"""

import argparse
import concurrent.futures
import csv
import errno
import glob
import hashlib
import io
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool

from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from sdfl_jax.data import images, records
from sdfl_jax.data.lists import Entry, Rejected, read_list
from sdfl_jax.errors import InputError, one_line

STORAGE = ("original", "resized")
COMPRESSION = {"raw": "uncompressed", "zstd": "zstd:3"}
REJECTED = "rejected.csv"
LINES_PER_SHARD = 256  # about 270 MB of 512x512 images, 10 MB of small JPEG files

WARNINGS = {
    "mask_size": "mask of another size than the image (resized to fit, nearest pixel)",
    "empty_mask": "manipulated image whose mask has no pixel of 128 or more",
    "no_mask": "manipulated image without a mask (trains and scores the label alone)",
    "duplicate": "image listed more than once (kept each time)",
    "one_class": "class without examples: balanced training needs both",
}


def build(
    paths_file: str | os.PathLike,
    out: str | os.PathLike,
    *,
    image_size: int = 512,
    storage: str = "original",
    compression: str = "raw",
    root: str | None = None,
    replace: Sequence[str] = (),
    mask_inverted: bool = False,
    workers: int = 1,
    strict: bool = False,
    lines_per_shard: int = LINES_PER_SHARD,
    progress: bool = True,
) -> dict:
    """Writes the shards of a list to the folder `out` and returns their manifest.

    Nothing is re-encoded with loss: `original` keeps the files as they are, `resized`
    holds raw pixels at `image_size`, and both keep the mask at its own size. Lines that
    cannot be used are left out and listed in `rejected.csv`; with `strict` the first of
    them is an error. `InputError` if nothing can be used, the disk is too small or
    `out` holds a build with other settings.
    """
    paths_file, out = os.fspath(paths_file), os.fspath(out)
    entries, rejected = read_list(paths_file, root=root, replace=replace)
    with open(paths_file, "rb") as file:
        digest = hashlib.sha256(file.read()).hexdigest()
    settings = {
        "list_sha256": digest,
        "image_size": image_size if storage == "resized" else 0,
        "storage": storage,
        "compression": compression,
        "root": root,
        "replace": list(replace),
        "mask_inverted": mask_inverted,
        "lines_per_shard": lines_per_shard,
        "version": records.VERSION,
    }
    manifest = _finished(out, settings)
    if manifest is not None:
        print(
            f"{out}: built already ({manifest['examples']} examples, "
            f"{manifest['rejected']} rejected); to build it anew, delete it."
        )
        return manifest

    if strict and rejected:
        raise _strict_error(rejected[0])
    if not entries:
        raise _nothing_usable(paths_file, rejected)
    _check_space(entries, out, settings)
    fresh = not os.path.exists(out)
    _make_folder(out)
    _write_json(os.path.join(out, records.UNFINISHED), settings)
    for stale in glob.glob(os.path.join(glob.escape(out), "*.tmp")):
        os.remove(stale)
    try:
        notes = _write_shards(entries, out, settings, workers, strict, progress)
        rejected += [Rejected(**row) for note in notes for row in note["rejected"]]
        if not any(note["examples"] for note in notes):
            raise _nothing_usable(paths_file, rejected)
    except BrokenProcessPool:
        raise InputError(
            f"{out}: a worker process died, perhaps for lack of memory; finished "
            "shards are kept, and the same command with fewer --workers goes on."
        ) from None
    except InputError:  # nothing that a later build could use
        _clear(out, fresh)
        raise
    return _finish(out, settings, notes, rejected, entries)


def _finished(out: str, settings: dict) -> dict | None:
    """The manifest of an equal build that is done; None if there is work to do."""
    for name in (records.MANIFEST, records.UNFINISHED):
        path = os.path.join(out, name)
        if not os.path.exists(path):
            continue
        with open(path, encoding="utf-8") as file:
            stored = json.load(file)
        done = name == records.MANIFEST
        other = stored["settings"] if done else stored
        differing = [key for key in settings if other.get(key) != settings[key]]
        if differing:
            what = ", ".join(
                f"{key} {other.get(key)!r}, now {settings[key]!r}"
                if key != "list_sha256"
                else "another list"
                for key in differing
            )
            raise InputError(
                f"{out}: holds {'a' if done else 'an unfinished'} build with other "
                f"settings ({what}); delete it or choose another --out."
            )
        if done:
            manifest = records.load_manifest(out)
            _tidy(out, manifest)
            return manifest
    return None


def _check_space(entries: list[Entry], out: str, settings: dict):
    """Prints what the shards will take and refuses if the disk has less."""
    manipulated = sum(entry.label for entry in entries)
    if settings["storage"] == "resized":
        pixels = settings["image_size"] ** 2
        need = pixels * (3 * len(entries) + manipulated)
        side = settings["image_size"]
        detail = f"{len(entries)} images of {side}x{side} raw"
        if settings["compression"] == "zstd":
            detail += " before compression"
    else:
        files = (entry.image for entry in entries)
        need = sum(os.path.getsize(path) for path in files if os.path.exists(path))
        detail = f"{len(entries)} image files as they are"
    print(f"{out}: about {_gigabytes(need)} on disk ({detail}).")
    have = sum(
        os.path.getsize(path)
        for path in glob.glob(os.path.join(glob.escape(out), "*.array_record"))
    )
    place = os.path.abspath(out)
    while not os.path.exists(place):
        place = os.path.dirname(place)
    free = shutil.disk_usage(place).free + have
    if need > free:
        raise InputError(
            f"{out}: the shards need about {_gigabytes(need)} and the disk has "
            f"{_gigabytes(free)} free."
        )


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _make_folder(out: str):
    try:
        os.makedirs(out, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{out}: a file, where a folder is to be made.") from None


def _write_shards(entries, out, settings, workers, strict, progress) -> list[dict]:
    """Writes what is missing; the notes of all shards in order."""
    size = settings["lines_per_shard"]
    parts = [entries[start : start + size] for start in range(0, len(entries), size)]
    names = [
        os.path.join(out, f"data-{index:05d}-of-{len(parts):05d}.array_record")
        for index in range(len(parts))
    ]
    todo = [
        (name, part, settings, strict)
        for name, part in zip(names, parts, strict=True)
        if not _is_written(name)
    ]
    missing = sum(len(part) for _, part, _, _ in todo)
    if missing < len(entries):
        print(f"{out}: goes on; {len(parts) - len(todo)} of {len(parts)} shards exist.")
    bar = tqdm(
        total=len(entries),
        initial=len(entries) - missing,
        unit="image",
        desc="build",
        disable=not progress,
    )
    with bar:
        if workers <= 1 or len(todo) <= 1:
            for task in todo:
                _write_shard(*task, done=bar.update)
        else:
            _write_in_processes(todo, min(workers, len(todo)), bar)
    notes = []
    for name in names:
        with open(_note_path(name), encoding="utf-8") as file:
            notes.append(json.load(file))
    return notes


def _write_in_processes(todo: list[tuple], workers: int, bar: tqdm):
    context = multiprocessing.get_context("spawn")  # safe beside any thread
    counter, stop = context.Value("q", 0), context.Event()
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(counter, stop),
    )
    start = bar.n
    try:
        waiting = {pool.submit(_write_shard, *task) for task in todo}
        while waiting:
            done, waiting = concurrent.futures.wait(
                waiting, timeout=0.5, return_when=concurrent.futures.FIRST_EXCEPTION
            )
            bar.update(start + counter.value - bar.n)
            for future in done:
                future.result()
    finally:
        stop.set()  # after an error the others need not finish their shards
        pool.shutdown(wait=True, cancel_futures=True)


# Of a worker process, shared with the main one: images done, and the word to stop.
_counter = _stop = None


class _Stopped(Exception):
    """The build has failed elsewhere or was interrupted."""


def _start_worker(counter, stop):
    global _counter, _stop
    _counter, _stop = counter, stop
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to stop
    parent = multiprocessing.parent_process().sentinel

    def follow():  # a killed build must not leave workers that go on writing
        multiprocessing.connection.wait([parent])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _count(images_done: int):
    if _counter is not None:
        with _counter.get_lock():
            _counter.value += images_done
        if _stop.is_set():
            raise _Stopped


def _write_shard(path, entries, settings, strict, done=_count):
    """Writes one shard and, last, the note of what it holds."""
    beside = f"{path}.{os.getpid()}.tmp"
    try:
        note = _fill(beside, entries, settings, strict, done)
        note["file"] = os.path.basename(path)
        note["examples"] = len(note["labels"])
        note["bytes"] = os.path.getsize(beside)
        note["sha256"] = _sha256(beside)
        os.replace(beside, path)
    except RuntimeError as error:  # how ArrayRecord tells what the disk refused
        raise _disk_error(error, path) from None
    finally:
        if os.path.exists(beside):
            os.remove(beside)
    _write_json(_note_path(path), note)


def _fill(path, entries, settings, strict, done) -> dict:
    """Writes the records of one shard; what it holds."""
    note = {"labels": "", "sources": [], "kinds": [], "rejected": [], "warnings": []}
    compression = COMPRESSION[settings["compression"]]
    writer = ArrayRecordWriter(path, f"group_size:1,{compression}")
    for entry in entries:
        done(1)
        try:
            record, warnings = _record(entry, settings)
        except InputError as error:
            reason = str(error).removeprefix(f"{entry.image}: ").removesuffix(".")
            row = Rejected(line=entry.line, path=entry.image, reason=reason)
            if strict:
                raise _strict_error(row) from None
            note["rejected"].append(vars(row))
            continue
        writer.write(record)
        note["labels"] += str(entry.label)
        note["sources"].append(entry.source)
        note["kinds"].append(entry.kind)
        note["warnings"] += [(warning, entry.line) for warning in warnings]
    writer.close()
    return note


def _record(entry: Entry, settings: dict) -> tuple[bytes, list[str]]:
    """An entry's record and what is odd about it; `InputError` if it cannot be used."""
    warnings = []
    data = images.read_bytes(entry.image)
    image = images.read_image(data)
    height, width = image.shape[:2]

    mask = None
    if entry.mask is not None:
        mask = images.read_mask(entry.mask, settings["mask_inverted"])
        if mask.shape[:2] != (height, width):
            warnings.append("mask_size")
        if entry.label == 0:
            if mask.max() >= 128:
                raise InputError(
                    f"{entry.mask}: marks manipulated pixels in an image whose label "
                    "says authentic"
                )
            mask[:] = 0  # fainter values are the noise of lossy masks
        if entry.label == 1 and mask.max() < 128:
            warnings.append("empty_mask")
        if not mask.any():
            mask = None
    elif entry.label == 1:
        warnings.append("no_mask")

    small = {}
    side = settings["image_size"]
    if settings["storage"] == "resized":
        data = images.resize_image(image, side, side).tobytes()
        small["image_size"] = side
        if mask is not None:
            fitted = images.resize_mask(mask, height, width)
            small["small_mask"] = images.resize_mask(fitted, side, side).tobytes()
    record = records.encode(
        name=entry.name,
        source=entry.source,
        group=entry.group,
        kind=entry.kind,
        label=entry.label,
        has_mask=entry.label == 0 or entry.mask is not None,
        height=height,
        width=width,
        image=data,
        mask=None if mask is None else images.encode_mask(mask),
        **small,
    )
    return record, warnings


def _finish(out, settings, notes, rejected, entries) -> dict:
    """Writes `rejected.csv`, then the manifest; the notes have served."""
    rejected = sorted(rejected, key=lambda row: row.line)
    labels = "".join(note["labels"] for note in notes)
    sources = [source for note in notes for source in note["sources"]]
    kinds = Counter(kind for note in notes for kind in note["kinds"])
    counts = Counter(zip(sources, labels, strict=True))
    classes = {label: labels.count(label) for label in "01"}
    warnings = {
        kind: [line for note in notes for k, line in note["warnings"] if k == kind]
        for kind in WARNINGS
    }
    lost = {row.line for row in rejected}
    seen = set()
    for entry in entries:
        if entry.line not in lost:
            if entry.image in seen:
                warnings["duplicate"].append(entry.line)
            seen.add(entry.image)
    warnings["one_class"] = [int(label) for label in "01" if not classes[label]]

    manifest = {
        "version": records.VERSION,
        "settings": settings,
        "examples": len(labels),
        "classes": classes,
        "sources": {
            source: {label: counts[source, label] for label in "01"}
            for source in set(sources)
        },
        "kinds": kinds,
        "shards": [
            {
                key: note[key]
                for key in ("file", "examples", "bytes", "sha256", "labels")
            }
            for note in notes
            if note["examples"]
        ],
        "rejected": len(rejected),
        # Lines of the list; for `one_class`, the class.
        "warnings": {name: lines for name, lines in warnings.items() if lines},
    }
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("line", "path", "reason"))
    writer.writerows((row.line, row.path, row.reason) for row in rejected)
    _write_text(os.path.join(out, REJECTED), table.getvalue())
    _write_json(os.path.join(out, records.MANIFEST), manifest)
    _tidy(out, manifest)

    print(
        f"{out}: {manifest['examples']} examples ({classes['0']} authentic, "
        f"{classes['1']} manipulated) in {len(manifest['shards'])} shards; "
        f"{len(rejected)} rejected" + (f", see {REJECTED}." if rejected else ".")
    )
    for name, lines in manifest["warnings"].items():
        shown = ", ".join(map(str, lines[:5])) + (", ..." if len(lines) > 5 else "")
        where = "class" if name == "one_class" else f"{len(lines)}x, lines"
        print(f"Warning: {WARNINGS[name]}: {where} {shown}.")
    return manifest


def _tidy(out: str, manifest: dict):
    """Removes what served the build: notes, shards that turned out empty."""
    keep = {os.path.join(out, shard["file"]) for shard in manifest["shards"]}
    for path in glob.glob(os.path.join(glob.escape(out), "data-*.array_record*")):
        if path not in keep:
            os.remove(path)
    if os.path.exists(os.path.join(out, records.UNFINISHED)):
        os.remove(os.path.join(out, records.UNFINISHED))


def _strict_error(row: Rejected) -> InputError:
    return InputError(f"line {row.line}: {row.path or 'no path'}: {row.reason}")


def _nothing_usable(paths_file: str, rejected: list[Rejected]) -> InputError:
    first = min(rejected, key=lambda row: row.line)
    return InputError(
        f"{paths_file}: none of {len(rejected)} lines can be used; the first, line "
        f"{first.line}: {first.reason}"
    )


def _disk_error(error: RuntimeError, path: str) -> Exception:
    known = {
        "No space left": errno.ENOSPC,
        "File too large": errno.ENOSPC,
        "quota exceeded": errno.EDQUOT,
        "Permission denied": errno.EACCES,
        "Read-only": errno.EROFS,
    }
    for text, number in known.items():
        if text in str(error):
            return OSError(number, os.strerror(number), path)
    return error


def _clear(out: str, fresh: bool):
    """Removes what this build wrote, and its folder if the build made it."""
    for pattern in ("data-*.array_record*", records.UNFINISHED, REJECTED):
        for path in glob.glob(os.path.join(glob.escape(out), pattern)):
            os.remove(path)
    if fresh:
        os.rmdir(out)


def _note_path(shard: str) -> str:
    return f"{shard}.json"


def _is_written(shard: str) -> bool:
    if not os.path.exists(_note_path(shard)) or not os.path.exists(shard):
        return False
    with open(_note_path(shard), encoding="utf-8") as file:
        return json.load(file)["bytes"] == os.path.getsize(shard)


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_json(path: str, content):
    _write_text(path, json.dumps(content, indent=1, sort_keys=True) + "\n")


def _write_text(path: str, text: str):
    """Whole or not at all: beside its place first, then renamed."""
    beside = f"{path}.{os.getpid()}.tmp"
    with open(beside, "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(beside, path)


@one_line
def main(argv: Sequence[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.data.build",
        description="Turns a list of images into a folder of shards.",
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--paths_file", required=True, help="list: image mask edge label, see lists.py")
    add("--out", required=True, help="folder of the shards")
    add("--image_size", type=int, default=512, help="side of resized images")
    add("--storage", choices=STORAGE, default="original", help="files, or raw pixels")
    add("--compression", choices=COMPRESSION, default="raw", help="of the shards")
    add("--root", help="what relative paths count from (default: the list's folder)")
    add("--replace", action="append", default=[], metavar="OLD=NEW", help="of prefixes")
    add("--mask_inverted", action="store_true", help="masks hold 0 = manipulated")
    add("--workers", type=int, default=os.cpu_count(), help="processes")
    add("--strict", action="store_true", help="the first bad line is an error")
    arguments = vars(parser.parse_args(argv))
    if arguments["image_size"] < 1:
        raise InputError(
            f"--image_size={arguments['image_size']}: 1 or more is expected."
        )
    build(arguments.pop("paths_file"), arguments.pop("out"), **arguments)


if __name__ == "__main__":
    main()

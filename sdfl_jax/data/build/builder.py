"""Builds a folder of shards from a list of images (`python -m sdfl_jax.data.build`)."""

import fnmatch
import glob
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Collection, Sequence

from tqdm import tqdm

from sdfl_jax import files, stores
from sdfl_jax.data import planes, records
from sdfl_jax.data.build.shards import (
    read_note,
    strict_error,
    try_entry,
    write_shard,
)
from sdfl_jax.data.lists import Entry, Rejected, nothing_usable, read_list, repeated
from sdfl_jax.data.workers import Workers, WorkersDie, work
from sdfl_jax.errors import InputError, valid

STORAGE = ("original", "resized")


REJECTED = "rejected.csv"


_COLUMNS = ("label", "kind", "source", "group")  # that `only` may choose by


LINES_PER_SHARD = 256  # about 270 MB of 512x512 images, 10 MB of small JPEG files


WARNINGS = planes.WARNINGS | {
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
    mask_as_stored: bool = False,
    only: str = "",
    workers: Workers = 0,
    strict: bool = False,
    lines_per_shard: int = LINES_PER_SHARD,
    progress: bool = True,
) -> dict:
    """Writes the shards of a list to the folder `out` and returns their manifest.

    Nothing is re-encoded with loss: `original` keeps the files as they are, `resized`
    holds raw pixels at `image_size`, and both keep the mask at its own size. Lines that
    cannot be used are left out and listed in `rejected.csv`; with `strict` the first of
    them is an error. `InputError` if nothing can be used, the disk is too small or
    `out` holds a build with other settings or is in use by another process. `only`
    takes the lines of one label, kind, source or group ("label=1"). With no
    `workers` all is done in this process, which a crashing decoder would then end.
    """
    paths_file, out = os.fspath(paths_file), os.fspath(out)
    entries, rejected = read_list(paths_file, root=root, replace=replace)
    if only:
        entries = _only(entries, only)
    settings = {
        "list": _digest(entries, rejected),
        "image_size": image_size if storage == "resized" else 0,
        "storage": storage,
        "compression": compression,
        "root": root,
        "replace": list(replace),
        "mask_inverted": mask_inverted,
        "mask_as_stored": mask_as_stored,
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
        raise strict_error(rejected[0])
    if not entries:
        raise nothing_usable(paths_file, entries, rejected)
    _check_space(entries, out, settings)
    with files.locked_output(out):
        manifest = _finished(out, settings)  # by another process, meanwhile
        if manifest is not None:
            return manifest
        fresh = not stores.exists(out)
        _make_folder(out)
        files.write_json(os.path.join(out, records.UNFINISHED), settings)
        _remove(out, files.HALF_WRITTEN)
        try:
            notes = _write_missing(entries, out, settings, workers, strict, progress)
            rejected += [Rejected(**row) for note in notes for row in note["rejected"]]
            if not any(note["examples"] for note in notes):
                raise nothing_usable(paths_file, entries, rejected)
        except WorkersDie as error:
            raise InputError(
                f"{out}: {error} Finished shards are kept, and the same command goes "
                "on."
            ) from None
        except InputError:  # nothing that a later build could use
            _clear(out, fresh)
            raise
        return _finish(out, settings, notes, rejected, entries)


def _only(entries: list[Entry], condition: str) -> list[Entry]:
    column, _, value = condition.partition("=")
    if column not in _COLUMNS:
        raise InputError(
            f"--only={condition}: {valid(column, _COLUMNS)}, then = VALUE."
        )
    there = sorted({str(getattr(entry, column)) for entry in entries})
    if value not in there:
        raise InputError(f"--only={condition}: no such {column}; {valid(value, there)}")
    return [entry for entry in entries if str(getattr(entry, column)) == value]


def _digest(entries: list[Entry], rejected: list[Rejected]) -> str:
    """Tells lists apart, and files of the same names by their sizes."""
    digest = hashlib.sha256(repr([(row.line, row.reason) for row in rejected]).encode())
    for entry in entries:
        known = (entry.line, entry.name, entry.label)
        known += (entry.source, entry.group, entry.kind)
        paths = [path for path in (entry.image, entry.mask) if path is not None]
        # Those in a store are not asked for: millions of questions to a network.
        sizes = [None if stores.is_address(p) else stores.size(p) for p in paths]
        digest.update(repr((known, sizes)).encode(errors="backslashreplace"))
    return digest.hexdigest()


def _finished(out: str, settings: dict) -> dict | None:
    """The manifest of an equal build that is done; None if there is work to do."""
    for name in (records.MANIFEST, records.UNFINISHED):
        path = os.path.join(out, name)
        if not stores.exists(path):
            continue
        try:
            stored = json.loads(stores.read(path))
        except ValueError:
            raise InputError(f"{path}: damaged; delete {out}.") from None
        done = name == records.MANIFEST
        other = {"mask_as_stored": False}  # in builds from before there was a choice
        other |= stored["settings"] if done else stored
        differing = [key for key in settings if other.get(key) != settings[key]]
        if differing:
            what = ", ".join(
                "another list or files of other sizes"
                if key == "list"
                else f"{key} {other.get(key)!r}, now {settings[key]!r}"
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
        paths = [e.image for e in entries if not stores.is_address(e.image)]
        need = sum(stores.size(path) or 0 for path in paths)
        detail = f"{len(entries)} image files as they are"
    if stores.is_address(out):  # has no end, or none that it tells
        return
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
    """Makes the folder, or takes an empty one or that of a build that broke off."""
    ours = (_SHARDS, files.HALF_WRITTEN, records.UNFINISHED, REJECTED)
    there = sorted(stores.names(out))
    others = [n for n in there if not any(fnmatch.fnmatch(n, own) for own in ours)]
    if others:
        raise InputError(
            f"--out={out}: holds other files already ({others[0]}); give a new or an "
            "empty folder."
        )
    if stores.is_address(out):  # where folders are there with their files
        return
    try:
        os.makedirs(out, exist_ok=True)
    except FileExistsError:
        raise InputError(f"{out}: a file, where a folder is to be made.") from None


def _write_missing(entries, out, settings, workers, strict, progress) -> list[dict]:
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
        if read_note(name) is None
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
        for _ in work(write_shard, todo, attempt=try_entry, workers=workers, bar=bar):
            pass  # the notes say what came out
    return [read_note(name) for name in names]


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
    kept = [entry for entry in entries if entry.line not in lost]
    warnings["duplicate"] = sorted(repeated(kept))
    warnings["one_class"] = [int(label) for label in "01" if not classes[label]]

    manifest = {
        "version": records.VERSION,
        "settings": settings,
        "examples": len(labels),
        "classes": classes,
        "sources": {
            source: {label: counts[source, label] for label in "01"}
            for source in sorted(set(sources))
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
    columns = ("line", "path", "reason")
    files.write_csv(os.path.join(out, REJECTED), map(vars, rejected), columns)
    files.write_json(os.path.join(out, records.MANIFEST), manifest)
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
    """Removes temporary files: notes, empty and incomplete shards."""
    keep = {os.path.join(out, shard["file"]) for shard in manifest["shards"]}
    _remove(out, _SHARDS, files.HALF_WRITTEN, records.UNFINISHED, keep=keep)


def _clear(out: str, fresh: bool):
    """Removes what this build wrote, and its folder if the build made it."""
    _remove(out, _SHARDS, files.HALF_WRITTEN, records.UNFINISHED, REJECTED)
    if fresh and not stores.is_address(out):
        os.rmdir(out)


_SHARDS = "data-*.array_record*"  # and their notes


def _remove(out: str, *patterns: str, keep: Collection[str] = ()):
    for name in stores.names(out):
        path = os.path.join(out, name)
        if path not in keep and any(fnmatch.fnmatchcase(name, p) for p in patterns):
            stores.remove(path)

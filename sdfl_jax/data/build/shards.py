"""The shards of a build, each written by one worker and known to be whole.

A shard is written beside its place and renamed; then a note beside it says what it
holds, its part of the manifest. A shard without its note is not finished.
"""

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable

from array_record.python.array_record_module import ArrayRecordWriter

from sdfl_jax import stores
from sdfl_jax.data import images, records
from sdfl_jax.data.lists import Entry, Rejected
from sdfl_jax.data.planes import read_planes
from sdfl_jax.data.workers import large
from sdfl_jax.errors import InputError
from sdfl_jax.files import replacing, write_json

COMPRESSION = {"raw": "uncompressed", "zstd": "zstd:3"}

LARGE = 64_000_000  # pixels; more than cameras make, and 200 MB as RGB


def write_shard(
    path: str,
    entries: list[Entry],
    settings: dict,
    strict: bool,
    begin: Callable[[int], None],
    rejected: dict[int, str],
):
    """Writes one shard and, last, the note of what it holds.

    `begin` is called with the line of every entry before it is read; the lines in
    `rejected` are rejected unread, for the reasons there. With `strict` the first
    entry that cannot be used is an `InputError`.
    """
    try:
        with replacing(path) as beside:
            note = _fill(str(beside), entries, settings, strict, begin, rejected)
            note["file"] = os.path.basename(path)
            note["examples"] = len(note["labels"])
            note["bytes"] = os.path.getsize(beside)
            with open(beside, "rb") as file:
                note["sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    except RuntimeError as error:  # how ArrayRecord tells what the disk refused
        raise _disk_error(error, path) from None
    write_json(f"{path}.json", note)


def read_note(path: str) -> dict | None:
    """What the shard at `path` holds; None if it is not written whole."""
    if not stores.exists(f"{path}.json") or not stores.exists(path):
        return None
    try:
        note = json.loads(stores.read(f"{path}.json"))
    except ValueError:  # the machine went down before it was on the disk
        return None
    return note if note["bytes"] == stores.size(path) else None


def try_entry(path: str, entries: list[Entry], settings: dict, strict: bool, line: int):
    """Reads one entry as `write_shard` does, to see whether the process survives."""
    for entry in entries:
        if entry.line == line:
            make_record(entry, settings)


def strict_error(row: Rejected) -> InputError:
    return InputError(f"line {row.line}: {row.path or 'no path'}: {row.reason}")


def _fill(path, entries, settings, strict, begin, rejected) -> dict:
    """Writes the records of one shard; what it holds."""
    note = {"labels": "", "sources": [], "kinds": [], "rejected": [], "warnings": []}
    compression = COMPRESSION[settings["compression"]]
    writer = ArrayRecordWriter(path, f"group_size:1,{compression}")
    for entry in entries:
        begin(entry.line)
        try:
            if entry.line in rejected:
                raise InputError(rejected[entry.line])
            record, warnings = make_record(entry, settings)
        except (InputError, MemoryError) as error:
            reason = str(error) or "not enough memory"
            reason = reason.removeprefix(f"{entry.image}: ").removesuffix(".")
            row = Rejected(line=entry.line, path=entry.image, reason=reason)
            if strict:
                raise strict_error(row) from None
            note["rejected"].append(vars(row))
            continue
        writer.write(record)
        note["labels"] += str(entry.label)
        note["sources"].append(entry.source)
        note["kinds"].append(entry.kind)
        note["warnings"] += [(warning, entry.line) for warning in warnings]
    writer.close()
    return note


def make_record(entry: Entry, settings: dict) -> tuple[bytes, list[str]]:
    """An entry's record and its warnings; `InputError` if it cannot be used."""
    data = images.read_bytes(entry.image)
    mask = None if entry.mask is None else images.read_bytes(entry.mask)
    pixels = max(images.claimed_pixels(file) for file in (data, mask) if file)
    # Large images one at a time, so that memory does not grow with the workers.
    with large() if pixels > LARGE else contextlib.nullcontext():
        return _encode(entry, settings, data, mask)


def _encode(entry, settings, data: bytes, mask: bytes | None):
    image, mask, warnings = read_planes(
        entry,
        data,
        mask,
        mask_inverted=settings["mask_inverted"],
        mask_as_stored=settings["mask_as_stored"],
    )
    height, width = image.shape[:2]
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

"""The shards of a build, each written by one worker and known to be whole.

A shard is written beside its place and renamed; then a note beside it says what it
holds, its part of the manifest. A shard without its note is not finished.
"""

import concurrent.futures
import errno
import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading

from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from sdfl_jax.data import images, records
from sdfl_jax.data.lists import Entry, Rejected
from sdfl_jax.errors import InputError
from sdfl_jax.files import replacing, write_json

COMPRESSION = {"raw": "uncompressed", "zstd": "zstd:3"}


def write_shard(path: str, entries: list[Entry], settings: dict, strict: bool, done):
    """Writes one shard and, last, the note of what it holds.

    `done` is called with 1 for every entry. With `strict` the first entry that cannot
    be used is an `InputError`.
    """
    try:
        with replacing(path) as beside:
            note = _fill(str(beside), entries, settings, strict, done)
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
    if not os.path.exists(f"{path}.json") or not os.path.exists(path):
        return None
    with open(f"{path}.json", encoding="utf-8") as file:
        note = json.load(file)
    return note if note["bytes"] == os.path.getsize(path) else None


def strict_error(row: Rejected) -> InputError:
    return InputError(f"line {row.line}: {row.path or 'no path'}: {row.reason}")


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


def write_shards(todo: list[tuple], workers: int, bar: tqdm):
    """Writes shards in worker processes; `todo` holds arguments of `write_shard`.

    `bar` advances by the images done. The first error ends all workers.
    """
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
        waiting = {pool.submit(write_shard, *task, _count) for task in todo}
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

"""Reads a folder of shards again, every byte and every record of it.

python -m sdfl_jax.data.build --verify --out=shards/train
"""

import hashlib
import os
from collections import Counter

from array_record.python.array_record_data_source import ArrayRecordDataSource
from tqdm import tqdm

from sdfl_jax import stores
from sdfl_jax.data import records
from sdfl_jax.data.workers import Workers, work

SHOWN = 5  # problems told of one shard


def verify(
    folder: str | os.PathLike, *, workers: Workers = 0, progress: bool = True
) -> list[str]:
    """What is wrong with a finished build, one line each; empty if all is well.

    Compares each shard's size and checksum with the manifest, decodes every image and
    mask, and counts labels, sources and kinds again. `InputError` if the folder holds
    no finished build.
    """
    folder = os.fspath(folder)
    manifest = records.read_manifest(folder)
    shards = manifest["shards"]
    tasks = [
        (os.path.join(folder, shard["file"]), shard, manifest["settings"])
        for shard in shards
    ]
    with tqdm(
        total=manifest["examples"], unit="image", desc="verify", disable=not progress
    ) as bar:
        checks = dict(
            work(_check_shard, tasks, attempt=_try_record, workers=workers, bar=bar)
        )
    checks = [checks[index] for index in range(len(shards))]
    problems = []
    for shard, check in zip(shards, checks, strict=True):
        found = check["problems"]
        problems += [f"{shard['file']}: {problem}" for problem in found[:SHOWN]]
        if len(found) > SHOWN:
            problems.append(f"{shard['file']}: and {len(found) - SHOWN} more.")
    if not problems:  # else the counts are wrong as well
        problems += _check_counts(manifest, checks)
    return problems + _check_files(folder, manifest)


def _check_shard(path, shard, settings, begin, rejected) -> dict:
    """Problems of one shard, and what its records say: sources by label, and kinds."""
    begin(0)  # opening is part of the first record
    with stores.local(path) as path:
        return _check_file(path, shard, settings, begin, rejected)


def _check_file(path, shard, settings, begin, rejected) -> dict:
    check = {"problems": [], "sources": Counter(), "kinds": Counter()}
    tell = check["problems"].append
    size = os.path.getsize(path) if os.path.exists(path) else None
    if size != shard["bytes"]:
        tell(
            "missing."
            if size is None
            else f"{size} bytes where the manifest says {shard['bytes']}."
        )
        return check
    with open(path, "rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
            tell("its content has changed (the checksum is another).")
    if 0 in rejected:
        tell(f"record 0: {rejected[0]}.")
        return check
    try:
        source = ArrayRecordDataSource([path])
        length = len(source)
    except Exception as error:
        tell(f"cannot be opened ({_short(error)}).")
        return check
    if length != shard["examples"]:
        tell(f"{length} records where the manifest says {shard['examples']}.")
    for index in range(length):
        if index:
            begin(index)
        if index in rejected:
            tell(f"record {index}: {rejected[index]}.")
            continue
        try:
            example = records.decode(source[index])
            problem = _oddity(example, shard["labels"][index : index + 1], settings)
        except Exception as error:  # damaged bytes make any
            problem = f"cannot be decoded ({_short(error)})"
        if problem:
            tell(f"record {index}: {problem}.")
            continue
        check["sources"][example["source"], str(example["label"])] += 1
        check["kinds"][example["kind"]] += 1
    return check


def _oddity(example: dict, label: str, settings: dict) -> str | None:
    if str(example["label"]) != label:
        return f"label {example['label']} where the manifest says {label or 'nothing'}"
    size = (example["height"], example["width"])
    side = settings["image_size"]
    stored = (side, side) if settings["storage"] == "resized" else size
    if not example["image"].shape[:2] == example["mask"].shape[:2] == stored:
        return f"an image of {example['image'].shape[:2]} where {stored} is said"
    if example["original_mask"].shape != size:
        return f"a mask of {example['original_mask'].shape} where {size} is said"
    if example["label"] == 0 and example["original_mask"].any():
        return "marks manipulated pixels in an authentic image"
    return None


def _try_record(path: str, shard: dict, settings: dict, index: int):
    with stores.local(path) as path:
        records.decode(ArrayRecordDataSource([path])[index])


def _check_counts(manifest: dict, checks: list[dict]) -> list[str]:
    counts = sum((check["sources"] for check in checks), Counter())
    classes = Counter()
    for (_, label), number in counts.items():
        classes[label] += number
    found = {
        "examples": counts.total(),
        "classes": {label: classes[label] for label in "01"},
        "sources": {
            source: {label: counts[source, label] for label in "01"}
            for source in sorted({source for source, _ in counts})
        },
        "kinds": dict(sum((check["kinds"] for check in checks), Counter())),
    }
    return [
        f"{records.MANIFEST}: {name} {manifest[name]} where the shards hold {value}."
        for name, value in found.items()
        if manifest[name] != value
    ]


def _check_files(folder: str, manifest: dict) -> list[str]:
    known = {shard["file"] for shard in manifest["shards"]}
    names = {n for n in stores.names(folder) if n.endswith(".array_record")}
    return [f"{name}: not in the manifest." for name in sorted(names - known)]


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__

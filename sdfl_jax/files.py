"""Output that is there whole or not at all: written beside, then renamed."""

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sdfl_jax.errors import InputError

HALF_WRITTEN = ".*.partial"  # what a process that was killed leaves behind


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A path beside `path` to write a file to, renamed to it if all goes well."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    try:
        yield beside
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.partial")


def write_json(path: str | os.PathLike, value):
    """Writes JSON with sorted structure kept; a NaN is refused, for JSON has none."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_csv(path: str | os.PathLike, rows: Iterable[dict], columns: Sequence[str]):
    """Writes `rows` under a header of `columns`; None becomes an empty cell.

    Bytes of file names that are no text become `\\udcff`.
    """
    how = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with replacing(path) as beside, beside.open("w", **how) as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def new_folder(out: str | os.PathLike, *, made_by: str) -> Iterator[Path]:
    """A folder beside `out` to fill, renamed to `out` if all goes well.

    An older output, known by its file `made_by`, is replaced; a folder that holds
    anything else is refused with `InputError`, so that nothing is ever lost.
    """
    out = Path(out).absolute()
    if out.is_file() or (
        out.is_dir() and any(out.iterdir()) and not (out / made_by).exists()
    ):
        raise InputError(
            f"--out={out}: holds something else already (no {made_by} in it); give a "
            "new or an empty folder."
        )
    beside = _beside(out)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        if out.exists():
            shutil.rmtree(out)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)

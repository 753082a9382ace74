"""The cross-generator study: trained on one or on all but one, tested on each."""

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from sdfl_jax.data import records
from sdfl_jax.drawing.figures import save
from sdfl_jax.errors import InputError, valid
from sdfl_jax.files import write_csv
from sdfl_jax.metrics import METRICS
from sdfl_jax.report import charts, tables
from sdfl_jax.report.facts import read_scores
from sdfl_jax.report.study import train_of

SHOWN = ("pixel_iou_manipulated", "pixel_f1_manipulated")


@dataclasses.dataclass(frozen=True)
class Part:
    """The shard folders of one generator."""

    name: str
    train: str
    val: str
    test: str


def parse_part(text: str) -> Part:
    """Reads `NAME=TRAIN:VAL:TEST`; `InputError` where it is something else."""
    name, _, rest = text.partition("=")
    folders = rest.split(":")
    if not name or "/" in name or len(folders) != 3 or not all(folders):
        raise InputError(
            f"--data={text}: takes NAME=TRAIN:VAL:TEST, three folders of shards."
        )
    for folder in folders:
        records.read_manifest(folder)
    return Part(name, *(os.path.abspath(folder) for folder in folders))


def run(
    parts: Sequence[Part],
    out: str | os.PathLike,
    *,
    config: str,
    leave_one_out: bool = False,
    overrides: Sequence[str] = (),
    command: Callable[[Sequence[str]], int] | None = None,
) -> dict[str, dict[str, dict]]:
    """Trains each row of the matrix, scores each of its cells; returns what `collect`
    does.

    A cell that is there is not computed again, and a training goes on where it was
    stopped. `leave_one_out`: a row is trained on all parts but the one it is named
    after. `overrides` are further flags of training, such as `--config.seed=1`;
    `command` runs a Python module with arguments and returns its exit status.

    Raises:
      InputError: fewer than two parts or two of one name, cells of another study in
        `out`, or a training or an evaluation that fails.
    """
    command = command or _python
    out = Path(out).absolute()
    names = [part.name for part in parts]
    if len(parts) < 2 or len(set(names)) < len(names):
        raise InputError(f"--data: two or more parts of different names, not {names}.")
    cells = {}
    for part in parts:
        members = [p for p in parts if (p is part) != leave_one_out]
        row = f"all but {part.name}" if leave_one_out else part.name
        place = row.replace(" ", "_")
        workdir, data = out / "runs" / place, out / "data" / place
        train, val = (
            records.join([getattr(p, split) for p in members], data / split)
            for split in ("train", "val")
        )
        wanted = {p.name: out / "cells" / place / p.name for p in parts}
        missing = {n: f for n, f in wanted.items() if not _done(f, train)}
        if missing:
            flags = [f"--config={config}", f"--workdir={workdir}"]
            flags += [f"--config.data.train={train}", f"--config.data.val={val}"]
            _must(command, ["sdfl_jax.main", *flags, *overrides], f"Training on {row}")
        for test in parts:
            if test.name in missing:
                flags = [f"--workdir={workdir}", f"--data={test.name}={test.test}"]
                flags.append(f"--out={missing[test.name]}")
                what = f"Scoring {row} on {test.name}"
                _must(command, ["sdfl_jax.evaluate", *flags], what)
        for name, folder in wanted.items():
            cells.setdefault(row, {})[name] = read_scores(folder)
    return cells


def collect(given: Sequence[str]) -> dict[str, dict[str, dict]]:
    """Scores by training data and test data, from output folders of evaluate.

    Each is `ROW=FOLDER`, or a folder whose row is named after its training data. A
    folder with several data sets fills several cells. `InputError` for a cell that
    two folders fill.
    """
    cells: dict[str, dict[str, dict]] = {}
    for text in given:
        row, found, folder = text.partition("=")
        if not found or os.path.isdir(text):
            row, folder = "", text
        scores = read_scores(folder)
        row = row or train_of(scores)
        for name, part in _sets(scores).items():
            if name in cells.setdefault(row, {}):
                raise InputError(
                    f"{folder}: trained on {row} and scored on {name}, as another "
                    "folder is; name rows apart with ROW=FOLDER."
                )
            cells[row][name] = part
    return cells


def matrices(
    cells: Mapping[str, Mapping[str, Mapping]], keys: Sequence[str] = SHOWN
) -> dict[str, list[list[float | None]]]:
    """A matrix of each standard metric; None where a cell or its metric is missing."""
    for key in keys:
        if key not in METRICS["standard"]:
            raise InputError(f"No metric {key!r}; {valid(key, METRICS['standard'])}")
    columns = columns_of(cells)
    return {
        key: [
            [_value(row.get(column), key) for column in columns]
            for row in cells.values()
        ]
        for key in keys
    }


def columns_of(cells: Mapping[str, Mapping]) -> list[str]:
    """The test sets, in the order in which they come up."""
    return list(dict.fromkeys(name for row in cells.values() for name in row))


def matrix_tables(cells: Mapping, keys: Sequence[str] = SHOWN) -> str:
    """Markdown, a table for each metric."""
    columns = columns_of(cells)
    parts = []
    for key, matrix in matrices(cells, keys).items():
        rows = [
            {"": name} | dict(zip(columns, values, strict=True))
            for name, values in zip(cells, matrix, strict=True)
        ]
        heads = {"": "trained on"} | {name: f"test: {name}" for name in columns}
        parts.append(f"{tables.heading(key)}\n\n{tables.table(rows, heads)}")
    return "\n\n".join(parts)


def write(cells: Mapping, out: str | os.PathLike, keys: Sequence[str] = SHOWN):
    """Writes `matrix.png` (a heat map for each metric) and `matrix.csv`."""
    out, columns = Path(out), columns_of(cells)
    found = matrices(cells, keys)
    save(heat_maps(cells, keys), out / "matrix.png")
    rows = [
        {"train": name, "test": column} | {k: found[k][i][j] for k in keys}
        for i, name in enumerate(cells)
        for j, column in enumerate(columns)
    ]
    write_csv(out / "matrix.csv", rows, ["train", "test", *keys])


def heat_maps(cells: Mapping, keys: Sequence[str] = SHOWN) -> Figure:
    """One heat map for each metric, side by side."""
    named = {tables.heading(k): values for k, values in matrices(cells, keys).items()}
    return charts.heat_maps(
        named, list(cells), columns_of(cells), "tested on", "trained on"
    )


def _value(scores: Mapping | None, key: str) -> float | None:
    return None if scores is None else scores["standard"].get(key)


def _sets(scores: Mapping) -> dict[str, Mapping]:
    if scores.get("sets"):
        return scores["sets"]
    data = scores.get("data") or []
    name = data[0]["name"] if data else (scores.get("setting") or {}).get("data")
    return {name or "data": scores}


def _done(folder: Path, train: str) -> bool:
    """Whether a cell is there; `InputError` where it belongs to another study."""
    if not (folder / "metrics.json").exists():
        return False
    setting = read_scores(folder).get("setting") or {}
    found = ((setting.get("config") or {}).get("data") or {}).get("train")
    if found != train:
        raise InputError(
            f"{folder}: trained on {found}, not on {train}; give another --out."
        )
    return True


def _must(command: Callable, arguments: Sequence[str], what: str):
    status = command(arguments)
    if status:
        raise InputError(
            f"{what} failed with exit status {status} (its message stands above); the "
            "same command goes on from here."
        )


def _python(arguments: Sequence[str]) -> int:
    # What they print goes to stderr: the matrix alone is this command's output.
    return subprocess.run([sys.executable, "-m", *arguments], stdout=2).returncode

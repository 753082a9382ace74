"""Lists of images: one line per example, in the layouts that the field uses.

* `image mask edge label`, blanks between, `None` for what is missing (the reference);
* `image mask label` (MVSS-Net), as above;
* either of them with tabs or commas between, so that paths may hold blanks;
* CSV or tab-separated with a header that names any of `image`, `mask`, `edge`, `label`,
  `source`, `group`, `kind` in any order; `image` and `label` are needed.
"""

import argparse
import csv
import dataclasses
import os
import posixpath
from collections.abc import Sequence

from sdfl_jax.errors import InputError

COLUMNS = ("image", "mask", "edge", "label", "source", "group", "kind")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """One line: files as they can be opened, and what is known about them.

    `name` is the image's path relative to the root, with forward slashes, never leading
    out of it; `label` is 1 for manipulated.
    """

    line: int
    name: str
    image: str
    mask: str | None = None
    edge: str | None = None
    label: int
    source: str = ""
    group: str = ""
    kind: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rejected:
    """A line (counted from 1) that cannot be used, and why."""

    line: int
    path: str
    reason: str


def read_list(
    path: str | os.PathLike,
    *,
    root: str | os.PathLike | None = None,
    replace: Sequence[str] = (),
) -> tuple[list[Entry], list[Rejected]]:
    """Reads a list in any layout above.

    `replace` holds OLD=NEW pairs: the first OLD that starts a path is replaced.
    Relative paths then count from `root`, by default the folder the list lies in.
    `InputError` if there is no such list, it is empty or it is no list at all.
    """
    path = os.fspath(path)
    root = os.path.dirname(path) if root is None else os.fspath(root)
    pairs = [_pair(item) for item in replace]
    lines = _lines(path)
    header = _header(lines[0][1])
    if header is not None:
        delimiter, names = header
        rows = [
            (number, _by_header(names, delimiter, text)) for number, text in lines[1:]
        ]
        if not rows:
            raise InputError(f"{path}: the list holds a header and no line.")
    else:
        rows = [(number, _columns(text)) for number, text in lines]

    entries, rejected = [], []
    for number, row in rows:
        entry = _entry(number, row, root, pairs)
        (entries if isinstance(entry, Entry) else rejected).append(entry)
    return entries, rejected


def _lines(path: str) -> list[tuple[int, str]]:
    """Numbered lines that are not blank."""
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such list of images.")
    # File names are bytes; those that are not UTF-8 must survive the way back.
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
        text = file.read()
    if "\0" in text:
        raise InputError(f"{path}: not a text file, so not a list of images.")
    lines = enumerate(text.split("\n"), start=1)
    lines = [(number, line) for number, line in lines if line.strip()]
    if not lines:
        raise InputError(f"{path}: the list is empty.")
    return lines


def _header(text: str) -> tuple[str, list[str]] | None:
    """Delimiter and lower-case names, if the line is a header."""
    for delimiter in (",", "\t"):
        names = [name.strip().lower() for name in text.split(delimiter)]
        if "image" in names and "label" in names:
            return delimiter, names
    return None


def _by_header(names: list[str], delimiter: str, text: str) -> dict[str, str] | str:
    """Columns of a line below a header by name, or why there are none."""
    try:
        return _by_name(names, next(csv.reader([text], delimiter=delimiter)))
    except csv.Error as error:  # a column of more than 131,072 characters
        return str(error)


def _by_name(names: list[str], values: list[str]) -> dict[str, str]:
    return dict(zip(names, values, strict=False))  # short lines lack the last ones


def _columns(text: str) -> dict[str, str] | str:
    """Columns of a line without a header by name, or why there are none."""
    if "\t" in text:
        values = text.split("\t")
    elif text.rpartition(",")[2].strip() in ("0", "1"):
        try:
            values = next(csv.reader([text]))
        except csv.Error as error:
            return str(error)
    else:
        values = text.split()
    if len(values) == 4:
        return _by_name(["image", "mask", "edge", "label"], values)
    if len(values) == 3:
        return _by_name(["image", "mask", "label"], values)
    reason = f"{len(values)} columns; 'image mask edge label' has 4, without edge 3"
    if len(values) > 4:
        reason += " (paths with blanks need tabs or commas between the columns)"
    return reason


def _entry(number, row, root, pairs) -> Entry | Rejected:
    if isinstance(row, str):
        return Rejected(line=number, path="", reason=row)
    row = {name: row.get(name, "").strip() for name in COLUMNS}
    if _missing(row["image"]):
        return Rejected(line=number, path="", reason="no image path")
    if row["label"] not in ("0", "1"):
        return Rejected(
            line=number,
            path=row["image"],
            reason=f"label {row['label']!r}; 0 is authentic, 1 manipulated",
        )
    files = {
        name: None if _missing(row[name]) else _locate(row[name], root, pairs)
        for name in ("image", "mask", "edge")
    }
    return Entry(
        line=number,
        name=_name(files["image"], root),
        label=int(row["label"]),
        **files,
        **{name: row[name] for name in ("source", "group", "kind")},
    )


def add_list_arguments(parser: argparse.ArgumentParser):
    """How a command is told what a list means."""
    add = parser.add_argument
    add("--root", help="what relative paths count from (default: the list's folder)")
    add("--replace", action="append", default=[], metavar="OLD=NEW", help="of prefixes")
    add("--mask_inverted", action="store_true", help="masks hold 0 = manipulated")
    add(
        "--mask_as_stored",
        action="store_true",
        help="masks are drawn on the pixels before EXIF turns them, if no size tells",
    )


def _missing(path: str) -> bool:
    return path.lower() in ("", "none")


def _pair(item: str) -> tuple[str, str]:
    old, equals, new = item.partition("=")
    if not equals or not old:
        raise InputError(f"--replace={item}: OLD=NEW is expected.")
    return old, new


def _locate(path: str, root: str, pairs) -> str:
    for old, new in pairs:
        if path.startswith(old):
            path = new + path[len(old) :]
            break
    return os.path.join(root, path)


def _name(path: str, root: str) -> str:
    """Where outputs for the image go below a folder of their own."""
    inside = os.path.relpath(path, root or ".").replace(os.sep, "/")
    if inside.split("/")[0] == "..":
        inside = os.path.abspath(path).replace(os.sep, "/").lstrip("/")
    return posixpath.normpath(inside)

"""Lists of images: one line per example, in the layouts that the field uses.

* `image mask edge label`, blanks between, `None` for what is missing (the reference);
* `image mask label` (MVSS-Net), as above, or `image label` alone;
* either of them with tabs, commas, semicolons or bars between, so that paths may hold
  blanks, and with a column of line numbers before them;
* any of these below a header that names `image`, `mask`, `edge`, `label`, `source`,
  `group`, `kind` in any order, among others; `image` and `label` are needed.

Cells may be quoted and paths have backslashes. A label is 0 or 1, or a word for it.
"""

import argparse
import csv
import dataclasses
import os
import posixpath
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence

from sdfl_jax import stores
from sdfl_jax.errors import InputError
from sdfl_jax.files import plain_cell

SPLITS = ("train", "val", "test")  # the parts of every data set
COLUMNS = ("image", "mask", "edge", "label", "source", "group", "kind")


# What a label may be called where its meaning is plain; numbers are read as such.
_LABELS = {
    0: ("false", "real", "authentic", "original", "pristine", "genuine", "au"),
    1: ("true", "fake", "manipulated", "tampered", "forged", "spliced", "tp"),
}
_LABEL_OF = {word: label for label, words in _LABELS.items() for word in words}

# What else the columns are called.
_COLUMN_OF = {
    **dict.fromkeys(("path", "file", "filename", "file_name", "filepath"), "image"),
    **dict.fromkeys(("img", "img_path", "image_path", "image_name"), "image"),
    **dict.fromkeys(("mask_path", "mask_name", "gt", "gt_path"), "mask"),
    **dict.fromkeys(("edge_path", "edge_mask"), "edge"),
    **dict.fromkeys(("labels", "target", "is_fake", "manipulated"), "label"),
}

# Of lists that are no UTF-8, the one is taken by which files are found.
_ENCODINGS = ("cp1252", "gb18030", "shift_jis", "euc_kr", "big5", "cp1251")
_ENCODINGS += ("cp850", "mac_roman")
_MARKS = {
    b"\xff\xfe\0\0": "utf-32",
    b"\0\0\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
    b"\xef\xbb\xbf": "utf-8-sig",
}

_BLANK = " \t\r\n\v\f\xa0\u200b\u2060\ufeff"  # visible or not, around a cell

_DELIMITERS = ("\t", ",", ";", "|")


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
    Relative paths then count from `root`, by default the folder the list lies in. An
    image that comes with both labels is rejected each time.
    `InputError` if there is no such list, it is empty or it is no list at all.
    """
    path = os.fspath(path)
    root = os.path.dirname(path) if root is None else os.fspath(root)
    pairs = [_pair(item) for item in replace]
    read = [
        _parse(path, encoding, text, root, pairs) for encoding, text in _texts(path)
    ]
    best = max(read, key=lambda found: found.seen)  # the first of equals
    if len(read) > 1 and not (best is read[0] and best.seen):
        tried = ", ".join(found.encoding for found in read[1:])
        how = (
            "as UTF-8 but for some bytes" if best is read[0] else f"as {best.encoding}"
        )
        print(f"{path}: not UTF-8; read {how} (tried: {tried}).", file=sys.stderr)
    return _without_contradictions(best.entries, best.rejected)


@dataclasses.dataclass(frozen=True)
class _Read:
    """A list as one encoding has it; `seen` counts paths beyond ASCII that exist."""

    encoding: str
    entries: list[Entry]
    rejected: list[Rejected]
    seen: int


def _texts(path: str) -> list[tuple[str, str]]:
    """The content of a list in every encoding that it may have, by its name."""
    if not stores.is_address(path) and not os.path.isfile(path):
        raise InputError(f"{path}: no such list of images.")
    try:
        data = stores.read(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such list of images.") from None
    marked = [name for mark, name in _MARKS.items() if data.startswith(mark)][:1]
    if not marked and data[:2].count(0) == 1:
        marked = ["utf-16-be" if data[0] == 0 else "utf-16-le"]
    texts = []
    for encoding in marked or ("utf-8", *_ENCODINGS):
        try:
            texts.append((encoding, data.decode(encoding)))
        except UnicodeDecodeError:
            # File names are bytes; those that are not UTF-8 must survive the way back.
            if encoding.startswith("utf-8"):
                texts.append((encoding, data.decode(encoding, "surrogateescape")))
        else:
            if encoding == "utf-8":
                break
    other = _no_list(data)
    if not texts or "\0" in texts[0][1] or other:
        raise InputError(f"{path}: {other or 'not a text file'}, so no list of images.")
    return texts


def _no_list(data: bytes) -> str:
    """What a file is that was given for a list, where its first bytes tell."""
    start = data[:256].lstrip().lower()
    if data.startswith((b"PK\x03\x04", b"\xd0\xcf\x11\xe0")):
        return "a spreadsheet or an archive (save a table as CSV)"
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page"
    if start.startswith((b"[[", b'["', b"[{", b'{"')):
        return "JSON (sdfl data layouts imdlbenco_json makes lists of IMDL-BenCo's)"
    return ""


def _parse(path: str, encoding: str, text: str, root: str, pairs) -> _Read:
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    lines = [(n, line) for n, line in enumerate(lines, start=1) if line.strip()]
    if lines and re.fullmatch(r'"?sep=(.)"?', lines[0][1].strip()):  # a spreadsheet's
        lines = lines[1:]
    if not lines:
        raise InputError(f"{path}: the list is empty.")
    header = _header(lines[0][1])
    if header is None:
        rows = _unnamed(lines)
    elif len(lines) == 1:
        raise InputError(f"{path}: the list holds a header and no line.")
    else:
        delimiter, names = header
        rows = [(n, _by_name(names, _cells(line, delimiter))) for n, line in lines[1:]]
    found = [_entry(number, row, root, pairs) for number, row in rows]
    entries = [row for row in found if isinstance(row, Entry)]
    rejected = [row for row in found if isinstance(row, Rejected)]
    foreign = (e.image for e in entries if not e.image.isascii())
    return _Read(encoding, entries, rejected, sum(map(os.path.exists, foreign)))


def _without_contradictions(entries: list[Entry], rejected: list[Rejected]):
    lines = defaultdict(list)
    for entry in entries:
        lines[os.path.normpath(entry.image)].append(entry)
    kept = []
    for entry in entries:
        others = [
            other.line
            for other in lines[os.path.normpath(entry.image)]
            if other.label != entry.label
        ]
        if others:
            reason = f"label {entry.label}, but {1 - entry.label} in line {others[0]}"
            row = Rejected(line=entry.line, path=entry.image, reason=reason)
            rejected = [*rejected, row]
        else:
            kept.append(entry)
    return kept, rejected


def _cells(line: str, delimiter: str) -> list[str] | str:
    """The cells of a line, or why there are none."""
    if delimiter == " ":
        if '"' not in line:
            return line.split()
        line = re.sub(" +", " ", line.strip())
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True))
    except csv.Error as error:  # a column of more than 131,072 characters
        return str(error)


def _header(line: str) -> tuple[str, list[str]] | None:
    """Delimiter and lower-case names, if the line is a header."""
    for delimiter in (*_DELIMITERS, " "):
        cells = _cells(line, delimiter)
        names = [cell.strip().lower() for cell in cells if isinstance(cells, list)]
        for other, column in _COLUMN_OF.items():
            if other in names and column not in names:
                names[names.index(other)] = column
        if "image" in names and "label" in names:
            return delimiter, names
    return None


def _by_name(names: list[str], cells: list[str] | str) -> dict[str, str] | str:
    if isinstance(cells, str):
        return cells
    return dict(zip(names, cells, strict=False))  # short lines lack the last ones


def _unnamed(lines: list[tuple[int, str]]) -> list[tuple[int, dict[str, str] | str]]:
    """Columns of lines without a header by name, or why there are none."""
    rows = [_cells(line, _delimiter(line)) for _, line in lines]
    for row in rows:
        while isinstance(row, list) and len(row) > 2 and not row[-1].strip():
            row.pop()  # behind a delimiter that ends the line
    if all(
        isinstance(row, list) and len(row) > 2 and row[0].isdigit() and "." in row[1]
        for row in rows
    ):
        rows = [row[1:] for row in rows]  # the first counts them
    return [(n, _columns(row)) for (n, _), row in zip(lines, rows, strict=True)]


def _delimiter(line: str) -> str:
    """What parts a line: the one with a label behind its last, else the one that makes
    columns enough, else blanks."""
    if "\t" in line:
        return "\t"
    for delimiter in _DELIMITERS:
        head, _, last = line.rstrip(f"{delimiter} ").rpartition(delimiter)
        if head and _label(last.strip().strip('"')) is not None:
            return delimiter
    if _label(line.split()[-1].strip('"')) is None:
        for delimiter in _DELIMITERS:
            if len(_cells(line, delimiter)) in (2, 3, 4):
                return delimiter
    return " "


def _columns(cells: list[str] | str) -> dict[str, str] | str:
    if isinstance(cells, str):
        return cells
    if len(cells) == 4:
        return _by_name(["image", "mask", "edge", "label"], cells)
    if len(cells) == 3:
        return _by_name(["image", "mask", "label"], cells)
    if len(cells) == 2 and _label(cells[1].strip()) is not None:
        return _by_name(["image", "label"], cells)
    columns = "1 column" if len(cells) == 1 else f"{len(cells)} columns"
    reason = f"{columns}; 'image mask edge label' has 4, without edge 3"
    if len(cells) > 4:
        reason += " (paths with blanks need tabs or commas between the columns)"
    return reason


def _label(text: str) -> int | None:
    """0 or 1; None where it cannot be told which is meant."""
    if text.lower() in _LABEL_OF:
        return _LABEL_OF[text.lower()]
    if re.fullmatch(r"[01](\.0*)?", text):
        return int(text[0])
    return None


def _entry(number, row, root, pairs) -> Entry | Rejected:
    if isinstance(row, str):
        return Rejected(line=number, path="", reason=row)
    row = {name: plain_cell(row.get(name, "").strip(_BLANK)) for name in COLUMNS}
    if _missing(row["image"]):
        return Rejected(line=number, path="", reason="no image path")
    label = _label(row["label"])
    if re.match("(https?|ftp)://", row["image"], re.IGNORECASE):
        reason = "an address on the net; download it first"
        return Rejected(line=number, path=row["image"], reason=reason)
    if label is None:
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
        label=label,
        **files,
        **{name: row[name] for name in ("source", "group", "kind")},
    )


def repeated(entries: Iterable[Entry]) -> set[int]:
    """The lines whose image stands in an earlier one as well."""
    seen, lines = set(), set()
    for entry in entries:
        path = os.path.normpath(entry.image)
        if path in seen:
            lines.add(entry.line)
        seen.add(path)
    return lines


def add_list_arguments(parser: argparse.ArgumentParser | argparse._ArgumentGroup):
    """How a command is told what a list means."""
    add = parser.add_argument
    add("--root", help="base of relative paths (default: the list's folder)")
    add(
        "--replace",
        action="append",
        default=[],
        metavar="OLD=NEW",
        help="change a prefix of paths",
    )
    add("--mask_inverted", action="store_true", help="0 means manipulated in masks")
    add(
        "--mask_as_stored",
        action="store_true",
        help="masks lie on the pixels as stored, before EXIF orientation is applied",
    )


def nothing_usable(
    path: str | os.PathLike, entries: Iterable[Entry], rejected: Sequence[Rejected]
) -> InputError:
    """What to raise for a list without a line of use, `rejected` holding them all.

    It names the first file that was looked for, and where one like it lies.
    """
    first = min(rejected, key=lambda row: row.line)
    message = (
        f"{path}: none of {len(rejected)} lines can be used; the first, line "
        f"{first.line}: {first.reason.removesuffix('.')}"
    )
    for entry in entries:
        if not stores.is_address(entry.image) and not os.path.exists(entry.image):
            message += f"; looked for {os.path.abspath(entry.image)}"
            message += _elsewhere(entry.image, os.path.dirname(os.path.abspath(path)))
            break
    return InputError(f"{message}.")


def _elsewhere(image: str, folder: str) -> str:
    """A hint at an end of the path `image` that exists in or around a folder."""
    parts = [part for part in image.replace("\\", "/").split("/") if part]
    around = [folder, os.getcwd()]
    for _ in range(3):
        around += [os.path.dirname(place) for place in around[-2:]]
    for length in range(len(parts), 0, -1):
        end = os.path.join(*parts[-length:])
        for place in dict.fromkeys(around):
            if os.path.exists(os.path.join(place, end)):
                there = os.path.join(place, end)
                return f", where {there} exists (--root or --replace says so)"
    return ""


def _missing(path: str) -> bool:
    return path.lower() in ("", "none", "nan", "null")


def _pair(item: str) -> tuple[str, str]:
    old, equals, new = item.partition("=")
    if not equals or not old:
        raise InputError(f"--replace={item}: OLD=NEW is expected.")
    return old, new


def _locate(path: str, root: str, pairs) -> str:
    for old, new in pairs:
        if path.replace("\\", "/").startswith(old.replace("\\", "/")):
            path = new + path[len(old) :]
            break
    if stores.is_address(path):
        return path
    path = os.path.join(root, os.path.expanduser(path) if path[:2] == "~/" else path)
    if (
        stores.is_address(path)
        or path.isascii()
        and "\\" not in path
        or os.path.exists(path)
    ):
        return path
    # As Windows writes paths and macOS composes letters; a path may be so in earnest.
    path = path.replace("\\", "/")
    for form in ("NFC", "NFD"):
        if os.path.exists(unicodedata.normalize(form, path)):
            return unicodedata.normalize(form, path)
    return path


def _name(path: str, root: str) -> str:
    """Where outputs for the image go below a folder of their own."""
    inside = os.path.relpath(path, root or ".").replace(os.sep, "/")
    if inside.split("/")[0] == ".." and stores.is_address(path):
        inside = path.partition("://")[2]
    elif inside.split("/")[0] == "..":
        inside = os.path.abspath(path).replace(os.sep, "/").lstrip("/")
    return posixpath.normpath(inside)

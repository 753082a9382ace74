"""Audits lists: reads their images and masks, prints and writes the findings."""

import hashlib
import os
from collections import Counter
from collections.abc import Sequence
from functools import partial
from itertools import chain, islice
from operator import attrgetter

from tqdm import tqdm

from sdfl_jax import files
from sdfl_jax.data import images, origins
from sdfl_jax.data.audit import similar
from sdfl_jax.data.audit.leaks import (
    LEAKS,
    OTHERS,
    PAIRS,
    Finding,
    Line,
    Looks,
    audit,
    fix,
    leaks,
)
from sdfl_jax.data.lists import Entry, nothing_usable, read_list
from sdfl_jax.data.workers import Workers, each
from sdfl_jax.errors import InputError

COLUMNS = ("finding", "split_a", "line", "path", "split_b", "line_b", "other", "detail")


def look(
    entries: Sequence[Line | Entry],
    *,
    mask_inverted: bool = False,
    workers: Workers = 0,
    progress: bool = True,
) -> tuple[dict[str, Looks], dict[str, str]]:
    """Reads every image and mask once: `Looks` by image, and of each mask by path
    "marked" (a pixel of 128 or more), "empty", "missing" or why it cannot be read.
    """
    pictures = list(dict.fromkeys(entry.image for entry in entries))
    masks = list(dict.fromkeys(e.mask for e in entries if e.mask is not None))
    with tqdm(
        total=len(pictures) + len(masks),
        desc="audit",
        unit="file",
        disable=not progress,
    ) as bar:
        how = {"workers": workers, "chunk": 32, "bar": bar}
        looks = each(_look, pictures, lost=_no_looks, **how)
        looks = dict(zip(pictures, looks, strict=True))
        mark = partial(_mark, inverted=mask_inverted)
        marks = each(mark, masks, lost=_no_mark, **how)
        return looks, dict(zip(masks, marks, strict=True))


def _look(path: str) -> Looks:
    try:
        data = images.read_bytes(path)
        digest = hashlib.sha256(data).hexdigest()
        return Looks(digest, similar.fingerprint(images.read_image(data)))
    except InputError as error:
        return _no_looks(path, str(error).removeprefix(f"{path}: "))


def _no_looks(path: str, reason: str) -> Looks:
    return Looks(error=reason)


def _mark(path: str, inverted: bool) -> str:
    if not os.path.exists(path):
        return "missing"
    try:
        return "marked" if (images.read_mask(path, inverted) >= 128).any() else "empty"
    except InputError as error:
        return _no_mark(path, str(error).removeprefix(f"{path}: "))


def _no_mark(path: str, reason: str) -> str:
    return f"mask {reason}"


def table(findings: Sequence[Finding], splits: Sequence[str]) -> str:
    """Lines with each finding, by list and by pair of lists; aligned."""
    pairs = [pair for pair in PAIRS if set(pair) <= set(splits)]
    counts = Counter((f.finding, f.split_a, f.split_b) for f in findings)
    leak_rows = [["leak", *(f"{a} in {b}" for a, b in pairs), ""]]
    for name, meaning in LEAKS.items():
        row = [str(counts[name, a, b] or "-") for a, b in pairs]
        leak_rows.append([name, *row, meaning])
    other_rows = [["within a list", *splits, ""]]
    for name, meaning in OTHERS.items():
        row = [str(counts[name, s, s] + counts[name, s, ""] or "-") for s in splits]
        other_rows.append([name, *row, meaning])
    parts = [leak_rows, other_rows] if pairs else [other_rows]
    return "\n\n".join(_aligned(rows) for rows in parts)


def _aligned(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers, meaning in rows:
        cells = [n.rjust(w) for n, w in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([name.ljust(widths[0]), *cells, meaning]).rstrip())
    return "\n".join(lines)


def spread(lists: dict[str, Sequence[Line]]) -> list[str]:
    """How many groups of each kind have images in both splits of a pair, one line each.

    Groups are connected components: two images that share a group with a third one
    are in one group.
    """
    said = []
    for kind, keys in (
        ("photographs", attrgetter("photographs")),
        ("videos", attrgetter("videos")),
        ("groups of the list", attrgetter("group")),
    ):
        found = {
            split: [keys(line) for line in part if keys(line)]
            for split, part in lists.items()
        }
        names = iter(origins.connected(chain.from_iterable(found.values())))
        inside = {split: set(islice(names, len(k))) for split, k in found.items()}
        for a, b in PAIRS:
            if inside.get(a) and inside.get(b):
                both = len(inside[a] & inside[b])
                said.append(
                    f"{kind}: {both} of {len(inside[a])} connected groups in {a} reach "
                    f"into {b}"
                )
    return said


def _write_findings(path: str, findings: Sequence[Finding]):
    rows = (
        {
            "finding": f.finding,
            "split_a": f.split_a,
            "line": f.a.line,
            "path": f.a.path,
            "split_b": f.split_b,
            "line_b": f.b.line if f.b else "",
            "other": f.b.path if f.b else "",
            "detail": f.detail,
        }
        for f in findings
    )
    files.write_csv(path, rows, COLUMNS)


def _write_fixed(folder: str, paths: dict[str, str], lists: dict, kept: dict):
    """Copies the lists without the dropped lines; header, order and columns stay."""
    for split, path in paths.items():
        lost = {entry.line for entry in lists[split]}
        lost -= {entry.line for entry in kept[split]}
        with open(path, encoding="utf-8-sig", errors="surrogateescape") as file:
            lines = file.read().split("\n")
        lines = [line for i, line in enumerate(lines, start=1) if i not in lost]
        with files.replacing(_fixed_path(folder, split, path)) as beside:
            text = "\n".join(lines)
            beside.write_text(text, encoding="utf-8", errors="surrogateescape")


def _fixed_path(folder: str, split: str, path: str) -> str:
    return os.path.join(folder, f"paths_{split}{os.path.splitext(path)[1] or '.txt'}")


def _check_fix(folder: str, paths: dict[str, str]):
    """Refuses before any work to write over a list that is read."""
    for split in paths:
        target = os.path.realpath(_fixed_path(folder, split, paths[split]))
        if target in map(os.path.realpath, paths.values()):
            raise InputError(
                f"--fix={folder}: would write over {target}; give another folder."
            )


def run(
    paths: dict[str, str],
    *,
    out: str | None = None,
    fix_to: str | None = None,
    root: str | None = None,
    replace: Sequence[str] = (),
    mask_inverted: bool = False,
    content: bool | None = None,
    workers: Workers = 0,
    progress: bool = True,
) -> list[Finding]:
    """Audits the lists at `paths` (by split), prints and writes what it finds.

    `content`: read the files (True), compare names alone (False) or, by default, read
    them if any is there. Arguments otherwise as `read_list` takes them.
    """
    for flag, folder in (("out", out), ("fix", fix_to)):
        if folder is not None and os.path.exists(folder) and not os.path.isdir(folder):
            raise InputError(f"--{flag}={folder}: a file; give a folder.")
    if fix_to is not None:
        _check_fix(fix_to, paths)
    lists, bad_lines = {}, []
    for split, path in paths.items():
        # Absolute, so that lists in different folders can name the same file.
        base = os.path.abspath(os.path.dirname(path) if root is None else root)
        entries, rejected = read_list(path, root=base, replace=replace)
        if not entries:
            raise nothing_usable(path, entries, rejected)
        lists[split] = list(map(Line.of, entries))
        bad_lines += [Finding("bad_line", split, r, detail=r.reason) for r in rejected]

    looks = marks = None
    everything = [entry for entries in lists.values() for entry in entries]
    if content is None:
        content = any(os.path.exists(entry.image) for entry in everything)
        if not content:
            print("None of the files is here: names alone are compared (see --root).")
    elif content and not any(os.path.exists(entry.image) for entry in everything):
        raise InputError(
            f"--content: no image of the lists is here (first: {everything[0].image}); "
            "give their folder as --root or compare with --names_only."
        )
    if content:
        looks, marks = look(
            everything, mask_inverted=mask_inverted, workers=workers, progress=progress
        )
    findings = audit(lists, looks, marks)
    findings += bad_lines

    print(table(findings, tuple(lists)))
    print()
    for line in spread(lists):
        print(line)
    for split in ("test", "val"):
        if split in lists and len(lists) > 1:
            lines = len({f.a.line for f in leaks(findings, split)})
            share = 100 * lines / len(lists[split])
            print(f"{split}: {lines} of {len(lists[split])} lines leak ({share:.1f} %)")
    if out is not None:
        path = os.path.join(out, "findings.csv")
        _write_findings(path, findings)
        print(f"{len(findings)} findings, line by line: {path}")
    if fix_to is not None:
        kept = fix(lists, looks)
        for split, entries in kept.items():
            if not entries:
                raise InputError(
                    f"--fix={fix_to}: every line of {split} leaks, so no list is "
                    "written; split the images anew by photograph and video."
                )
        _write_fixed(fix_to, paths, lists, kept)
        for split, entries in kept.items():
            dropped = len(lists[split]) - len(entries)
            print(
                f"{_fixed_path(fix_to, split, paths[split])}: {len(entries)} lines "
                f"kept, {dropped} dropped"
            )
        if root is None and _moved(fix_to, paths):
            print("Relative paths count from the old folder: give it as --root.")
    return findings


def _moved(folder: str, paths: dict[str, str]) -> bool:
    olds = (os.path.dirname(os.path.abspath(path)) for path in paths.values())
    return any(old != os.path.abspath(folder) for old in olds)

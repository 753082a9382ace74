"""The small sets that the field tests on: Columbia, COVERAGE, NIST16."""

import csv
import re
from pathlib import Path

from sdfl_jax.data.layouts.common import (
    Found,
    Item,
    Options,
    Refused,
    child,
    image_files,
    match_masks,
    missing_folder,
    open_root,
)
from sdfl_jax.errors import InputError


def columbia(root: Path, options: Options) -> Found:
    """Columbia uncompressed: 4cam_auth/, 4cam_splc/, 4cam_splc/edgemask/.

    The masks are colours (`masks.green`). Names tell the cameras and the series, not
    the photographs that went into a splice.
    """
    root = open_root(root, "4cam_auth", "4cam_splc")
    items, refused = [], []
    series = lambda path: re.sub(r"_sub_\d+$", "", path.stem.lower())
    for name, label in (("4cam_auth", 0), ("4cam_splc", 1)):
        folder = child(root, name)
        if folder is None:
            refused.append(missing_folder(root / name))
            continue
        files = image_files(folder, skip=options.out)
        masks = [path for path in files if "edgemask" in str(path.relative_to(folder))]
        images = sorted(set(files) - set(masks))
        pairs = dict.fromkeys(images)
        if label:
            pairs, unmatched = match_masks(images, masks)
            refused += unmatched
        items += [
            Item(
                image=str(path),
                mask=None if mask is None else str(mask),
                convert="green" if label else "",
                label=label,
                source="columbia",
                kind="splice" * label,
                parents=(f"columbia/{series(path)}",),
            )
            for path, mask in pairs.items()
        ]
    return items, refused


def coverage(root: Path, options: Options) -> Found:
    """COVERAGE: pairs image/n.tif (authentic) and image/nt.tif, mask/nforged.tif."""
    root = open_root(root)
    images, masks, refused = [], [], []
    for path in image_files(root, skip=options.out):
        if re.fullmatch(r"\d+t?", path.stem.lower()):
            images.append(path)
        elif re.fullmatch(r"\d+forged", path.stem.lower()):
            masks.append(path)  # beside it: ncopy, the origin, and npaste
    for name in ("image", "mask"):
        if child(root, name) is None and not (images and masks):
            refused.append(missing_folder(root / name))
    number = lambda path: re.match(r"\d+", path.stem)[0]
    authentic = [path for path in images if path.stem.isdigit()]
    manipulated = sorted(set(images) - set(authentic))
    pairs, unmatched = match_masks(manipulated, masks, number, number)
    items = [
        Item(
            image=str(path),
            label=label,
            mask=None if mask is None else str(mask),
            source="coverage",
            kind="copymove" * label,
            parents=(f"coverage/{number(path)}",),
        )
        for label, files in ((0, dict.fromkeys(authentic)), (1, pairs))
        for path, mask in files.items()
    ]
    return items, refused + unmatched


def nist16(root: Path, options: Options) -> Found:
    """NIST Nimble 2016: reference/*/NC2016-*-ref.csv, probe/, world/, masks.

    An image is manipulated if any table says so, and authentic if the table of all
    manipulations says it is no target. Masks hold 0 = manipulated.
    """
    root = open_root(root, "reference")
    tables = sorted(root.rglob("*-ref.csv"), key=lambda p: "manipulation" not in p.name)
    if not tables:
        raise InputError(f"--root={root}: no NC2016-*-ref.csv below it (NIST16).")
    refused = []
    if "manipulation" not in tables[0].name:
        path = root / "reference/manipulation/NC2016-manipulation-ref.csv"
        refused.append(Refused(str(path), "table missing: it names the authentic ones"))
    rows: dict[str, dict] = {}
    for table in tables:
        for row in _read_table(table):
            name, target = row["ProbeFileName"], row["IsTarget"] == "Y"
            if name and (target or "manipulation" in table.name):
                if name not in rows or target and rows[name]["IsTarget"] != "Y":
                    rows[name] = row
    items, used = [], set()
    for name, row in sorted(rows.items()):
        label = int(row["IsTarget"] == "Y")
        mask = row.get("ProbeMaskFileName", "") if label else ""
        if not (root / name).is_file():
            refused.append(Refused(str(root / name), "no image: listed in the tables"))
            continue
        if label and not (mask and (root / mask).is_file()):
            refused.append(Refused(str(root / name), f"no mask: {mask or 'not named'}"))
            continue
        used.add(root / mask)
        related = [row.get(c, "") for c in ("BaseFileName", "DonorFileName")]
        parents = [f"nist16/{Path(p).stem}" for p in (name, *related) if p.strip()]
        items.append(
            Item(
                image=str(root / name),
                mask=str(root / mask) if label else None,
                convert="inverted" if label else "",
                label=label,
                source="nist16",
                kind=_nist_kind(row) if label else "",
                parents=tuple(parents),
            )
        )
    for folder in {path.parent for path in used if path != root}:
        reason = "mask without image: no table names it"
        left = set(image_files(folder, skip=options.out)) - used
        named = {root / row["ProbeFileName"] for row in rows.values()}
        named |= {root / row.get("ProbeMaskFileName", "") for row in rows.values()}
        refused += [Refused(str(path), reason) for path in sorted(left - named)]
    return items, refused


def _read_table(path: Path) -> list[dict]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    delimiter = "|" if "|" in text.split("\n", 1)[0] else ","
    rows = list(csv.DictReader(text.splitlines(), delimiter=delimiter))
    if not rows or not {"ProbeFileName", "IsTarget"} <= rows[0].keys():
        raise InputError(f"{path}: no columns ProbeFileName and IsTarget.")
    return [{k: (v or "").strip() for k, v in row.items() if k} for row in rows]


def _nist_kind(row: dict) -> str:
    kinds = {"Splice": "splice", "CopyClone": "copymove", "Removal": "removal"}
    told = [
        kind
        for name, kind in kinds.items()
        if row.get(f"IsManipulationType{name}") == "Y"
    ]
    return told[0] if told else ""

"""Lists and folders that other tools of the field read."""

import json
from pathlib import Path

from sdfl_jax.data import origins
from sdfl_jax.data.layouts.common import (
    Found,
    Item,
    Options,
    Refused,
    child,
    image_files,
    match_masks,
    missing_folder,
    split_in_name,
)
from sdfl_jax.data.lists import read_list
from sdfl_jax.errors import InputError


def paths_file(root: Path, options: Options) -> Found:
    """Lists `image mask [edge] label` (a file, or a folder of .txt, .csv, .tsv).

    A list with train, val or test in its name gives its images that split. CASIA's and
    FaceForensics++'s file names tell groups, and so does a column.
    """
    items, refused = [], []
    for path in _lists(root, (".txt", ".csv", ".tsv"), options):
        entries, rejected = read_list(path, replace=options.replace)
        refused += [
            Refused(f"{path}:{row.line}", f"unusable line: {row.reason}")
            for row in rejected
        ]
        for entry in entries:
            edge = entry.edge
            if edge is not None and not Path(edge).is_file():
                reason = f"no edge file: {edge} (the image is listed without it)"
                refused.append(Refused(f"{path}:{entry.line}", reason))
                edge = None
            source = entry.source or root.stem
            items.append(
                Item(
                    image=entry.image,
                    mask=entry.mask,
                    edge=edge,
                    label=entry.label,
                    source=source,
                    kind=entry.kind,
                    parents=(
                        *origins.parents(entry.image),
                        *origins.listed_group(source, entry.group),
                    ),
                    split=split_in_name(path.stem),
                )
            )
    return items, refused


def imdlbenco_json(root: Path, options: Options) -> Found:
    """IMDL-BenCo's JSON: [[image, mask or "Negative"], ...] (a file, or a folder).

    Relative paths count from the JSON's folder; names give splits as in `paths_file`.
    """
    items, refused = [], []
    for path in _lists(root, (".json",), options):
        try:
            pairs = json.loads(path.read_text(encoding="utf-8-sig"))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: no JSON ({error}).") from None
        if not isinstance(pairs, list) or not pairs:
            raise InputError(
                f'{path}: a list of [image, mask or "Negative"] is expected.'
            )
        for number, pair in enumerate(pairs):
            if not (
                isinstance(pair, list)
                and len(pair) == 2
                and all(isinstance(name, str) and name for name in pair)
            ):
                reason = f'unusable line: {json.dumps(pair)[:80]} is no [image, "mask"]'
                refused.append(Refused(f"{path}:{number}", reason))
                continue
            image, mask = pair
            label = int(mask.lower() != "negative")
            items.append(
                Item(
                    image=str(path.parent / image),
                    mask=str(path.parent / mask) if label else None,
                    label=label,
                    source=path.stem,
                    parents=origins.parents(image),
                    split=split_in_name(path.stem),
                )
            )
    return items, refused


def imdlbenco_mani(root: Path, options: Options) -> Found:
    """IMDL-BenCo's folders: Tp/ and Gt/, matched by name; authentic images in Au/."""
    if not root.is_dir():
        raise InputError(f"--root={root}: no such folder.")
    refused, files = [], {}
    for name in ("Tp", "Gt", "Au"):
        folder = child(root, name)
        if folder is None and name != "Au":
            refused.append(missing_folder(root / name))
        files[name] = [] if folder is None else image_files(folder, skip=options.out)
    pairs, unmatched = match_masks(files["Tp"], files["Gt"])
    source = root.resolve().name
    items = [
        Item(
            image=str(path),
            mask=None if mask is None else str(mask),
            label=label,
            source=source,
            parents=origins.parents(str(path)),
        )
        for label, found in ((0, dict.fromkeys(files["Au"])), (1, pairs))
        for path, mask in found.items()
    ]
    return items, refused + unmatched


def _lists(root: Path, suffixes: tuple[str, ...], options: Options) -> list[Path]:
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise InputError(f"--root={root}: no such list or folder of lists.")
    found = sorted(
        path
        for path in root.iterdir()
        if path.suffix.lower() in suffixes and path.parent != options.out
    )
    if not found:
        raise InputError(f"--root={root}: no list in it ({', '.join(suffixes)}).")
    return found

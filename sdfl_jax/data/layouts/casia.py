"""CASIA v1 and v2: names carry the photographs that an image was made of."""

from pathlib import Path

from sdfl_jax.data import origins
from sdfl_jax.data.layouts.common import (
    Found,
    Item,
    Options,
    child,
    image_files,
    match_masks,
    missing_folder,
    open_root,
    plain_stem,
)

_MASK_FOLDERS = ("gt", "mask", "masks")


def casia2(root: Path, options: Options) -> Found:
    """CASIA v2: Au/, Tp/ and masks NAME_gt.png in any other folder.

    Tp_D_ are splices, Tp_S_ copy-moves.
    """
    root = open_root(root)
    kind_of = lambda path: "splice" if path.name.startswith("Tp_D") else "copymove"
    return _casia(root, options, "casia2", kind_of)


def casia1(root: Path, options: Options) -> Found:
    """CASIA v1(+): Tp/Sp and Tp/CM, masks in folders of the same names, Au/.

    The `+` is in what lies in Au/: authentic images of CASIA v2 (those of v1 occur in
    v2 as well).
    """
    root = open_root(root)
    kinds = {"sp": "splice", "cm": "copymove"}

    def kind_of(path: Path) -> str:
        folders = [part.lower() for part in path.relative_to(root).parts[:-1]]
        folders.append(path.name[:2].lower())
        return next((kinds[name] for name in folders if name in kinds), "")

    return _casia(root, options, "casia1", kind_of)


def _casia(root: Path, options: Options, source: str, kind_of) -> Found:
    authentic, manipulated, masks, refused = [], [], [], []
    for path in image_files(root, skip=options.out):
        folders = [part.lower() for part in path.relative_to(root).parts[:-1]]
        if path.stem.endswith("_gt") or any(
            name in _MASK_FOLDERS or "groundtruth" in name.replace(" ", "")
            for name in folders
        ):
            masks.append(path)
        elif "au" in folders:
            authentic.append(path)
        elif "tp" in folders:
            manipulated.append(path)
        elif {"sp", "cm"} & set(folders):
            masks.append(path)
    for name, found in (("Au", authentic), ("Tp", manipulated)):
        if not found:
            refused.append(missing_folder(child(root, name) or root / name))
    pairs, unmatched = match_masks(manipulated, masks, mask_key=plain_stem)
    items = [
        Item(
            image=str(path),
            label=0,
            source=source,
            parents=origins.photographs(str(path)),
        )
        for path in authentic
    ]
    items += [
        Item(
            image=str(path),
            mask=str(mask),
            label=1,
            source=source,
            kind=kind_of(path),
            parents=origins.photographs(str(path)),
        )
        for path, mask in pairs.items()
    ]
    return items, refused + unmatched

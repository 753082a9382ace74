"""The sets that today's networks train and are tested on, beside CASIA and NIST's.

Forms as the sets' publishers and the loaders of the field describe them; which of them
met the set itself, `layouts.TRIED` says.
"""

import importlib.util
import re
from collections.abc import Callable, Iterable, Iterator
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
    open_root,
    plain_stem,
)
from sdfl_jax.data.search import files_below, mark_output
from sdfl_jax.errors import InputError

_Key = Callable[[Path], str]


def imd2020(root: Path, options: Options) -> Found:
    """IMD2020: a folder per photograph: X_orig.jpg, NAME.png and NAME_mask.png.

    All edits of one photograph lie in its folder and stay in one split.
    """
    root = open_root(root)
    files = image_files(root, skip=options.out)
    ends = lambda path, word: path.stem.lower().endswith(word)
    authentic = [path for path in files if ends(path, "_orig")]
    masks = [path for path in files if ends(path, "_mask")]
    manipulated = sorted(set(files) - set(authentic) - set(masks))
    within = lambda path: f"{path.parent.name}/{plain_stem(path)}"
    return _paired(
        "imd2020",
        authentic,
        manipulated,
        masks,
        key=within,
        parent=lambda path: path.parent.name,
    )


def fantastic_reality(root: Path, options: Options) -> Found:
    """FantasticReality: ColorRealImages/, ColorFakeImages/, SegmentationFake/.

    Masks are NumPy files (NAME.npz) in which anything but 0 is manipulated, or images.
    """
    root = open_root(root, "ColorFakeImages", "ColorRealImages", "dataset")
    root = child(root, "dataset") or root
    folders, refused = _folders(root, "ColorRealImages", "ColorFakeImages")
    masks = child(root, "SegmentationFake", "masks")
    if masks is None:
        refused.append(missing_folder(root / "SegmentationFake"))
    found, more = _paired(
        "fantastic_reality",
        *(_images(folder, options) for folder in folders),
        [] if masks is None else [*image_files(masks), *files_below(masks, (".npz",))],
        convert=lambda mask: "numpy" if mask.suffix == ".npz" else "",
        kind="splice",
    )
    return found, refused + more


def tampcoco(root: Path, options: Options) -> Found:
    """tampCOCO: {cm,sp,bcm,bcmc}_images/ and {cm,sp,bcm}_masks/; bcmc has bcm's masks.

    Kinds are copymove, splice, bcm and bcmc; `data build --only=kind=bcm` takes one.
    """
    root = open_root(root, "cm_images", "sp_images", "bcm_images", "bcmc_images")
    kinds = {"cm": "copymove", "sp": "splice", "bcm": "bcm", "bcmc": "bcmc"}
    items, refused = [], []
    for name, kind in kinds.items():
        images = child(root, f"{name}_images")
        masks = child(root, f"{name}_masks", "bcm_masks" if name == "bcmc" else "")
        if images is None:
            refused.append(missing_folder(root / f"{name}_images"))
            continue
        if masks is None:
            refused.append(missing_folder(root / f"{name}_masks"))
            continue
        found, more = _paired(
            "tampcoco",
            [],
            image_files(images, skip=options.out),
            image_files(masks),
            kind=kind,
        )
        items, refused = items + found, refused + more
    return items, refused


def compraise(root: Path, options: Options) -> Found:
    """compRAISE: authentic photographs alone, in one folder or any below it."""
    files = image_files(open_root(root), skip=options.out)
    return _paired("compraise", files, [], [])


def dso1(root: Path, options: Options) -> Found:
    """DSO-1: DSO-1/normal-N.png, splicing-N.png, DSO-1-Fake-Images-Masks/.

    Masks hold 0 = manipulated.
    """
    root = open_root(root, "DSO-1", "images")
    (masks,), refused = _folders(root, "DSO-1-Fake-Images-Masks|masks")
    images = child(root, "DSO-1", "images")
    if images is None:
        return [], [*refused, missing_folder(root / "DSO-1")]
    files = image_files(images, skip=options.out)
    authentic = [path for path in files if path.stem.lower().startswith("normal")]
    found, more = _paired(
        "dso1",
        authentic,
        sorted(set(files) - set(authentic)),
        _images(masks, options),
        convert=lambda mask: "inverted",
        kind="splice",
    )
    return found, refused + more


def cocoglide(root: Path, options: Options) -> Found:
    """CocoGlide: real/CLASS_ID.png, fake/..._ID_up.png, mask/CLASS_ID_mask.png."""
    root = open_root(root, "real", "fake", "mask")
    folders, refused = _folders(root, "real", "fake", "mask")
    number = lambda path: (re.findall(r"\d+", path.stem) or [path.stem])[-1]
    found, more = _paired(
        "cocoglide",
        *(_images(folder, options) for folder in folders),
        key=number,
        kind="inpainting",
        parent=number,
    )
    return found, refused + more


def autosplice(root: Path, options: Options) -> Found:
    """AutoSplice: Authentic/ID.jpg, Forged_JPEG{100,90,75}/ID_N.jpg, Mask/ID_mask.png.

    The kind is the compression, jpeg100 for example: each forgery occurs three times.
    """
    root = open_root(root, "Authentic", "Mask")
    (authentic, masks), refused = _folders(root, "Authentic", "Mask")
    whole = {plain_stem(path): path for path in _images(masks, options)}
    items = []
    # A mask may be named by the forgery or by the photograph alone.
    key = lambda path: (
        path.stem.lower() if path.stem.lower() in whole else path.stem.split("_")[0]
    )
    used = set()
    for quality in ("100", "90", "75"):
        folder = child(root, f"Forged_JPEG{quality}")
        if folder is None:
            refused.append(missing_folder(root / f"Forged_JPEG{quality}"))
            continue
        forged = image_files(folder, skip=options.out)
        used |= {key(path) for path in forged}
        found, more = _paired(
            "autosplice",
            [],
            forged,
            [mask for name, mask in whole.items() if name in set(map(key, forged))],
            image_key=key,
            kind=f"jpeg{quality}",
            parent=lambda path: path.stem.split("_")[0],
        )
        items, refused = items + found, refused + more
    reason = "mask without image: no image of its name"
    refused += [Refused(str(whole[name]), reason) for name in sorted(set(whole) - used)]
    found, _ = _paired(
        "autosplice",
        _images(authentic, options),
        [],
        [],
        parent=lambda path: path.stem.split("_")[0],
    )
    return found + items, refused


def korus(root: Path, options: Options) -> Found:
    """Korus' realistic tampering: CAMERA/{pristine,tampered-realistic,ground-truth}/.

    Masks have three grey levels: white counts as manipulated, the grey of what an edit
    changed without meaning to does not.
    """
    root = open_root(root)
    items, refused = [], []
    cameras = sorted({path.parent for path in root.rglob("tampered-realistic")})
    if not cameras:
        refused.append(missing_folder(root / "CAMERA" / "tampered-realistic"))
    for camera in cameras:
        folders, more = _folders(
            camera, "pristine", "tampered-realistic", "ground-truth"
        )
        refused += more
        found, more = _paired(
            "korus",
            *(_images(folder, options) for folder in folders),
            convert=lambda mask: "white",
            parent=lambda path, camera=camera: f"{camera.name}/{path.stem}",
        )
        items, refused = items + found, refused + more
    return items, refused


def misd(root: Path, options: Options) -> Found:
    """MISD: authentic/ (or Au/), manipulated/ (or Sp/), masks/NAME.png, one per image.

    Names tell the photographs of CASIA that went into a splice, so one split has all
    splices of a photograph, and an audit finds those that CASIA has too.
    """
    root = open_root(root, "authentic", "manipulated", "Au", "Sp", "masks")
    folders, refused = _folders(root, "authentic|Au", "manipulated|Sp", "masks")
    found, more = _paired(
        "misd",
        *(_images(folder, options) for folder in folders),
        kind="splice",
        parents=lambda path: origins.photographs(path.name),
    )
    return found, refused + more


def grip(root: Path, options: Options) -> Found:
    """GRIP's copy-moves: images/IMG_N.png, forged_images/TP_N_copy.png, TP_N_gt.png."""
    root = open_root(root, "forged_images", "images")
    (authentic, forged), refused = _folders(root, "images", "forged_images")
    number = lambda path: re.sub(r"^(img|tp)_|_(copy|gt)$", "", path.stem.lower())
    files = _images(forged, options)
    masks = [path for path in files if path.stem.lower().endswith("_gt")]
    copies = [path for path in files if path.stem.lower().endswith("_copy")]
    found, more = _paired(
        "grip",
        _images(authentic, options),
        copies,
        masks,
        key=number,
        kind="copymove",
        parent=number,
    )
    return found, refused + more


def opensdi(root: Path, options: Options) -> Found:
    """OpenSDI: *.parquet (key, image, mask, label) as its publishers split it.

    Images and masks are written to OUT/files/ as they lie in the tables, byte by byte;
    needs pyarrow. The kind is the generator in the file's name.
    """
    root = open_root(root)
    tables = sorted(root.rglob("*.parquet"))
    if not tables:
        raise InputError(f"--root={root}: no .parquet file below it (OpenSDI).")
    if importlib.util.find_spec("pyarrow") is None:
        raise InputError("opensdi: reading .parquet needs pyarrow: pip install pyarrow")
    items, refused = [], []
    folder = options.out / "files"
    mark_output(folder)
    for table in tables:
        kind = re.split(r"[-_.]", table.name)[0].lower()
        for number, row in enumerate(_parquet_rows(table)):
            place = f"{table}:{number}"
            if not row["image"] or row["label"] not in (0, 1):
                refused.append(Refused(place, "unusable row: no image, or no label"))
                continue
            name = re.sub(r"[^\w.-]", "_", str(row["key"]) or f"{table.stem}_{number}")
            label = row["label"]
            image = _stored(folder / kind / f"{label}_{name}", row["image"])
            mask = None
            if label and row["mask"]:
                mask = _stored(folder / kind / f"{label}_{name}_mask", row["mask"])
            items.append(
                Item(
                    image=str(image),
                    mask=None if mask is None else str(mask),
                    label=label,
                    source="opensdi",
                    kind=kind if label else "",
                    split=_split_of_table(table),
                )
            )
    return items, refused


def _parquet_rows(table: Path) -> Iterator[dict]:
    """The rows of a file: images and masks as bytes, None where there are none."""
    from pyarrow import ArrowInvalid, parquet

    wanted = ("key", "image", "mask", "label")
    try:
        file = parquet.ParquetFile(table)
    except (ArrowInvalid, OSError) as error:
        raise InputError(f"{table}: cannot be read ({error}).") from None
    missing = sorted(set(wanted) - set(file.schema_arrow.names))
    if missing:
        raise InputError(f"{table}: no column {', '.join(missing)} (OpenSDI has them).")
    for batch in file.iter_batches(64, columns=list(wanted)):
        for row in batch.to_pylist():
            for plane in ("image", "mask"):
                row[plane] = (row[plane] or {}).get("bytes")
            yield row


def _split_of_table(table: Path) -> str:
    """Published as two sets: one to train on, whose name says so, one to test on."""
    words = re.split(r"[^a-z]+", "/".join(table.parts[-3:]).lower())
    return next((word for word in ("test", "train") if word in words), "")


def _stored(path: Path, data: bytes) -> Path:
    """Writes an image under the ending of its format."""
    ends = {b"\x89PNG": ".png", b"\xff\xd8": ".jpg", b"RIFF": ".webp"}
    suffix = next((end for head, end in ends.items() if data.startswith(head)), ".png")
    path = path.with_name(path.name + suffix)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def _images(folder: Path | None, options: Options) -> list[Path]:
    return [] if folder is None else image_files(folder, skip=options.out)


def _folders(root: Path, *names: str) -> tuple[list[Path | None], list[Refused]]:
    """The subfolders of these names, `|` between others of it; None where missing."""
    found = [child(root, *name.split("|")) for name in names]
    missing = [
        missing_folder(root / name.split("|")[0])
        for name, folder in zip(names, found, strict=True)
        if folder is None
    ]
    return found, missing


def _paired(
    source: str,
    authentic: Iterable[Path],
    manipulated: Iterable[Path],
    masks: Iterable[Path],
    *,
    key: _Key | None = None,
    image_key: _Key | None = None,
    convert: Callable[[Path], str] = lambda mask: "",
    kind: str = "",
    parent: _Key | None = None,
    parents: Callable[[Path], tuple[str, ...]] | None = None,
) -> Found:
    """Items of a set whose authentic and manipulated images and masks are told apart.

    `key` of images and masks (`image_key` of images alone) matches them; `parent` names
    the photograph within the set that an image stems from.
    """
    if parents is None:
        parents = lambda path: (f"{source}/{parent(path)}",) if parent else ()
    keys = {"image_key": image_key or key, "mask_key": key}
    pairs, refused = match_masks(
        manipulated, masks, **{name: k for name, k in keys.items() if k}
    )
    items = [
        Item(image=str(path), label=0, source=source, parents=parents(path))
        for path in authentic
    ]
    items += [
        Item(
            image=str(path),
            mask=str(mask),
            convert=convert(mask),
            label=1,
            source=source,
            kind=kind,
            parents=parents(path),
        )
        for path, mask in pairs.items()
    ]
    return items, refused

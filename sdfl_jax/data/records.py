"""Examples on disk: msgpack records in ArrayRecord shards, described by a manifest.

A shard folder holds `data-00000-of-00007.array_record` and so on, `manifest.json`
(written last, so its presence means a finished build) and `rejected.csv`.
"""

import glob
import json
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import msgpack
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource

from sdfl_jax import stores
from sdfl_jax.data import images
from sdfl_jax.errors import InputError
from sdfl_jax.files import write_json

VERSION = 1
MANIFEST = "manifest.json"
UNFINISHED = "unfinished.json"  # settings of a build that goes on or was interrupted

GEOMETRIES = ("resize", "crop")

# What decoding meets in bytes that nobody wrote. An InputError is a ValueError.
UNREADABLE = (ValueError, KeyError, TypeError, msgpack.UnpackException, cv2.error)


def encode(
    *,
    name: str,
    label: int,
    image: bytes,
    height: int,
    width: int,
    mask: bytes | None = None,
    has_mask: bool = True,
    source: str = "",
    group: str = "",
    kind: str = "",
    image_size: int = 0,
    small_mask: bytes | None = None,
) -> bytes:
    """One example as a record.

    `image` is a file's content or, with `image_size` S, raw uint8 S S 3; `small_mask`
    is then raw uint8 S S 1. `mask` is a PNG at the mask's own size. A mask of None is
    empty (nothing manipulated), or unknown if `has_mask` is false. `height` and `width`
    are the original image's, upright.
    """
    return msgpack.packb(
        {
            "name": name,
            "source": source,
            "group": group,
            "kind": kind,
            "label": label,
            "has_mask": has_mask,
            "height": height,
            "width": width,
            "image": image,
            "mask": mask,
            "image_size": image_size,
            "small_mask": small_mask,
        },
        unicode_errors="surrogateescape",
    )


def decode(record: bytes, original_mask: bool = True) -> dict:
    """A record as an example.

    `image` uint8 H W 3 and `mask` uint8 H W 1 have the stored size: the original h w,
    or S S where the shards were built with `storage="resized"`; `encoded`, the file of
    the original image, is there as well. `original_mask` uint8 h
    w can be left out, since only scoring needs it. Beside them `label`, `has_mask`,
    `height` and `width` (h and w), `name`, `source`, `group` and `kind`.
    """
    stored = msgpack.unpackb(record, unicode_errors="surrogateescape")
    example = {
        key: stored[key]
        for key in ("label", "has_mask", "height", "width")
        + ("name", "source", "group", "kind")
    }
    size = (stored["height"], stored["width"])
    side = stored["image_size"]
    if side:
        example["image"] = _raw(stored["image"], (side, side, 3))
        example["mask"] = (
            np.zeros((side, side, 1), np.uint8)
            if stored["small_mask"] is None
            else _raw(stored["small_mask"], (side, side, 1))
        )
    else:
        try:
            example["image"] = images.read_image(stored["image"])
            example["encoded"] = stored["image"]
        except InputError as error:  # was whole when the shards were built
            raise InputError(f"{stored['name']} in the shards: {error}") from None
    if not side or original_mask:
        mask = (
            np.zeros((*size, 1), np.uint8)
            if stored["mask"] is None
            else images.decode_mask(stored["mask"])
        )
        example["mask_resized"] = mask.shape[:2] != size
        mask = images.resize_mask(mask, *size)
        example.setdefault("mask", mask)
        if original_mask:
            example["original_mask"] = mask[..., 0]
    return example


def _raw(data: bytes, shape: tuple[int, ...]) -> np.ndarray:
    return np.frombuffer(data, np.uint8).reshape(shape)


def load_manifest(folder: str | os.PathLike) -> dict:
    """What a shard folder holds; `InputError` if it is none, unfinished or damaged."""
    manifest = read_manifest(folder)
    for shard in manifest["shards"]:
        file = os.path.join(folder, shard["file"])
        # A cut-off shard reads as an empty one, so sizes are compared here.
        size = stores.size(file) or 0
        if size != shard["bytes"]:
            raise InputError(
                f"{file}: {size} bytes where the manifest says {shard['bytes']}; "
                "copy the folder again or build it anew."
            )
    return manifest


def fitting_manifest(folder: str | os.PathLike, image_size: int, geometry: str) -> dict:
    """`load_manifest`; `InputError` where rows of that kind cannot be made of it."""
    if geometry not in GEOMETRIES:
        raise InputError(f"No geometry {geometry!r}; there are {list(GEOMETRIES)}.")
    manifest = load_manifest(folder)
    stored = manifest["settings"]["image_size"]
    if stored and geometry == "crop":
        raise InputError(
            f"{folder}: resized to {stored}x{stored}, and geometry 'crop' needs native "
            "resolution; build with --storage=original."
        )
    if stored and stored != image_size:
        raise InputError(
            f"{folder}: resized to {stored}x{stored}, not {image_size}x{image_size}; "
            f"build with --image_size={image_size} or --storage=original."
        )
    return manifest


def read_manifest(folder: str | os.PathLike) -> dict:
    """`load_manifest` without a look at the shards."""
    folder = os.fspath(folder)
    path = os.path.join(folder, MANIFEST)
    if not stores.is_address(folder) and not os.path.isdir(folder):
        raise InputError(f"{folder}: no such folder of shards.")
    if not stores.exists(path):
        if stores.exists(os.path.join(folder, UNFINISHED)):
            raise InputError(
                f"{folder}: its build is unfinished; the same build command goes on."
            )
        raise InputError(
            f"{folder}: not a folder of shards (no {MANIFEST}); "
            "python -m sdfl_jax.data.build makes one."
        )
    try:
        manifest = json.loads(stores.read(path))
        version, _ = manifest["version"], manifest["shards"]
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path}: damaged, not a manifest of shards.") from None
    if version != VERSION:
        raise InputError(
            f"{path}: version {version} where this program reads {VERSION}; "
            "build the shards anew or use the program that built them."
        )
    return manifest


def labels(manifest: dict) -> np.ndarray:
    """Label of every example in record order, int8 N."""
    text = "".join(shard["labels"] for shard in manifest["shards"])
    return np.frombuffer(text.encode(), np.uint8).astype(np.int8) - ord("0")


def join(folders: Sequence[str], out: str | os.PathLike) -> str:
    """A folder of shards that holds those of all `folders`, without copying them.

    It is `out`, with nothing in it but a manifest, or the only one of `folders`.
    `InputError` where they were built with different image sizes.
    """
    if len(folders) == 1:
        return folders[0]
    manifests = [load_manifest(folder) for folder in folders]
    sizes = {manifest["settings"]["image_size"] for manifest in manifests}
    if len(sizes) > 1:
        raise InputError(
            f"{folders[0]} and others: built with image sizes {sorted(sizes)}; build "
            "them alike."
        )
    joined = {
        "version": manifests[0]["version"],
        "settings": {"image_size": sizes.pop(), "joined": list(folders)},
        "examples": sum(manifest["examples"] for manifest in manifests),
        "sources": {},
        # An absolute path is taken as it is by whoever joins it to the folder.
        "shards": [
            shard | {"file": os.path.join(folder, shard["file"])}
            for folder, manifest in zip(folders, manifests, strict=True)
            for shard in manifest["shards"]
        ],
    }
    for manifest in manifests:
        for source, counts in manifest["sources"].items():
            total = joined["sources"].setdefault(source, {})
            for label, count in counts.items():
                total[label] = total.get(label, 0) + count
    path = Path(out) / MANIFEST
    if not path.exists() or json.loads(path.read_text()) != joined:
        write_json(path, joined)
    return str(out)


class RecordSource:
    """Random access to the records of a shard folder or of the shards a pattern names.

    Picklable, so worker processes can open the files themselves.
    """

    def __init__(self, folder_or_glob: str | os.PathLike):
        self._where = where = os.fspath(folder_or_glob)
        if stores.is_address(where):
            raise InputError(
                f"{where}: shards are read from a disk; copy the folder to one."
            )
        if glob.has_magic(where) and not os.path.isdir(where):
            files = sorted(glob.glob(where))
            if not files:
                raise InputError(f"{where}: no shard fits this pattern.")
        else:
            files = [
                os.path.join(where, shard["file"])
                for shard in load_manifest(where)["shards"]
            ]
        try:
            # grain's is the same one, but comes with JAX: 150 MB in every worker.
            self._records = ArrayRecordDataSource(files)
        except RuntimeError as error:
            raise self._damaged("a shard", error) from None

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> bytes:
        try:
            return self._records[index]
        except RuntimeError as error:  # a checksum that does not fit, a file gone
            raise self._damaged(f"record {index}", error) from None

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an example's image, without decoding it."""
        stored = msgpack.unpackb(self[index], unicode_errors="surrogateescape")
        return stored["height"], stored["width"]

    def _damaged(self, what: str, error: RuntimeError) -> InputError:
        reason = " ".join(str(error).split())[:200]
        return InputError(
            f"{self._where}: {what} cannot be read ({reason}); copy the folder again "
            "or build it anew."
        )

r"""Forgeries out of the photographs that a stream keeps aside, and those themselves.

python -m sdfl_jax.data.forge.held_out --photos=forge:DIR[:WEIGHT][,...] --out=DIR
    [--count=240] [--size=256x384] [--seed=99]

Writes OUT/forgeries.csv, a list of --count examples (with OUT/images and OUT/masks) for
`sdfl_jax.data.build`, and OUT/photographs.csv, a list of the whole photographs,
authentic: each as it is, and twice as the web spreads it (OUT/web), smaller and saved
as JPEG again. A run that trains on the same --photos never sees any of them.
"""

import argparse
import csv
import os
from pathlib import Path

import cv2
import numpy as np

from sdfl_jax.data.forge.history import draw_compression, encode_jpeg
from sdfl_jax.data.forge.stream import PREFIX, Stream, folders
from sdfl_jax.data.images import read_image
from sdfl_jax.errors import InputError, one_line
from sdfl_jax.files import new_folder

_SPREAD = 2  # small forms of each photograph
_WEB_SIDES = (320, 1025)  # pixels of the longer side, from and below
_WEB_QUALITIES = (70, 95)
_COLUMNS = ("image", "mask", "edge", "label", "source", "group", "kind")


def write(
    photos: str, out: str | Path, *, count: int, size: tuple[int, int], seed: int
):
    """See above; `size` is height and width. `InputError` for what does not fit."""
    stream = Stream(photos, size=size, seed=seed, split="val")
    with new_folder(out, made_by="forgeries.csv") as beside:
        for name in ("images", "masks"):
            (beside / name).mkdir()
        rows = []
        for i in range(count):
            example, name = stream(i), f"{i:06d}.png"
            image, mask = beside / "images" / name, beside / "masks" / name
            cv2.imwrite(str(image), example["image"][..., ::-1])
            row = {"image": f"images/{name}", "mask": None, "label": example["label"]}
            if example["label"]:
                cv2.imwrite(str(mask), example["mask"])
                row["mask"] = f"masks/{name}"
            group = os.path.splitext(os.path.basename(example["host"]))[0]
            rows.append(row | {"group": group, "kind": example["kind"]})
        _write_list(beside / "forgeries.csv", rows, "forge")
        (beside / "web").mkdir()
        whole = []
        for folder in folders(photos, "val"):
            for name in folder.names:
                path = os.path.abspath(os.path.join(folder.path, name))
                group = os.path.splitext(name)[0]
                whole.append({"image": path, "label": 0, "group": group})
                for _ in range(_SPREAD):
                    image = f"web/{len(whole):06d}.jpg"
                    rng = np.random.default_rng([seed, len(whole)])
                    (beside / image).write_bytes(_spread(read_image(path), rng))
                    whole.append({"image": image, "label": 0, "group": group})
        _write_list(beside / "photographs.csv", whole, "photographs")


def _spread(photograph, rng) -> bytes:
    """A photograph as a page on the web would hold it: small, a JPEG once more."""
    height, width = photograph.shape[:2]
    factor = min(1.0, rng.integers(*_WEB_SIDES) / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(photograph, size, interpolation=cv2.INTER_AREA)
    return encode_jpeg(small, **draw_compression(rng, *_WEB_QUALITIES))


def _write_list(path: Path, rows: list[dict], source: str):
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, restval="None")
        writer.writeheader()
        for row in rows:
            known = {name: value for name, value in row.items() if value is not None}
            writer.writerow({"source": source, "group": "", "kind": ""} | known)


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        size = int(height), int(width)
    except ValueError:
        size = 0, 0
    if min(size) < 64:
        raise InputError(f"--size={text}: takes HEIGHTxWIDTH of at least 64 pixels.")
    return size


@one_line
def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.data.forge.held_out",
        description=__doc__.split("\n\n")[0],
    )
    parser.add_argument("--photos", required=True, help="as config.data.train has it")
    parser.add_argument("--out", required=True, help="folder to write")
    parser.add_argument("--count", type=int, default=240, help="of forgeries")
    parser.add_argument("--size", default="256x384", help="HEIGHTxWIDTH of each")
    parser.add_argument("--seed", type=int, default=99)
    args = parser.parse_args(argv)
    if not args.photos.startswith(PREFIX):
        raise InputError(f"--photos={args.photos}: takes {PREFIX}DIR[:WEIGHT][,...].")
    if args.count < 1:
        raise InputError(f"--count={args.count}: 1 or more is expected.")
    write(
        args.photos, args.out, count=args.count, size=_size(args.size), seed=args.seed
    )


if __name__ == "__main__":
    main()

"""Data that the studies make beside what `sdfl_jax.data` does.

python -m studies.data deal --photos=FOLDER --out=DIR      photographs in three splits
python -m studies.data join SHARDS... --out=DIR            several folders as one
python -m studies.data render --forged=DIR --out=DIR       whole images made anew

`render` takes authentic images that `sdfl_jax.data.forge` wrote and draws every other
one anew as a whole, so that no pixel is what the camera saw: made smaller and larger
again, smoothed along edges, or replaced by medians, which leave the spectra that
decoders of generative models leave. They have a label and no mask. All are saved alike.
"""

import argparse
import csv
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from sdfl_jax.data import records
from sdfl_jax.data.forge import photo_folder
from sdfl_jax.data.images import encode_png, read_image
from sdfl_jax.data.lists import SPLITS
from sdfl_jax.data.setup import setup
from sdfl_jax.errors import one_line
from sdfl_jax.files import new_folder, write_csv

COLUMNS = ("image", "mask", "edge", "label", "source", "group", "kind")


def deal(photos: str, out: str, size: int = 128) -> None:
    """Links to the photographs below `out`/train, val and test, scenes kept together.

    Sets that are forged from there with other seeds share no photograph between splits.
    """
    found, _ = photo_folder.find_photographs(photos, size=size, progress=False)
    sides = photo_folder.split_photographs(found, np.random.default_rng(0))
    with new_folder(out, made_by="train") as folder:
        for split, photographs in sides.items():
            for photo in photographs:
                name = photo.name.removeprefix(f"{split}/")
                place = folder / split / name
                place.parent.mkdir(parents=True, exist_ok=True)
                place.symlink_to(Path(photo.path).absolute())


def join(shards: Sequence[str], out: str) -> None:
    """A manifest of all `shards`, which stay where they are."""
    records.join([os.path.abspath(folder) for folder in shards], out)


def render(forged: str, out: str) -> None:
    """Lists and images of `forged`, every other one drawn anew, without masks."""
    with new_folder(out, made_by="paths_train.csv") as folder:
        for split in SPLITS:
            source = Path(forged) / f"paths_{split}.csv"
            with source.open(newline="") as file:
                rows = list(csv.DictReader(file))
            made = [_rendered(row, i, forged, folder) for i, row in enumerate(rows)]
            write_csv(folder / f"paths_{split}.csv", made, COLUMNS)


def _rendered(row: dict, number: int, forged: str, folder: Path) -> dict:
    image = read_image(Path(forged) / row["image"])
    name = Path(row["image"]).with_suffix(".png")
    label = number % 2
    kind = ""
    if label:
        rng = np.random.default_rng(number)
        kind = sorted(WAYS)[rng.integers(len(WAYS))]
        image = WAYS[kind](image, rng)
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(encode_png(image, level=3))
    return row | {
        "image": name.as_posix(),
        "mask": "None",
        "edge": "None",
        "label": label,
        "source": "rendered",
        "kind": kind,
    }


def _resampled(image, rng):
    """Made smaller, then larger again by another filter."""
    height, width = image.shape[:2]
    share = rng.uniform(0.5, 0.75)
    size = (round(width * share), round(height * share))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    way = int(rng.choice([cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_CUBIC]))
    return cv2.resize(small, (width, height), interpolation=way)


def _smoothed(image, rng):
    """Smoothed along edges, with a new grain over it."""
    flat = cv2.bilateralFilter(image, 7, float(rng.uniform(20, 50)), 3)
    grain = rng.normal(0, rng.uniform(1, 3), image.shape)
    return np.clip(np.rint(flat + grain), 0, 255).astype(np.uint8)


def _medians(image, rng):
    """Each pixel the median of its neighbourhood."""
    return cv2.medianBlur(image, int(rng.choice([3, 5])))


WAYS = {"resampled": _resampled, "smoothed": _smoothed, "medians": _medians}


def content(folder: str | os.PathLike) -> str:
    """A hash of the names and sizes of all files below `folder`."""
    digest = hashlib.sha256()
    for path in sorted(Path(folder).rglob("*")):
        if path.is_file():
            said = f"{path.relative_to(folder).as_posix()} {path.stat().st_size}\n"
            digest.update(said.encode(errors="surrogateescape"))
    return digest.hexdigest()


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="studies.data", description=__doc__)
    commands = parser.add_subparsers(required=True)
    add = lambda name, run: commands.add_parser(name).set_defaults(run=run)
    add("deal", lambda args: deal(args.photos, args.out))
    add("join", lambda args: join(args.shards, args.out))
    add("render", lambda args: render(args.forged, args.out))
    dealt, joined, rendered = commands.choices.values()
    dealt.add_argument("--photos", required=True)
    joined.add_argument("shards", nargs="+")
    rendered.add_argument("--forged", required=True)
    for command in commands.choices.values():
        command.add_argument("--out", required=True)
    args = parser.parse_args(argv)
    setup()
    args.run(args)


if __name__ == "__main__":
    main()

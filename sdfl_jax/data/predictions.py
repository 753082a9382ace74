"""Masks and scores that another program saved, matched to images by name."""

import csv
import dataclasses
import math
import os
import posixpath
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from sdfl_jax.data import ahead, images
from sdfl_jax.data.tiling import Batch, Tile
from sdfl_jax.errors import InputError
from sdfl_jax.files import plain_cell

SCORES = "scores.csv"


class Predictions:
    """A folder of PNG files, 255 for surely manipulated, and perhaps `scores.csv`.

    The map of `a/photo.jpg` is `a/photo.jpg.png` or `a/photo.png`; in a folder without
    subfolders also `photo.jpg.png` or `photo.png`. `scores.csv` has the columns `name`
    (or `image`; with or without its ending) and `score` in [0, 1]; without it an
    image's score is the largest value of its map. `InputError` for a folder without PNG
    files and a damaged `scores.csv`.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = os.fspath(folder)
        if not os.path.isdir(folder):
            raise InputError(f"--predictions={folder}: no such folder.")
        below = Path(folder).rglob("*")
        names = [p.relative_to(folder) for p in below if p.suffix.lower() == ".png"]
        self.files = {name.as_posix() for name in names}
        if not self.files:
            raise InputError(f"--predictions={folder}: holds no PNG file.")
        self._flat = not any("/" in name for name in self.files)
        scores = os.path.join(folder, SCORES)
        self.scores = _read_scores(scores) if os.path.exists(scores) else None

    def find(self, name: str) -> str | None:
        """The file, relative to the folder, of the image `name`; None without one."""
        return next((key for key in self._keys(name) if key in self.files), None)

    def read(self, file: str) -> np.ndarray:
        """The map of a file that `find` gave, uint8 H W."""
        return images.read_map(os.path.join(self.folder, file))

    def score(self, name: str, saved_map: np.ndarray) -> float | None:
        """The score of the image `name`; None if `scores.csv` lacks it."""
        if self.scores is None:
            return float(saved_map.max()) / 255
        keys = [name, posixpath.splitext(name)[0]]
        keys += [posixpath.basename(key) for key in keys] if self._flat else []
        return next((self.scores[key] for key in keys if key in self.scores), None)

    def _keys(self, name: str) -> list[str]:
        keys = [images.png_name(name), f"{name}.png", name]
        keys += [f"{posixpath.splitext(name)[0]}.png"]
        return keys + ([posixpath.basename(k) for k in keys] if self._flat else [])


def _read_scores(path: str) -> dict[str, float]:
    with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        rows = csv.DictReader(file)
        columns = [
            name for name in ("name", "image") if name in (rows.fieldnames or [])
        ]
        if not columns or "score" not in rows.fieldnames:
            raise InputError(f"{path}: no columns name and score in its first line.")
        scores = {}
        for row in rows:
            try:
                score = float(row["score"])
            except (TypeError, ValueError):
                score = math.nan
            if not 0 <= score <= 1:
                raise InputError(
                    f"{path}, line {rows.line_num}: score {row['score']!r}; a number "
                    "from 0 to 1 is expected."
                )
            scores[plain_cell(row[columns[0]])] = score
    return scores


@dataclasses.dataclass(frozen=True)
class Predicted:
    """A source's examples with `saved_map` uint8 h w and `score` of predictions.

    `file` is the prediction's folder and file. A map of another size than its image is
    stretched to it (bilinear) and marked by `map_resized`. An example without a
    prediction, or whose map cannot be read, is an item with an `error`.
    """

    source: object
    predictions: Predictions

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        example = self.source[index]
        if "error" in example:
            return example
        name = example["name"]
        file = self.predictions.find(name)
        if file is None:
            return {"name": name, "error": "no prediction", "missing": True}
        place = (self.predictions.folder, file)
        try:
            saved_map = self.predictions.read(file)
        except InputError as error:
            return {"name": name, "error": str(error), "file": place}
        score = self.predictions.score(name, saved_map)
        if score is None:
            error = f"no score in {SCORES}"
            return {"name": name, "error": error, "missing": True, "file": place}
        size = (example["height"], example["width"])
        resized = saved_map.shape != size
        if resized:
            saved_map = images.resize_map(saved_map, *size)
        return example | {
            "saved_map": saved_map,
            "score": score,
            "file": place,
            "map_resized": resized,
        }


def saved_batches(source: Predicted, workers: int = 0) -> Iterator[Batch]:
    """Every example once, one a batch, as `batches.eval_batches` delivers them.

    `arrays` holds what `saved_step` hands on as a network's answer. `InputError` where
    no example has a prediction.
    """
    found = False
    for example in ahead.in_order(_Numbered(source), len(source), workers):
        if "error" in example:
            yield Batch({"valid": np.zeros(0, bool)}, [], [example])
            unfit = example
            continue
        found = True
        probs = example.pop("saved_map").astype(np.float32) / 255
        score = np.array([example.pop("score")])
        box = (0, 0, *probs.shape)
        tile = Tile(example, example["index"], box, parts=1)
        arrays = {"mask_probs": probs[None], "score": score, "valid": np.ones(1, bool)}
        yield Batch(arrays, [tile], [])
    if not found and len(source):
        raise InputError(
            f"--predictions={source.predictions.folder}: fits none of {len(source)} "
            f"images; one is called {unfit['name']} ({unfit['error']}), and a file "
            f"there {min(source.predictions.files)}."
        )


def saved_step(state, arrays: dict) -> dict:
    """An `evaluate_step` whose network answered before."""
    none = {"mask_probs": np.zeros((0, 1, 1), np.float32), "score": np.zeros(0)}
    return none | arrays | {"loss": {}}


class _Numbered:
    """An item with its place in the source."""

    def __init__(self, source: Predicted):
        self._source = source

    def __call__(self, index: int) -> dict:
        return self._source[index] | {"index": index}

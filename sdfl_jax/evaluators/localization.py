"""How well predicted masks match the true ones, pixel by pixel and image by image."""

import collections
import dataclasses
import functools
import json
import os
import zipfile
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

import numpy as np

from sdfl_jax import metrics
from sdfl_jax.data import images
from sdfl_jax.data.pipeline import Assembler, Batch
from sdfl_jax.errors import InputError
from sdfl_jax.files import replacing

# What is known of an example beside its pixels, in the order of `per_image.csv`.
_KNOWN = ("name", "source", "group", "kind", "height", "width", "set", "index")
_ARRAYS = ("histograms", "centre_histograms", "label", "score", "has_mask")
_FILE = "evaluation.npz"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """All that is known of N examples after a network has seen them.

    Pixels are kept as histograms (`metrics.histogram`), 3 kB an image, from which
    every figure at every threshold follows. Figures are worked out when asked for.
    """

    known: list[dict]  # of each example: `_KNOWN`
    histograms: np.ndarray  # int32 (N 3 256)
    centre_histograms: np.ndarray  # likewise, of the centre prior on the same masks
    label: np.ndarray  # int (N,)
    score: np.ndarray  # float (N,)
    has_mask: np.ndarray  # bool (N,)
    loss: dict[str, float]  # means over batches, each weighted by its valid rows
    threshold: float = 0.5

    def save(self, folder: str | os.PathLike):
        """Writes `evaluation.npz`, from which every figure can be worked out again."""
        rest = {
            field.name: getattr(self, field.name)
            for field in dataclasses.fields(self)
            if field.name not in _ARRAYS
        }
        # JSON escapes what a file name may hold and UTF-8 may not.
        text = np.frombuffer(json.dumps(rest).encode(), np.uint8)
        with replacing(Path(folder) / _FILE) as beside, beside.open("wb") as file:
            arrays = {name: getattr(self, name) for name in _ARRAYS}
            np.savez_compressed(file, **arrays, rest=text)

    @classmethod
    def load(cls, folder: str | os.PathLike) -> "Evaluation":
        """Reads what `save` wrote; `InputError` where it is not there or damaged."""
        path = Path(folder) / _FILE
        if not path.exists():
            raise InputError(
                f"{folder}: holds no {_FILE}; give an output folder of evaluate."
            )
        try:
            with np.load(path) as file:
                arrays = {name: file[name] for name in _ARRAYS}
                return cls(**json.loads(file["rest"].tobytes()), **arrays)
        except (ValueError, KeyError, TypeError, OSError, zipfile.BadZipFile):
            raise InputError(
                f"{path}: damaged, or written by another version; evaluate again."
            ) from None

    @functools.cached_property
    def figures(self) -> dict[str, dict]:
        """`metrics.figures` of both protocols at `threshold`."""
        return self.at_threshold(self.threshold)

    @functools.cached_property
    def rows(self) -> list[dict]:
        """One dict per image, in the standard protocol at `threshold`."""
        columns = metrics.rows(
            self.histograms, self.label, self.score, self.has_mask, self.threshold
        )
        return [known | row for known, row in zip(self.known, columns, strict=True)]

    @functools.cached_property
    def pixel_threshold(self) -> float | None:
        """`metrics.best_pixel_threshold` here: for other data, it flatters this."""
        threshold, _ = metrics.best_pixel_threshold(
            self.histograms, self.label, self.has_mask
        )
        return threshold

    @functools.cached_property
    def image_threshold(self) -> float | None:
        """`metrics.best_image_threshold` here: for other data, it flatters this."""
        threshold, _ = metrics.best_image_threshold(self.label, self.score)
        return threshold

    def at_threshold(
        self, threshold: float, image_threshold: float | None = None
    ) -> dict[str, dict]:
        """`figures` with other thresholds: of maps, and of scores if given."""
        return metrics.figures(
            self.histograms,
            self.label,
            self.score,
            self.has_mask,
            threshold,
            self.threshold if image_threshold is None else image_threshold,
        )

    def baselines(self) -> dict[str, dict]:
        """`metrics.baselines` on the same masks."""
        return metrics.baselines(
            self.histograms, self.label, self.has_mask, self.centre_histograms
        )

    def of_kinds(self, kinds: Collection[str]) -> "Evaluation":
        """The manipulated images of these kinds beside all authentic images."""
        of_kind = np.array([known["kind"] in kinds for known in self.known], bool)
        kept = np.flatnonzero((self.label == 0) | of_kind)
        return dataclasses.replace(
            self,
            known=[self.known[i] for i in kept],
            loss={},
            **{name: getattr(self, name)[kept] for name in _ARRAYS},
        )

    def by_kind(self) -> dict[str, dict]:
        """Standard figures of each kind of manipulation, with `manipulated` images.

        Pixel figures average over the manipulated images of the kind; image figures
        set these against all authentic images.
        """
        kinds = {
            known["kind"]
            for known, label in zip(self.known, self.label, strict=True)
            if label == 1
        }
        result = {}
        for kind in sorted(kinds):
            part = self.of_kinds({kind})
            manipulated = int(np.count_nonzero(part.label == 1))
            result[kind] = {"manipulated": manipulated, **part.figures["standard"]}
        return result


class LocalizationEvaluator:
    """Scores one split, each example once and at its own size; padding is not counted.

    The same object serves validation within training and the standalone evaluation.

    Args:
      evaluate_step: `(state, arrays) -> {"mask_probs": B H W, "score": B, "loss":
        scalars over the valid rows}`; what it returns may lie on many devices.
      make_batches: returns a fresh iterator of `pipeline.Batch` over the split.
      threshold: from which a pixel, or an image, counts as manipulated.
      set_name: of the data set, for examples that do not say it themselves.
    """

    def __init__(
        self,
        evaluate_step: Callable[..., dict],
        make_batches: Callable[[], Iterable[Batch]],
        *,
        threshold: float = 0.5,
        set_name: str = "",
    ):
        self._evaluate_step = evaluate_step
        self._make_batches = make_batches
        self._threshold = threshold
        self._set_name = set_name

    def run(
        self, state, on_example: Callable[[dict, np.ndarray], None] | None = None
    ) -> Evaluation:
        """Scores `state` on every example of the split.

        `on_example(example, mask_probs)` is called for each finished example with its
        map, float32 h w; the example's image, if kept, has that size as well. Raises
        `InputError` where there are no examples, a mask does not fit its image or a
        prediction is NaN, `RuntimeError` where the stream delivers an example twice or
        in part.
        """
        tally = _Tally(self._set_name)
        assembler = Assembler()
        for batch, outputs in self._one_ahead(state):
            tally.begin(batch, outputs["loss"])
            finished = assembler.add(
                batch, np.asarray(outputs["mask_probs"]), np.asarray(outputs["score"])
            )
            for example, mask_probs, score in finished:
                tally.add(example, mask_probs, score)
                if on_example:
                    on_example(_at_original_size(example), mask_probs)
        return tally.evaluation(self._threshold)

    def _one_ahead(self, state):
        """Batches with their outputs; the next batch is computed meanwhile."""
        pending = None
        for batch in self._make_batches():
            outputs = self._evaluate_step(state, batch.arrays)
            if pending:
                yield pending
            pending = batch, outputs
        if pending:
            yield pending


def _at_original_size(example: dict) -> dict:
    """The image as large as its map; shards of resized images hold no other pixels."""
    if "image" not in example:
        return example
    size = example["original_mask"].shape[:2]
    return example | {"image": images.resize_image(example["image"], *size)}


class _Tally:
    """Collects what an `Evaluation` is made of, one example after the other."""

    def __init__(self, set_name: str):
        self._set_name = set_name
        self._examples = []
        self._tiles = collections.Counter()  # seen so far, by place in the source
        self._finished = set()
        self._loss = collections.Counter()
        self._rows = 0

    def begin(self, batch: Batch, loss: dict):
        for tile in batch.tiles:
            self._tiles[tile.index] += 1
            if self._tiles[tile.index] > tile.parts:
                raise RuntimeError(f"{tile.example['name']} was delivered twice.")
        valid_rows = int(np.count_nonzero(batch.arrays["valid"]))
        self._rows += valid_rows
        for name, value in loss.items():
            self._loss[name] += float(value) * valid_rows

    def add(self, example: dict, mask_probs: np.ndarray, score: float):
        name = example["name"]
        self._finished.add(example["index"])
        mask = example["original_mask"]
        height, width = mask_probs.shape
        try:
            histogram = metrics.histogram(mask, mask_probs)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        centre = metrics.histogram(mask, metrics.centre_prior(height, width))
        # Shards may be resized: the size is that of the map.
        known = {"set": self._set_name} | example | {"height": height, "width": width}
        self._examples.append(
            {
                "known": {key: known[key] for key in _KNOWN if key in known},
                "histograms": histogram,
                "centre_histograms": centre,
                "label": int(example["label"]),
                "score": float(score),
                "has_mask": bool(example["has_mask"]),
            }
        )

    def evaluation(self, threshold: float) -> Evaluation:
        missing = sorted(self._tiles.keys() - self._finished)
        if missing:
            raise RuntimeError(f"{len(missing)} examples did not end: {missing[:5]}.")
        if not self._examples:
            raise InputError("There are no examples to evaluate.")
        columns = {
            name: [example[name] for example in self._examples]
            for name in self._examples[0]
        }
        known = columns.pop("known")
        return Evaluation(
            known=known,
            loss={name: total / self._rows for name, total in self._loss.items()},
            threshold=threshold,
            **{name: np.asarray(column) for name, column in columns.items()},
        )

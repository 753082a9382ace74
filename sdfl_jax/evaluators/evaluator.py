"""How well predicted masks match the true ones, pixel by pixel and image by image."""

import collections
import concurrent.futures
import functools
import math
from collections.abc import Callable, Iterable

import numpy as np

from sdfl_jax import metrics
from sdfl_jax.data import images
from sdfl_jax.data.batches import one_ahead
from sdfl_jax.data.tiling import Assembler, Batch, maps_of, parted
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators.evaluation import KNOWN, Evaluation

_THREADS = 4  # that count pixels


class Evaluator:
    """Scores one split, each example once and at its own size; padding is not counted.

    The same object serves validation within training and the standalone evaluation.

    Args:
      evaluate_step: `(state, arrays) -> {"mask_probs": B H W, "score": B, "loss":
        scalars over the valid rows, or B}`; what it returns may lie on many devices.
      make_batches: returns a fresh iterator of `tiling.Batch` over the split.
      threshold: from which a pixel, or an image, counts as manipulated.
      set_name: of the data set, for examples that do not say it themselves.
      may_be_empty: this is one process's part of the split, to be merged with others.
    """

    def __init__(
        self,
        evaluate_step: Callable[..., dict],
        make_batches: Callable[[], Iterable[Batch]],
        *,
        threshold: float = 0.5,
        set_name: str = "",
        may_be_empty: bool = False,
    ):
        self._evaluate_step = evaluate_step
        self._make_batches = make_batches
        self._threshold = threshold
        self._set_name = set_name
        self._may_be_empty = may_be_empty

    def run(
        self, state, on_example: Callable[[dict, np.ndarray], None] | None = None
    ) -> Evaluation:
        """Scores `state` on every example of the split.

        `on_example(example, mask_probs)` is called for each finished example with its
        map, float32 h w; the example's image, if kept, has that size as well, and so
        has its `confidence_map`, None of a network without. The
        result lists examples by `index`, whatever the batches. Raises `InputError`
        where there are no examples, a mask does not fit its image or a prediction is
        NaN (with the image's name), `RuntimeError` where the stream delivers an example
        twice or in part.
        """
        tally = _Tally(self._set_name)
        assembler = Assembler()
        with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
            step = functools.partial(self._evaluate_step, state)
            for batch, outputs in one_ahead(self._make_batches(), step):
                tally.begin(batch, outputs["loss"])
                finished = assembler.add(
                    batch, maps_of(outputs), np.asarray(outputs["score"])
                )
                if assembler.lost:
                    raise InputError(assembler.lost[0]["error"])
                measured = threads.map(lambda one: _measured(*one), finished)
                for one, found in zip(finished, measured, strict=True):
                    example, maps, _ = one
                    mask_probs, confidence = parted(maps)
                    if confidence is not None:
                        example = example | {"confidence": float(confidence.mean())}
                    tally.add(example, found)
                    if on_example:
                        shown = _at_original_size(example)
                        on_example(shown | {"confidence_map": confidence}, mask_probs)
        result = tally.evaluation(self._threshold)
        if not result.known and not self._may_be_empty:
            raise InputError("There are no examples to evaluate.")
        return result


def _at_original_size(example: dict) -> dict:
    """The image as large as its map; shards of resized images hold no other pixels."""
    if "image" not in example:
        return example
    size = example["original_mask"].shape[:2]
    return example | {"image": images.resize_image(example["image"], *size)}


def _measured(example: dict, maps: np.ndarray, score: float) -> dict:
    """What is kept of an example: arrays of `Evaluation`, and the `size` of its map."""
    mask_probs, _ = parted(maps)
    name = example["name"]
    mask = example["original_mask"]
    height, width = mask_probs.shape
    try:
        histogram = metrics.histogram(mask, mask_probs)
        inner = metrics.inner_histogram(mask, mask_probs)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    return {
        "size": {"height": height, "width": width},
        "histograms": histogram,
        "inner_histograms": inner,
        "centre_histograms": metrics.histogram(
            mask, metrics.centre_prior(height, width)
        ),
        "label": int(example["label"]),
        "score": float(score),
        "has_mask": bool(example["has_mask"]),
    }


class _Tally:
    """Collects what an `Evaluation` is made of, one example after the other."""

    def __init__(self, set_name: str):
        self._set_name = set_name
        self._examples = []
        self._tiles = collections.Counter()  # seen so far, by place in the source
        self._finished = set()
        self._loss = collections.defaultdict(list)  # of every row
        self._rows = 0

    def begin(self, batch: Batch, loss: dict):
        for tile in batch.tiles:
            self._tiles[tile.index] += 1
            if self._tiles[tile.index] > tile.parts:
                raise RuntimeError(f"{tile.example['name']} was delivered twice.")
        valid = np.asarray(batch.arrays["valid"])
        self._rows += int(np.count_nonzero(valid))
        for name, value in loss.items():
            per_row = np.broadcast_to(np.asarray(value, np.float64), valid.shape)
            self._loss[name] += per_row[valid].tolist()

    def add(self, example: dict, found: dict):
        self._finished.add(example["index"])
        # Shards may be resized: the size is that of the map.
        known = {"set": self._set_name} | example | found.pop("size")
        known = {key: known[key] for key in KNOWN if key in known}
        self._examples.append({"known": known} | found)

    def evaluation(self, threshold: float) -> Evaluation:
        missing = sorted(self._tiles.keys() - self._finished)
        if missing:
            raise RuntimeError(f"{len(missing)} examples did not end: {missing[:5]}.")
        if not self._examples:
            return Evaluation.of_nothing(threshold)
        self._examples.sort(key=lambda example: example["known"]["index"])
        columns = {
            name: [example[name] for example in self._examples]
            for name in self._examples[0]
        }
        known = columns.pop("known")
        return Evaluation(
            known=known,
            # Exact sums, so that the order of batches makes no difference.
            loss={name: math.fsum(of) / self._rows for name, of in self._loss.items()},
            loss_rows=self._rows,
            threshold=threshold,
            **{name: np.asarray(column) for name, column in columns.items()},
        )

"""A trained network, loaded once, that answers for any images."""

import collections
import dataclasses
import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from sdfl_jax import metrics
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data import images, pipeline
from sdfl_jax.devices import compiled, sharding
from sdfl_jax.drawing.overlay import overlay
from sdfl_jax.errors import InputError
from sdfl_jax.steps import make_evaluate_step, mask_source

_IMAGE_LEVEL_MASK = "grad_cam"

VERDICTS = ("no manipulation found", "inconclusive", "manipulated")
CALIBRATION = "calibration.json"  # beside the checkpoints: `sdfl_jax.report calibrate`


def verdict(score: float, calibration: Mapping | None) -> str:
    """One of `VERDICTS`, from a score and the `band` of its network's calibration.

    From the band's upper end on an image is called manipulated, which the chosen share
    of authentic photographs reach; below its lower end nothing was found. A network
    without calibration, or a score that is no number, says nothing: "inconclusive".
    """
    if calibration is None or not math.isfinite(score):
        return "inconclusive"
    low, high = calibration["band"]
    if score >= high:
        return "manipulated"
    return "no manipulation found" if score < low else "inconclusive"


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the network says of one image.

    `image` uint8 H W 3; `mask_probs` float32 H W in [0, 1]; `score` in [0, 1], of the
    whole image; `verdict`: one of `VERDICTS`; `threshold`: the score that was best on
    the validation data, or 0.5; `pixel_threshold`: likewise of pixels; `mask_source`:
    "network", or what stands in for the masks of a network that gives none.
    """

    name: str
    image: np.ndarray
    mask_probs: np.ndarray
    score: float
    verdict: str
    threshold: float
    pixel_threshold: float
    mask_source: str

    @property
    def manipulated(self) -> bool:
        """Whether the score reaches the threshold."""
        return self.score >= self.threshold

    @property
    def mask(self) -> np.ndarray:
        """The pixels that reach theirs, bool H W."""
        return self.mask_probs >= self.pixel_threshold

    @property
    def area(self) -> float:
        """The share of pixels in `mask`."""
        return float(np.mean(self.mask))

    @property
    def grey(self) -> np.ndarray:
        """The probabilities as a grey picture, uint8 H W, 255 for 1."""
        return metrics.levels(self.mask_probs)

    @property
    def overlay(self) -> np.ndarray:
        """The image with its mask laid over it, uint8 H W 3."""
        return overlay(self.image, self.mask_probs)

    def figures(self) -> dict:
        """The numbers, rounded, as JSON takes them."""
        score = round(self.score, 4)
        return {
            "score": score,
            "manipulated": self.manipulated,
            "verdict": self.verdict,
            "classes": {"authentic": round(1 - score, 4), "manipulated": score},
            "manipulated_area": round(self.area, 4),
            "mask_source": self.mask_source,
        }


@dataclasses.dataclass(frozen=True)
class Unanswered:
    """An image that could not be read or answered, and why, in one line."""

    name: str
    error: str


class Predictor:
    """Answers with the network of a working directory, as evaluation would score it.

    Or with one that ships with the package, by its name: "starter".

    The masks of a network that gives none are its Grad-CAM. `image_threshold` is the
    score from which on an image is called manipulated, `pixel_threshold` that of a
    pixel; `calibration` what `sdfl_jax.report calibrate` made for the network, or None;
    `settings` its `image_size` and `geometry`; `sha256` that of its weights, by name.
    """

    def __init__(self, workdir: str | os.PathLike, checkpoint_name: str = "best"):
        compiled.keep()
        trained = checkpoint.load(workdir, checkpoint_name)
        self._mesh = sharding.data_mesh()
        self._step = make_evaluate_step(
            trained.model, self._mesh, image_level_mask=_IMAGE_LEVEL_MASK
        )
        self._variables = jax.device_put(
            trained.variables, sharding.everywhere(self._mesh)
        )
        self.settings = {
            "image_size": trained.config.image_size,
            "geometry": trained.config.data.geometry,
        }
        self.sha256 = _fingerprint(trained.variables)
        self.calibration = _calibration(workdir, trained.progress)
        self._mask_source = mask_source(trained.model, _IMAGE_LEVEL_MASK)
        self.pixel_threshold, self.image_threshold = trained.thresholds

    def predict(self, image: str | os.PathLike | np.ndarray | Sequence) -> Answer:
        """The answer for an image file, or for an array uint8 H W 3 (RGB).

        Raises `InputError` for a file that cannot be read, for another array and where
        the network gives no number.
        """
        example = _example(0, image)
        if isinstance(example, Unanswered):
            raise InputError(example.error)
        (answer,) = self._streamed([example], 1)
        if isinstance(answer, dict):
            raise InputError(answer["error"])
        return answer

    def predict_many(
        self,
        stream: Iterable[str | os.PathLike | np.ndarray],
        *,
        batch_size: int = 8,
    ) -> Iterator[Answer | Unanswered]:
        """An answer for each of a `stream` of files and arrays (uint8 H W 3, RGB).

        They are read as they are needed, a few batches ahead, so any number of them
        takes the same memory. `name` is the path, or the place of an array ("0", ...).
        Answers come in the order of the stream, as far as sizes allow, and `Unanswered`
        about where it belongs. Raises `InputError` for an array of another kind.
        """
        unread = collections.deque()

        def readable():
            for number, image in enumerate(stream):
                example = _example(number, image)
                if isinstance(example, Unanswered):
                    unread.append(example)
                else:
                    yield example

        for answer in self._streamed(readable(), batch_size):
            while unread:
                yield unread.popleft()
            yield Unanswered(**answer) if isinstance(answer, dict) else answer
        yield from unread

    def of_files(
        self,
        paths: Sequence[str | os.PathLike],
        *,
        root: str | os.PathLike | None = None,
        batch_size: int = 8,
        workers: int = 0,
    ) -> Iterator[Answer | dict]:
        """An `Answer` for each image, in the order given as far as sizes allow.

        What cannot be read, or gets an answer that is no number, is a dict of `name`
        and `error`, one line. Raises `InputError` where nothing can be read.
        """
        source = pipeline.FileSource(paths, root)
        batches = pipeline.eval_batches(
            source,
            batch_size=self._rows(min(batch_size, len(source))),
            workers=workers,
            keep_images=True,
            **self.settings,
        )
        return self._answers(batches)

    def of_images(
        self, named: Iterable[tuple[str, np.ndarray]], *, batch_size: int = 8
    ) -> Iterator[Answer | dict]:
        """An `Answer` for each name and image (uint8 H W 3) of a stream, in order.

        An answer that is no number is a dict of `name` and `error` instead, in its
        batch's place.
        """
        examples = (pipeline.unlabelled(name, image) for name, image in named)
        return self._streamed(examples, batch_size)

    def _streamed(
        self, examples: Iterable[dict], batch_size: int
    ) -> Iterator[Answer | dict]:
        batches = pipeline.stream_batches(
            examples, batch_size=self._rows(batch_size), **self.settings
        )
        return self._answers(batches)

    def _rows(self, count: int) -> int:
        """A power of two that fits the devices: few sizes, so few programs."""
        rows = 1 << max(0, count - 1).bit_length()
        return sharding.fitting_batch_size(rows, self._mesh)

    def of_source(
        self, source, *, batch_size: int = 8
    ) -> Iterator[tuple[dict, np.ndarray, float]]:
        """Each example of an evaluation's source with its mask's probabilities (float32
        H W) and its score; what cannot be read is left out."""
        batches = pipeline.eval_batches(
            source,
            batch_size=self._rows(min(batch_size, len(source))),
            keep_images=True,
            **self.settings,
        )
        for found in self._assembled(batches):
            if not isinstance(found, dict):
                yield found

    def _answers(self, batches: Iterable[pipeline.Batch]) -> Iterator[Answer | dict]:
        for found in self._assembled(batches):
            if isinstance(found, dict):
                yield found
                continue
            example, mask_probs, score = found
            yield Answer(
                name=example["name"],
                image=example["image"],
                mask_probs=mask_probs,
                score=score,
                verdict=verdict(score, self.calibration),
                threshold=self.image_threshold,
                pixel_threshold=self.pixel_threshold,
                mask_source=self._mask_source,
            )

    def _assembled(self, batches: Iterable[pipeline.Batch]) -> Iterator[tuple | dict]:
        assembler = pipeline.Assembler()
        step = lambda arrays: self._step(self._variables, {"image": arrays["image"]})
        for batch, outputs in pipeline.one_ahead(batches, step):
            for error in batch.errors:
                yield {"name": error["name"], "error": error["error"]}
            done = assembler.add(
                batch,
                np.asarray(outputs["mask_probs"]),
                np.asarray(outputs["score"]),
            )
            for lost in assembler.lost:
                yield {"name": lost["name"], "error": lost["error"]}
            assembler.lost.clear()
            for example, mask_probs, score in done:
                yield example, mask_probs, float(score)


def _fingerprint(variables) -> str:
    """The SHA-256 of all weights: names, types, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        leaf = np.asarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n"
        digest.update(name.encode() + leaf.tobytes())
    return digest.hexdigest()


def _calibration(workdir: str | os.PathLike, progress: Mapping) -> Mapping | None:
    """Of the model card, or of `WORKDIR/calibration.json`; None where neither has one.

    Raises InputError for a file that is none.
    """
    carried = (progress.get("card") or {}).get("calibration")
    path = Path(workdir) / CALIBRATION
    if carried or not path.exists():
        return carried or None
    try:
        found = json.loads(path.read_text())
        low, high = (float(end) for end in found["band"])
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: no calibration of `sdfl_jax.report calibrate`."
        ) from None
    if not 0 <= low <= high <= 1:
        raise InputError(f"{path}: a band of {low} to {high}, not within 0 to 1.")
    return found


def load(network: str | os.PathLike = "starter", checkpoint: str = "best") -> Predictor:
    """The network of a working directory, or one that ships with the package, by name.

    `checkpoint` is "best", "latest" or a step. Raises `InputError` where there is no
    such network or checkpoint.
    """
    return Predictor(os.fspath(network), checkpoint)


def _example(
    number: int, image: str | os.PathLike | np.ndarray | Sequence
) -> dict | Unanswered:
    """A file or an array as an example of nothing known."""
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        try:
            return pipeline.unlabelled(name, images.read_image(name))
        except InputError as error:
            return Unanswered(name, str(error))
    kind = getattr(image, "dtype", type(image).__name__)
    shape = getattr(image, "shape", ())
    if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise InputError(
            f"Image {number} is an array of {kind}, {shape}: a path, or uint8 of "
            "(height, width, 3), is expected."
        )
    return pipeline.unlabelled(str(number), np.asarray(image))

"""What a network says of images, whatever computes it. Imports no JAX."""

import collections
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from sdfl_jax import metrics
from sdfl_jax.data import batches as streams
from sdfl_jax.data import images, tiling
from sdfl_jax.drawing.overlay import overlay
from sdfl_jax.errors import InputError
from sdfl_jax.metrics.calibration import log10_ratio, verdict


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the network says of one image.

    `image` uint8 H W 3; `mask_probs` float32 H W in [0, 1]; `score` in [0, 1], of the
    whole image; `verdict`: one of `metrics.calibration.VERDICTS`; `log10_ratio`: of
    likelihoods, see there, None where the network was not calibrated so; `threshold`:
    the score from which a calibrated network says "manipulated", else the one that was
    best on the validation data, or 0.5; `pixel_threshold`: that of pixels, which was
    best there; `mask_source`: "network", or what stands in for the masks of a network
    that gives none; `confidence`: float32 H W, how far each pixel of the mask is to be
    believed, of networks that say it.
    """

    name: str
    image: np.ndarray
    mask_probs: np.ndarray
    score: float
    verdict: str
    log10_ratio: float | None
    threshold: float
    pixel_threshold: float
    mask_source: str
    confidence: np.ndarray | None = None

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
        return metrics.to_uint8(self.mask_probs)

    @property
    def overlay(self) -> np.ndarray:
        """The image with its mask laid over it, uint8 H W 3."""
        return overlay(self.image, self.mask_probs)

    def summary(self) -> dict:
        """The numbers, rounded, as JSON takes them."""
        score, ratio = round(self.score, 4), self.log10_ratio
        return {
            "score": score,
            "log10_likelihood_ratio": None if ratio is None else round(ratio, 2),
            "manipulated": self.manipulated,
            "verdict": self.verdict,
            "classes": {"authentic": round(1 - score, 4), "manipulated": score},
            "manipulated_area": round(self.area, 4),
            "mask_source": self.mask_source,
        } | self._confidence()

    def _confidence(self) -> dict:
        if self.confidence is None:
            return {}
        return {"mean_confidence": round(float(np.mean(self.confidence)), 4)}


@dataclasses.dataclass(frozen=True)
class Unanswered:
    """An image that could not be read or answered, and why, in one line."""

    name: str
    error: str


class Answering:
    """Answers for images with a network that the subclass computes.

    `image_threshold` is the score from which on an image is called manipulated,
    `pixel_threshold` that of a pixel; `calibration` what `sdfl_jax.report calibrate`
    made for the network, or None; `settings` its `image_size` and `geometry` (and
    `shapes`, where it knows only those); `canvas` says whether images of several sizes
    may share a program (`tiling.LADDER`); `sha256` is that of its weights, by name;
    `mask_source` says where masks come from.
    """

    settings: dict
    sha256: str
    calibration: Mapping | None
    mask_source: str
    pixel_threshold: float
    image_threshold: float
    canvas: bool = False
    _least = 1  # rows of a batch that cost no more than one alone would

    def _step(self, arrays: Mapping) -> Mapping:
        """`mask_probs` B H W and `score` B of `image` uint8 B H W 3, and what else the
        network reads, with `canvas` also `extent`; may return before done, and more
        rows than were given."""
        raise NotImplementedError

    def _rows(self, count: int) -> int:
        """How many rows a batch has where `count` are asked for."""
        raise NotImplementedError

    @property
    def batch_size(self) -> int:
        """Images that are worth a program together: one on a CPU."""
        raise NotImplementedError

    def shape_of_rows(self, size: tuple[int, int]) -> tuple[int, int]:
        """What an image of that height and width is computed as, in a stream."""
        if self.settings["geometry"] == "resize":
            return (self.settings["image_size"],) * 2
        shapes = self.settings.get("shapes", ())
        return tiling.shape_of_rows(size, shapes=shapes, canvas=self.canvas)

    @property
    def inputs(self) -> Sequence[str]:
        """What it reads of a file, see `data.batches.FileSource`."""
        return self.settings.get("inputs", ("rgb",))

    def predict(self, image: str | os.PathLike | np.ndarray | Sequence) -> Answer:
        """The answer for an image file, or for an array uint8 H W 3 (RGB).

        Raises `InputError` for a file that cannot be read, for another array and where
        the network gives no number.
        """
        example = _example(0, image, self.inputs)
        if isinstance(example, Unanswered):
            raise InputError(example.error)
        (answer,) = self._streamed([example], self._least, canvas=self.canvas)
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
                example = _example(number, image, self.inputs)
                if isinstance(example, Unanswered):
                    unread.append(example)
                else:
                    yield example

        for answer in self._streamed(readable(), batch_size, canvas=self.canvas):
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
        and `error`, one line. Raises `InputError` where nothing can be read. A network
        in JAX decodes in threads, or in `workers` processes; others one after another.
        """
        source = streams.FileSource(paths, root, self.inputs)
        return self._answers(self._batches(source, batch_size, workers))

    def _batches(
        self, source: streams.FileSource, batch_size: int, workers: int
    ) -> Iterator[tiling.Batch]:
        examples = (source[i] for i in range(len(source)))
        rows = min(batch_size, len(source))
        return self._stream_batches(examples, rows, canvas=self.canvas)

    def of_examples(
        self, examples: Iterable[dict], *, batch_size: int = 8
    ) -> Iterator[Answer | dict]:
        """`of_files` of examples as `data.batches.FileSource` gives them."""
        return self._streamed(examples, batch_size, canvas=self.canvas)

    def of_images(
        self,
        named: Iterable[tuple[str, np.ndarray]],
        *,
        batch_size: int = 8,
        one_size: bool = True,
    ) -> Iterator[Answer | dict]:
        """An `Answer` for each name and image (uint8 H W 3) of a stream, in order.

        `one_size`: they have one size, or few, and no canvas is wanted. An answer that
        is no number is a dict of `name` and `error` instead, in its batch's place.
        """
        examples = (streams.unlabelled(name, image) for name, image in named)
        canvas = self.canvas and not one_size
        return self._streamed(examples, batch_size, canvas=canvas)

    def _streamed(
        self, examples: Iterable[dict], batch_size: int, *, canvas: bool
    ) -> Iterator[Answer | dict]:
        return self._answers(self._stream_batches(examples, batch_size, canvas=canvas))

    def _stream_batches(
        self, examples: Iterable[dict], batch_size: int, *, canvas: bool
    ) -> Iterator[tiling.Batch]:
        return streams.stream_batches(
            examples, batch_size=self._rows(batch_size), canvas=canvas, **self.settings
        )

    def _answers(self, batches: Iterable[tiling.Batch]) -> Iterator[Answer | dict]:
        for found in self._assembled(batches):
            if isinstance(found, dict):
                yield found
                continue
            example, mask_probs, score, confidence = found
            yield Answer(
                name=example["name"],
                image=example["image"],
                mask_probs=mask_probs,
                score=score,
                verdict=verdict(score, self.calibration),
                log10_ratio=log10_ratio(score, self.calibration),
                threshold=self.image_threshold,
                pixel_threshold=self.pixel_threshold,
                mask_source=self.mask_source,
                confidence=confidence,
            )

    def _assembled(self, batches: Iterable[tiling.Batch]) -> Iterator[tuple | dict]:
        assembler = tiling.Assembler()
        for batch, outputs in streams.one_ahead(batches, self._step):
            for error in batch.errors:
                yield {"name": error["name"], "error": error["error"]}
            done = assembler.add(
                batch, tiling.maps_of(outputs), np.asarray(outputs["score"])
            )
            for lost in assembler.lost:
                yield {"name": lost["name"], "error": lost["error"]}
            assembler.lost.clear()
            for example, maps, score in done:
                mask_probs, confidence = tiling.parted(maps)
                yield example, mask_probs, float(score), confidence


def _example(
    number: int,
    image: str | os.PathLike | np.ndarray | Sequence,
    inputs: Sequence[str] = ("rgb",),
) -> dict | Unanswered:
    """A file or an array as an example of nothing known."""
    if isinstance(image, str | os.PathLike):
        name = os.fspath(image)
        try:
            example = streams.unlabelled(name, images.read_image(name))
            if "jpeg" in inputs:
                example["encoded"] = images.read_bytes(name)
            return example
        except InputError as error:
            return Unanswered(name, str(error))
    kind = getattr(image, "dtype", type(image).__name__)
    shape = getattr(image, "shape", ())
    if kind != np.uint8 or len(shape) != 3 or shape[2] != 3 or 0 in shape:
        raise InputError(
            f"Image {number} is an array of {kind}, {shape}: a path, or uint8 of "
            "(height, width, 3), is expected."
        )
    return streams.unlabelled(str(number), np.asarray(image))

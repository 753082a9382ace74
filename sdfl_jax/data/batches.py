"""Rows of examples, collected to batches of one shape. In NumPy, without grain."""

import concurrent.futures
import dataclasses
import itertools
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from sdfl_jax.data import ahead, coefficients, images, records, tiling
from sdfl_jax.data.planes import WARNINGS
from sdfl_jax.data.tiling import Batch
from sdfl_jax.errors import InputError

_PATIENCE = 8  # batches of rows that a row waits for others of its shape
# Of whose sizes canvases are chosen, evenly spaced, and the threads that read them.
_SIZES, _THREADS = 4096, 16


class FileSource:
    """Image files as a source of examples without masks, in the order given.

    `root`: what names are relative to; by default the folder that holds all of them.
    """

    def __init__(
        self,
        paths: Sequence[str | os.PathLike],
        root: str | os.PathLike | None = None,
        inputs: Sequence[str] = ("rgb",),
    ):
        self._inputs = inputs
        self._paths = [os.fspath(path) for path in paths]
        if root is None and self._paths:
            parents = {os.path.dirname(os.path.abspath(path)) for path in self._paths}
            root = os.path.commonpath(parents)
        self._root = root

    def __len__(self) -> int:
        return len(self._paths)

    def size(self, index: int) -> tuple[int, int]:
        """Height and width of an image, without decoding it where that can be."""
        return images.size_of(self._paths[index])

    def __getitem__(self, index: int) -> dict:
        path = self._paths[index]
        name = os.path.relpath(path, self._root).replace(os.sep, "/")
        try:
            image, notes = images.read_noted_image(path)
        except InputError as error:
            return {"name": name, "error": str(error)}
        example = unlabelled(name, image)
        if "jpeg" in self._inputs:
            example["encoded"] = images.read_bytes(path)
        for note in notes:
            print(f"Warning: {path}: {WARNINGS[note]}.", file=sys.stderr)
        return example


def unlabelled(name: str, image: np.ndarray) -> dict:
    """An image (uint8 H W 3) of which nothing is known, as an example."""
    height, width = image.shape[:2]
    mask = np.zeros((height, width, 1), np.uint8)
    return {
        "image": image,
        "mask": mask,
        "original_mask": mask[..., 0],
        "label": 0,
        "has_mask": False,
        "height": height,
        "width": width,
        "name": name,
        "source": "",
        "group": "",
        "kind": "",
    }


def eval_batches(
    source,
    *,
    batch_size: int,
    image_size: int,
    geometry: str,
    workers: int = 0,
    keep_images: bool = False,
    max_side: int = tiling.MAX_SIDE,
    overlap: int = tiling.OVERLAP,
    scoring: str = "original",
    inputs: Sequence[str] = ("rgb",),
    canvas: bool = False,
    again: tiling.SecondLook = tiling.ONCE,
) -> Iterator[Batch]:
    """Every example of `source` exactly once, in batches of `batch_size` rows.

    `source` is a shard folder, a `RecordSource` or anything indexed that gives examples
    (`FileSource`, `eval_sources`). With `geometry` "resize" a row is a whole image
    stretched to `image_size`; with `scoring` "network" it is scored at that size, mask
    and map alike, instead of the image's. With "crop" it is the image at native
    resolution, mirrored up to one of a few sides (`tiling.SIDES`), or one of several
    tiles where a side exceeds `max_side`, which overlap by `overlap` but never by more
    than half; `Assembler` joins them again.

    Batches hold one shape. To keep them full, rows wait for others of their shape, but
    never longer than eight batches of rows. `keep_images` leaves the image in the
    tile's example; `inputs` as for `pipeline.train_batches`. With `canvas` rows of
    several sizes share a few canvases, chosen by the sizes of the examples
    (`tiling.canvases`), and say what of it is theirs. With `again` a small image has a
    second row, of itself enlarged (`tiling.cut`).
    """
    if geometry not in records.GEOMETRIES:
        names = list(records.GEOMETRIES)
        raise InputError(f"No geometry {geometry!r}; there are {names}.")
    if max_side % tiling.STRIDE or max_side < tiling.STRIDE:
        raise InputError(
            f"Tiles of {max_side} pixels; a multiple of {tiling.STRIDE} is needed."
        )
    if isinstance(source, str | os.PathLike):
        records.fitting_manifest(source, image_size, geometry)
        source = records.RecordSource(source)
    rows = _Rows(
        source,
        {
            "image_size": image_size,
            "geometry": geometry,
            "max_side": max_side,
            "overlap": overlap,
            "scoring": scoring,
            "keep_image": keep_images,
            "again": again,
            "canvases": _canvases(source, max_side, overlap, again)
            if canvas and geometry == "crop"
            else (),
        },
        tuple(inputs),
    )
    return group(ahead.in_order(rows, len(source), workers), batch_size)


def _canvases(
    source, max_side: int, overlap: int, again: tiling.SecondLook
) -> list[tuple[int, int]]:
    """For the rows of all examples, by the sizes of some thousand of them.

    For any rows where the source does not know sizes.
    """
    every = -(-len(source) // _SIZES) or 1

    def sizes(index: int) -> list[tuple[int, int] | None]:
        try:
            return [source.size(index)]
        except records.UNREADABLE:  # told when its turn comes
            return []

    if not hasattr(source, "size"):
        return tiling.ladder(max_side)
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as threads:
        found = threads.map(sizes, range(0, len(source), every))
        found = list(itertools.chain.from_iterable(found))
    if None in found:
        return tiling.ladder(max_side)
    return tiling.canvases(found, max_side, overlap, every=every, again=again)


class _Rows:
    """An example's place in the source to its rows, or to the error of reading it."""

    def __init__(self, source, settings: dict, inputs: tuple[str, ...]):
        self._source = source
        self._settings = settings
        self._inputs = inputs

    def __call__(self, index: int) -> list[tiling.Row] | dict:
        example = self._source[index]
        if isinstance(example, bytes):
            example = records.decode(example)
        example["index"] = index
        return rows_of(example, self._inputs, self._settings)


def stream_batches(
    examples: Iterable[dict],
    *,
    batch_size: int,
    image_size: int,
    geometry: str,
    max_side: int = tiling.MAX_SIDE,
    overlap: int = tiling.OVERLAP,
    shapes: Sequence[tuple[int, int]] = (),
    inputs: Sequence[str] = ("rgb",),
    canvas: bool = False,
    again: tiling.SecondLook = tiling.ONCE,
) -> Iterator[Batch]:
    """`eval_batches` of examples that come one after the other, images kept.

    An example of `name` and `error` goes into a batch's `errors`. `shapes`, as heights
    and widths, are the only ones that rows have (`tiling.cut`). With `canvas` rows lie
    on one of `tiling.LADDER`.
    """
    settings = {
        "image_size": image_size,
        "geometry": geometry,
        "max_side": max_side,
        "overlap": overlap,
        "scoring": "original",
        "keep_image": True,
        "again": again,
        "shapes": shapes,
        "canvases": tiling.ladder(max_side) if canvas else (),
    }
    numbered = (example | {"index": i} for i, example in enumerate(examples))
    rows = (rows_of(example, inputs, settings) for example in numbered)
    return group(rows, batch_size)


def rows_of(example: dict, inputs: Sequence[str], settings: dict):
    """The rows of an example by `tiling.cut`, or the one that could not be read.

    `inputs`: "jpeg" adds the coefficients of its file.
    """
    if "error" in example:
        return example
    if "jpeg" in inputs:
        example = coefficients.add(example)
    return tiling.cut(example, **settings)


def one_ahead(
    batches: Iterable[Batch], step: Callable[[dict], dict]
) -> Iterator[tuple[Batch, dict]]:
    """Batches with what `step` makes of their arrays; the next is computed meanwhile.

    For a step that returns before it is done, as compiled ones do.
    """
    pending = None
    for batch in batches:
        outputs = step(batch.arrays)
        if pending:
            yield pending
        pending = batch, outputs
    if pending:
        yield pending


class NothingRead(InputError):
    """Not one file can be read; `examples` holds `name` and `error` of each."""

    def __init__(self, examples: list[dict]):
        first = examples[0]["error"]
        super().__init__(f"None of {len(examples)} files can be read; {first}")
        self.examples = examples


def group(examples: Iterator, batch_size: int) -> Iterator[Batch]:
    """Batches of one shape, of lists of rows; errors go with the batch that follows."""
    waiting = {}  # shape -> (number, row) of each row of this shape, in order
    errors, unread, number = [], [], 0
    ready = None  # one batch is held back, so that late errors find one to go with

    def due():
        """The shape to send now: a full one, or one whose first row waits too long."""
        for shape, rows in waiting.items():
            if len(rows) == batch_size or number - rows[0][0] > _PATIENCE * batch_size:
                return shape
        return None

    def send(shape):
        nonlocal ready, errors
        rows = [row for _, row in waiting.pop(shape)]
        before, ready = ready, tiling.stack(rows, batch_size, errors)
        errors = []
        return [] if before is None else [before]

    for example in examples:
        if isinstance(example, dict):
            errors.append(example)
            unread.append(example)
            continue
        for row in example:
            waiting.setdefault(row.image.shape, []).append((number, row))
            number += 1
            while (shape := due()) is not None:
                yield from send(shape)
    for shape in list(waiting):
        yield from send(shape)
    if ready is not None:
        yield dataclasses.replace(ready, errors=ready.errors + errors)
    elif unread:
        raise NothingRead(unread)

"""Images cut into tiles for evaluation, and the maps of tiles blended again."""

import collections
import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np

from sdfl_jax.data import coefficients, images
from sdfl_jax.data.parts import label_of_part, pad
from sdfl_jax.errors import InputError

MAX_SIDE = 1024  # of a tile, where nothing else is asked for
OVERLAP = 64  # of neighbouring tiles, likewise
STRIDE = 32  # the encoders' coarsest: what sides of tiles are multiples of

# Sides that "crop" pads to in evaluation: multiples of `STRIDE`. A network compiles
# once for each pair of them, so they are few.
SIDES = (64, 96, 128, 192, 256, 384, 512, 640, 768, 896, 1024)


# Canvases that rows of any size share where nobody knows which ones will come.
LADDER = tuple((side, side) for side in (256, 384, 512, 640, 768, 1024))
CANVASES = 6  # of a folder, at most
# A program more is worth that many pixels less: what networks compute meanwhile.
_PROGRAM_PIXELS = 2**24

# Pixels of the largest image that is looked at twice, see `cut`.
MOST_LOOKED_AT_TWICE = 2**18
_CERTAIN = 1e-6  # probabilities nearer to 0 or 1 count as that far from them


class SecondLook(NamedTuple):
    """How a small image is seen a second time: enlarged by `factor`, 0 for not at all.

    `bias` is added to the logit of such an image's score, so that one threshold fits
    images that were looked at once as well; `predict.ship` finds it.
    """

    factor: float = 0.0
    bias: float = 0.0

    def size(self, given: tuple[int, int], max_side: int) -> tuple[int, int] | None:
        """Height and width of an image of that size then; None where it is seen once:
        where it is not small, or would be larger than a tile."""
        if not self.factor or math.prod(given) > MOST_LOOKED_AT_TWICE:
            return None
        bigger = tuple(round(self.factor * length) for length in given)
        return bigger if max(bigger) <= max_side else None


ONCE = SecondLook()


def second_look(data) -> SecondLook:
    """That of `config.data`, a ConfigDict."""
    return SecondLook(data.get("enlarge", 0.0), data.get("enlarge_bias", 0.0))


@dataclasses.dataclass(frozen=True)
class Tile:
    """One row of a batch: the part `box` (top, left, height, width) of an example.

    `index` is the example's place in its source, `parts` how many tiles it has. Below
    and to the right of `box` the row is padding. `shown`: height and width that the box
    has in the row, where it is stretched. `overlap`: how far neighbours reach into each
    other. `looks`: how many rows show the whole image; 1 where tiles are its parts.
    `bias`: of a `SecondLook`, where there are two.
    """

    example: dict
    index: int
    box: tuple[int, int, int, int]
    parts: int
    shown: tuple[int, int] | None = None
    overlap: int = OVERLAP
    looks: int = 1
    bias: float = 0.0


@dataclasses.dataclass(frozen=True)
class Batch:
    """Rows of one shape: arrays, and the tile of each row up to the last valid one.

    `arrays` holds `image` uint8 B H W 3, `mask` uint8 B H W 1, `label` and `has_mask`
    float32 B, `valid` bool B, and what else the network reads; rows that are not valid
    repeat the first. Where rows are canvases, `extent` (int32 B 2) holds the height and
    width of each one's own part. `errors` are examples that could not be read: `name`,
    `index` and `error`.
    """

    arrays: dict[str, np.ndarray]
    tiles: list[Tile]
    errors: list[dict]


class Row(NamedTuple):
    """What one row of a batch is made of: planes H W C and the label of the part."""

    tile: Tile
    image: np.ndarray
    mask: np.ndarray
    label: int
    more: dict[str, np.ndarray] = {}  # other inputs, by name; `extent` on a canvas


def cut(
    example: dict,
    *,
    image_size: int,
    geometry: str,
    max_side: int,
    overlap: int,
    scoring: str,
    keep_image: bool,
    again: SecondLook = ONCE,
    shapes: Sequence[tuple[int, int]] = (),
    canvases: Sequence[tuple[int, int]] = (),
) -> list[Row]:
    """The rows of one example (`batches.eval_batches` says which).

    With `shapes` (heights and widths), "crop" knows rows of these alone: the smallest
    one that holds the image, or tiles of the largest. With `canvases` a row keeps its
    size and lies in the corner of the smallest one that holds it. The label of a whole
    image is its own; that of one tile of several follows its mask. Of an example with
    JPEG coefficients tiles begin on the grid of the blocks.

    With `again`, images of up to `MOST_LOOKED_AT_TWICE` pixels have a second row, of
    themselves enlarged (bicubic), unless that would take tiles.
    """
    whole, image, mask = example, example["image"], example["mask"]
    jpeg = "dct" in example
    dropped = ("mask", coefficients.ENCODED, *coefficients.PLANES)
    dropped += () if keep_image else ("image",)
    example = {name: value for name, value in example.items() if name not in dropped}
    size = (example["height"], example["width"])
    index, label = example["index"], example["label"]
    if geometry == "resize":
        coefficients.refuse_resizing(whole)
        image = images.resize_image(image, image_size, image_size)
        mask = images.resize_mask(mask, image_size, image_size)
        if scoring == "network":
            size = (image_size, image_size)
            example["original_mask"] = mask[..., 0]
        stretched = image.shape[:2]
        tile = Tile(example, index, box=(0, 0, *size), parts=1, shown=stretched)
        return [Row(tile, image, mask, label)]

    if image.shape[:2] != size:
        raise InputError(
            f"{example['name']}: stored resized, and geometry 'crop' needs native "
            "resolution; build with --storage=original."
        )
    tall, wide = _row(size, max_side, overlap, shapes)
    overlap = min(overlap, min(tall, wide) // 2 if shapes else max_side // 2)
    grid = coefficients.BLOCK if jpeg else 1
    tops = _starts(size[0], tall, overlap, grid)
    lefts = _starts(size[1], wide, overlap, grid)
    bigger = None if jpeg or shapes else again.size(size, max_side)
    looks = 2 if bigger else 1
    parts = len(tops) * len(lefts)
    rows = []
    for top, left in itertools.product(tops, lefts):
        window = np.s_[top : top + tall, left : left + wide]
        box = (top, left, *mask[window].shape[:2])
        part = label_of_part(example, mask[window]) if parts > 1 else label
        tile = Tile(
            example,
            index,
            box,
            parts * looks,
            overlap=overlap,
            looks=looks,
            bias=again.bias,
        )
        if jpeg:
            planes = coefficients.window(whole, top, left, tall, wide)
            row = Row(tile, planes.pop("image"), planes.pop("mask"), part, planes)
        else:
            planes = image[window], mask[window]
            row = _laid(tile, *planes, part, (tall, wide), canvases)
        rows.append(row)
    if bigger:
        tile = dataclasses.replace(rows[0].tile, shown=bigger)
        image = cv2.resize(image, bigger[::-1], interpolation=cv2.INTER_CUBIC)
        planes = image, images.resize_mask(mask, *bigger)
        side = _row(bigger, max_side, overlap)
        rows.append(_laid(tile, *planes, label, side, canvases))
    return rows


def _laid(tile: Tile, image, mask, label: int, size, canvases) -> Row:
    """Planes mirrored up to `size`, in the corner of a canvas where there are any."""
    canvas = _smallest(canvases, size) or size
    planes = (_placed(pad(plane, *size), canvas) for plane in (image, mask))
    more = {"extent": np.array(size, np.int32)} if canvases else {}
    return Row(tile, *planes, label, more)


def shape_of_rows(
    size: tuple[int, int],
    *,
    max_side: int = MAX_SIDE,
    shapes: Sequence[tuple[int, int]] = (),
    canvas: bool,
) -> tuple[int, int]:
    """Height and width that an image of that size has in a batch of a stream."""
    row = _row(size, max_side, OVERLAP, shapes)
    return _smallest(ladder(max_side), row) if canvas else row


def number_of_tiles(size: tuple[int, int], max_side: int, overlap: int) -> int:
    """How many tiles an image of that height and width is cut into."""
    overlap = min(overlap, max_side // 2)
    row = _row(size, max_side, overlap)
    return math.prod(
        len(_starts(length, side, overlap))
        for length, side in zip(size, row, strict=True)
    )


def _row(
    size: tuple[int, int],
    max_side: int,
    overlap: int,
    shapes: Sequence[tuple[int, int]] = (),
) -> tuple[int, int]:
    """Height and width of the rows that an image of that size is cut into."""
    if shapes:
        return _smallest(shapes, size) or max(shapes, key=math.prod)
    return tuple(_side(length, max_side, overlap) for length in size)


def _side(length: int, max_side: int, overlap: int) -> int:
    """The smallest side whose tiles are as few as those of `max_side`.

    What tiles of `max_side` would compute twice, or of padding, is up to half of a
    photograph of some megapixels.
    """
    if length > max_side:
        overlap = min(overlap, max_side // 2)
        fewest = len(_starts(length, max_side, overlap))
        fits = lambda side: (
            2 * overlap <= side and len(_starts(length, side, overlap)) == fewest
        )
    else:
        fits = lambda side: side >= length
    return min((s for s in SIDES if s <= max_side and fits(s)), default=max_side)


def _smallest(shapes, size: tuple[int, int]) -> tuple[int, int] | None:
    holding = [s for s in shapes if s[0] >= size[0] and s[1] >= size[1]]
    return min(holding, key=math.prod, default=None)


def _placed(plane: np.ndarray, canvas: tuple[int, int]) -> np.ndarray:
    """The plane in the upper left corner of a canvas."""
    if plane.shape[:2] == tuple(canvas):
        return plane
    whole = np.zeros((*canvas, plane.shape[2]), plane.dtype)
    whole[: plane.shape[0], : plane.shape[1]] = plane
    return whole


def ladder(max_side: int) -> list[tuple[int, int]]:
    """`LADDER`, as far as tiles of `max_side` reach."""
    below = [canvas for canvas in LADDER if canvas[0] < max_side]
    return [*below[: CANVASES - 1], (max_side, max_side)]


def canvases(
    sizes: Iterable[tuple[int, int]],
    max_side: int,
    overlap: int = OVERLAP,
    *,
    every: int = 1,
    again: SecondLook = ONCE,
) -> list[tuple[int, int]]:
    """At most `CANVASES` that hold the rows of images of these heights and widths.

    Two canvases become one that holds both as long as there are too many, or it adds
    fewer pixels than a program is worth; the cheapest pair first. Their order makes no
    difference. Empty where all rows have one size: these need no canvas.

    `every`: the sizes are of every n-th image alone. The largest canvas of `ladder` is
    there for what these do not foresee. `again` as for `cut`.
    """
    counts = collections.Counter()
    for size in sizes:
        bigger = again.size(size, max_side)
        looks = [size, bigger] if bigger else [size]
        counts.update(_row(look, max_side, overlap) for look in looks)
    others = ladder(max_side)[-1:] if every > 1 else []
    if len(counts) < 2 and not others:
        return []
    shapes = {shape: every * count for shape, count in sorted(counts.items())}
    most = CANVASES - len(others)
    while len(shapes) > 1:
        added, pair, union = min(map(_joining(shapes), _pairs(shapes)))
        if len(shapes) <= most and added > _PROGRAM_PIXELS:
            break
        joined = sum(shapes.pop(shape) for shape in pair)
        shapes[union] = shapes.get(union, 0) + joined
    return sorted({*shapes, *others})


def _pairs(shapes):
    return itertools.combinations(sorted(shapes), 2)


def _joining(shapes: dict[tuple[int, int], int]):
    """What one canvas for two adds in pixels; the two, and that one."""

    def joining(pair):
        union = tuple(map(max, *pair))
        pixels = [(math.prod(union) - math.prod(s)) * shapes[s] for s in pair]
        return sum(pixels), pair, union

    return joining


def _starts(length: int, side: int, overlap: int, grid: int = 1) -> list[int]:
    """Where tiles of that side start along an axis: at multiples of `grid`."""
    if length <= side:
        return [0]
    count = -(-(length - overlap) // (side - overlap))
    starts = np.linspace(0, length - side, count).astype(int)
    return (-(-starts // grid) * grid).tolist()


def stack(rows: list[Row], batch_size: int, errors: list[dict]) -> Batch:
    """A batch of `batch_size` rows, the first one repeated for those that lack."""
    filled = rows + rows[:1] * (batch_size - len(rows))
    has_mask = [row.tile.example["has_mask"] for row in filled]
    arrays = {
        "image": np.stack([row.image for row in filled]),
        "mask": np.stack([row.mask for row in filled]),
        "label": np.array([row.label for row in filled], np.float32),
        "has_mask": np.array(has_mask, np.float32),
        "valid": np.arange(batch_size) < len(rows),
    }
    for name in filled[0].more:
        arrays[name] = np.stack([row.more[name] for row in filled])
    return Batch(arrays, [row.tile for row in rows], errors)


def maps_of(outputs: Mapping) -> np.ndarray:
    """The maps of a network's answer, for `Assembler.add`: of the mask, B H W.

    B H W 2 where there is its confidence as well.
    """
    mask_probs = np.asarray(outputs["mask_probs"])
    if "confidence" not in outputs:
        return mask_probs
    return np.stack([mask_probs, np.asarray(outputs["confidence"])], axis=-1)


def parted(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """An assembled map as the mask's probabilities h w and their confidence, if any."""
    return (maps, None) if maps.ndim == 2 else (maps[..., 0], maps[..., 1])


class Assembler:
    """Joins the maps of tiles into maps of whole images, in the source's order.

    Every answer of a network comes through here. One with a NaN or an infinity is none:
    its example is not returned, but added to `lost` (`name` and `error`).
    """

    def __init__(self):
        self.lost: list[dict] = []
        self._lost = set()  # their indices
        self._open = {}  # index -> [tiles missing, score, weighted sum, weights]
        self._looks = collections.defaultdict(list)  # index -> maps and score of each
        self._done = {}  # index -> finished and waiting for its turn; None: unreadable
        self._next = 0

    def add(
        self, batch: Batch, mask_probs: np.ndarray, scores: np.ndarray
    ) -> list[tuple[dict, np.ndarray, float]]:
        """Takes a batch's `mask_probs` B H W, or several maps B H W K, and `scores` B.

        Returns the examples that are complete and next in order, each with its
        probabilities float32 h w at the original size and its score, the maximum over
        its tiles. Where tiles overlap, each counts the less the nearer its border is.
        Of an image that was looked at twice maps and score are those of the mean logit.
        """
        for example in batch.errors:
            self._done[example["index"]] = None
        for row, tile in enumerate(batch.tiles):
            probs = np.asarray(mask_probs[row], np.float32)
            score = float(scores[row])
            if tile.index in self._lost:
                continue
            if not (np.isfinite(score) and np.isfinite(probs).all()):
                self._lose(tile, score)
            elif tile.parts == tile.looks:
                self._look(tile, self._untile(tile, probs), score)
            else:
                self._blend(tile, probs, score)
        finished = []
        while self._next in self._done:
            one = self._done.pop(self._next)
            if one is not None:
                finished.append(one)
            self._next += 1
        return finished

    def _lose(self, tile: Tile, score: float):
        name = tile.example["name"]
        what = "map of probabilities" if np.isfinite(score) else "score"
        error = (
            f"{name}: the network's {what} holds values that are no numbers (NaN or "
            "infinity); the weights are damaged or their training diverged."
        )
        self.lost.append({"name": name, "index": tile.index, "error": error})
        self._lost.add(tile.index)
        self._open.pop(tile.index, None)
        self._looks.pop(tile.index, None)
        self._done[tile.index] = None

    def _untile(self, tile: Tile, probs: np.ndarray) -> np.ndarray:
        height, width = tile.box[2:]
        tall, wide = tile.shown or (height, width)
        probs = probs[:tall, :wide]
        if (tall, wide) != (height, width):
            return cv2.resize(probs, (width, height), interpolation=cv2.INTER_LINEAR)
        return probs.copy()  # a view would keep the whole batch alive

    def _look(self, tile: Tile, probs: np.ndarray, score: float):
        if tile.looks > 1:
            looks = self._looks[tile.index]
            looks.append((probs, score))
            if len(looks) < tile.looks:
                return
            del self._looks[tile.index]
            maps, scores = zip(*looks, strict=True)
            probs = _logistic(_mean_logit(maps)).astype(np.float32)
            score = float(_logistic(_mean_logit(scores) + tile.bias))
        self._done[tile.index] = (tile.example, probs, score)

    def _blend(self, tile: Tile, probs: np.ndarray, score: float):
        top, left, height, width = tile.box
        if tile.index not in self._open:
            size = (tile.example["height"], tile.example["width"], *probs.shape[2:])
            sums = np.zeros(size, np.float32), np.zeros(size, np.float32)
            self._open[tile.index] = [tile.parts, -np.inf, *sums]
        state = self._open[tile.index]
        weights = np.outer(_taper(height, tile.overlap), _taper(width, tile.overlap))
        weights = weights.reshape(height, width, *(1 for _ in probs.shape[2:]))
        window = np.s_[top : top + height, left : left + width]
        state[0] -= 1
        state[1] = max(state[1], score)
        state[2][window] += weights * probs[:height, :width]
        state[3][window] += weights
        if not state[0]:
            _, score, total, weight = self._open.pop(tile.index)
            self._done[tile.index] = (tile.example, total / weight, score)


def _mean_logit(probabilities: Sequence):
    certain = np.clip(np.asarray(probabilities), _CERTAIN, 1 - _CERTAIN)
    return (np.log(certain) - np.log1p(-certain)).mean(0)


def _logistic(logits):
    return 1 / (1 + np.exp(-logits))


def _taper(length: int, overlap: int) -> np.ndarray:
    """Weights along a tile: rising over the overlap, 1 inside, falling again."""
    rise = np.arange(1, length + 1, dtype=np.float32) / max(overlap, 1)
    return np.minimum(1, np.minimum(rise, rise[::-1]))

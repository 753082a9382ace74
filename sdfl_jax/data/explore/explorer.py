"""Measures the examples of a data set and writes charts and a page."""

import html
import io
import os
from collections import Counter, defaultdict
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import msgpack
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image
from tqdm import tqdm

from sdfl_jax import files
from sdfl_jax.data import images, records
from sdfl_jax.data.explore import plots
from sdfl_jax.data.lists import Entry, nothing_usable, read_list
from sdfl_jax.data.planes import read_planes
from sdfl_jax.data.workers import Workers, each
from sdfl_jax.drawing import figures, page
from sdfl_jax.drawing.overlay import thumbnail
from sdfl_jax.errors import InputError

PAGE = "index.html"


SAMPLE = 5000


GALLERY = 4  # manipulated images of a source; half as many authentic ones


THUMB = 160  # pixels


class Facts(NamedTuple):
    """Measurements of one image; `error` where it cannot be read."""

    source: str = ""
    label: int = 0
    name: str = ""
    height: int = 0
    width: int = 0
    format: str = ""
    quality: int | None = None
    area: float | None = None  # share of the image, of manipulated ones with a mask
    intensities: Float[np.ndarray, "3 256"] | None = None  # share of pixels by channel
    error: str = ""


# The luminance table of the JPEG standard (annex K), in rising order.
_STANDARD = np.sort(
    [16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55]
    + [14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62]
    + [18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92]
    + [49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99]
)


def _standard_tables() -> np.ndarray:
    """Sorted luminance table of each quality 1..100 as libjpeg scales it, 100 64."""
    quality = np.arange(1, 101)[:, None]
    scale = np.where(quality < 50, 5000 // quality, 200 - 2 * quality)
    return np.clip((_STANDARD * scale + 50) // 100, 1, 255)


_TABLES = _standard_tables()


def jpeg_quality(data: bytes) -> int | None:
    """Quality 1..100 of libjpeg whose luminance table is nearest; None if no JPEG.

    Tables that are not libjpeg's (cameras have their own) get the quality that is
    nearest to them in the mean difference of the values.
    """
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as picture:
            table = np.sort(picture.quantization[0])  # whatever order they come in
    except (OSError, KeyError, SyntaxError, ValueError):
        return None
    return int(np.abs(_TABLES - table).sum(axis=1).argmin()) + 1


def edge_of(mask: UInt8[np.ndarray, "H W"], width: int = 3) -> UInt8[np.ndarray, "H W"]:
    """The border of what is manipulated, 255 on `width` pixels to either side."""
    kernel = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
    region = (mask >= 128).astype(np.uint8) * 255
    # Beyond the frame lies no border.
    return cv2.morphologyEx(
        region, cv2.MORPH_GRADIENT, kernel, borderType=cv2.BORDER_REPLICATE
    )


class Example(NamedTuple):
    """One example as its list or record has it; `data` is None for raw pixels."""

    name: str
    source: str
    label: int
    kind: str
    data: bytes | None
    image: UInt8[np.ndarray, "H W 3"]
    mask: UInt8[np.ndarray, "h w"] | None  # None where it is unknown
    edge: UInt8[np.ndarray, "h w"] | None  # None where no file of it is listed
    height: int  # of the original
    width: int


class ListExamples:
    """The examples of a list of images."""

    def __init__(
        self,
        path: str,
        *,
        root: str | None = None,
        replace: Sequence[str] = (),
        mask_inverted: bool = False,
        mask_as_stored: bool = False,
    ):
        self._entries, self.rejected = read_list(path, root=root, replace=replace)
        self._masks = {
            "mask_inverted": mask_inverted,
            "mask_as_stored": mask_as_stored,
        }
        if not self._entries:
            raise nothing_usable(path, self._entries, self.rejected)
        self.counts = Counter((e.source, e.label) for e in self._entries)

    def load(self, index: int) -> Example:
        entry: Entry = self._entries[index]
        data, mask, edge = images.read_bytes(entry.image), None, None
        if entry.mask is not None:
            mask = images.read_bytes(entry.mask)
        try:
            image, mask, _ = read_planes(entry, data, mask, **self._masks)
        except InputError as error:
            raise InputError(f"{entry.image}: {error}") from None
        if mask is not None:
            mask = mask[..., 0]
        elif entry.label == 0 or entry.mask is not None:
            mask = np.zeros(image.shape[:2], np.uint8)
        # Lists in the wild name edges that do not exist; nothing else needs them.
        if entry.edge is not None and os.path.exists(entry.edge):
            edge = images.read_mask(entry.edge)[..., 0]
        known = (entry.name, entry.source, entry.label, entry.kind)
        return Example(*known, data, image, mask, edge, *image.shape[:2])


class ShardExamples:
    """The examples of a folder of shards."""

    rejected = ()

    def __init__(self, folder: str):
        self._records = records.RecordSource(folder)
        sources = records.load_manifest(folder)["sources"]
        self.counts = Counter(
            {
                (source, int(label)): number
                for source, labels in sources.items()
                for label, number in labels.items()
            }
        )

    def load(self, index: int) -> Example:
        record = self._records[index]
        stored = msgpack.unpackb(record, unicode_errors="surrogateescape")
        example = records.decode(record)
        mask = example["original_mask"] if example["has_mask"] else None
        known = (example[key] for key in ("name", "source", "label", "kind"))
        data = None if stored["image_size"] else stored["image"]
        size = (example["height"], example["width"])
        return Example(*known, data, example["image"], mask, None, *size)


def facts(examples, index: int) -> Facts:
    """Measures one example."""
    try:
        example = examples.load(index)
    except InputError as error:
        return Facts(error=str(error))
    area = None
    if example.mask is not None and example.label:
        area = float((example.mask >= 128).mean())
    return Facts(
        example.source,
        example.label,
        example.name,
        example.height,
        example.width,
        _format(example.data),
        None if example.data is None else jpeg_quality(example.data),
        area,
        _intensities(example.image),
    )


def _format(data: bytes | None) -> str:
    if data is None:
        return "raw pixels"
    with Image.open(io.BytesIO(data)) as picture:
        # The second is a JPEG with further pictures behind it.
        return "JPEG" if picture.format == "MPO" else picture.format


def _intensities(image) -> Float[np.ndarray, "3 256"]:
    counts = [np.bincount(image[..., c].ravel(), minlength=256) for c in range(3)]
    return np.stack(counts).astype(np.float32) / (image.shape[0] * image.shape[1])


def measure(
    examples, indices: Sequence[int], *, workers: Workers = 0, progress: bool = True
) -> list[Facts]:
    """`facts` of the examples at `indices`, in their order."""
    with tqdm(
        total=len(indices), desc="explore", unit="image", disable=not progress
    ) as bar:
        return list(
            each(
                partial(facts, examples),
                indices,
                lost=_no_facts,
                workers=workers,
                chunk=16,
                bar=bar,
            )
        )


def _no_facts(index: int, reason: str) -> Facts:
    return Facts(error=f"image {index}: {reason}")


def gallery(examples, found: dict[str, list[int]]) -> dict[str, list[dict]]:
    """Thumbnails by source: image, mask and edge (uint8) with name, label and kind."""
    shown = {}
    for source, indices in found.items():
        shown[source] = []
        for index in indices:
            example = examples.load(index)
            mask, edge = example.mask, example.edge
            if edge is None and mask is not None:
                edge = edge_of(mask, max(1, max(mask.shape) // 250))
            planes = {"image": example.image, "mask": mask, "edge": edge}
            shown[source].append(
                {
                    key: None if plane is None else thumbnail(plane, THUMB)
                    for key, plane in planes.items()
                }
                | {"name": example.name, "label": example.label, "kind": example.kind}
                | {"derived": example.edge is None}
            )
    return shown


def _choose(measured: Sequence[tuple[int, Facts]]) -> dict[str, list[int]]:
    """Indices to show of each source: the first readable ones of each class."""
    chosen = defaultdict(lambda: ([], []))
    for index, fact in measured:
        if not fact.error:
            several = chosen[fact.source][fact.label]
            if len(several) < (GALLERY if fact.label else GALLERY // 2):
                several.append(index)
    return {source: pair[1] + pair[0] for source, pair in sorted(chosen.items())}


def explore(
    examples,
    out: str | os.PathLike,
    *,
    title: str,
    sample: int = SAMPLE,
    workers: Workers = 0,
    progress: bool = True,
) -> Counter:
    """Writes the charts and the page to the folder `out`; images by source and label.

    `out` must be new, empty or an older result. `InputError` if no image can be read.
    """
    counts, total = examples.counts, examples.counts.total()
    rng = np.random.default_rng(0)  # the same sample each time
    indices = range(total)
    if total > sample:
        indices = np.sort(rng.choice(total, sample, replace=False)).tolist()
    with files.new_folder(out, made_by=PAGE) as folder:
        measured = measure(examples, indices, workers=workers, progress=progress)
        good = [fact for fact in measured if not fact.error]
        bad = [fact for fact in measured if fact.error]
        if not good:
            raise InputError(
                f"{title}: no image can be read; the first: {bad[0].error}"
            )
        drawn = {
            "classes.png": plots.classes(counts),
            "sizes.png": plots.sizes(good),
            "mask_area.png": plots.mask_area(good),
            "intensity.png": plots.intensity(good),
            "jpeg_quality.png": plots.jpeg_quality(good),
        }
        shown = gallery(examples, _choose(list(zip(indices, measured, strict=True))))
        for place, (source, rows) in enumerate(shown.items(), start=1):
            drawn[f"gallery_{place}.png"] = plots.gallery(source, rows)
        for name, figure in drawn.items():
            figures.save(figure, folder / name)
        text = _page(title, counts, good, bad, total, examples.rejected, folder, drawn)
        (folder / PAGE).write_text(text, encoding="utf-8", errors="backslashreplace")
    return counts


_HEADINGS = {
    "classes.png": "Classes and sources",
    "sizes.png": "Image sizes",
    "mask_area.png": "Manipulated area",
    "intensity.png": "Pixel intensity",
    "jpeg_quality.png": "JPEG quality",
}


def _page(title, counts, good, bad, total, rejected, folder: Path, drawn) -> str:
    said = f"{total:,} images; all but the first figure and table are of "
    drawn_evenly = total > len(good) + len(bad)
    said += f"{len(good):,} of them" + (", drawn evenly." if drawn_evenly else ".")
    parts = [f"<p>{said}</p>", _table(counts)]
    for what, number in (("line", len(rejected)), ("image", len(bad))):
        if number:
            plural = "" if number == 1 else "s"
            parts.append(f"<p>{number} {what}{plural} cannot be used:</p>")
            rows = rejected if what == "line" else bad
            lines = (
                f"line {row.line}: {row.reason}" if what == "line" else row.error
                for row in rows[:10]
            )
            items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
            more = "<li>...</li>" if number > 10 else ""
            parts.append(f'<ul class="faint">{items}{more}</ul>')
    parts.append(_formats(good))
    for name in drawn:
        if name in _HEADINGS:
            parts.append(f"<h2>{_HEADINGS[name]}</h2>")
        elif name == "gallery_1.png":
            parts.append("<h2>Gallery</h2>")
        alt = _HEADINGS.get(name, "Gallery")
        parts.append(page.picture(alt, (folder / name).read_bytes()))
    return page.page(title, parts)


def _table(counts: Counter) -> str:
    rows = []
    sources = sorted({source for source, _ in counts})
    for source in [*sources, None] if len(sources) > 1 else sources:
        numbers = [
            sum(n for (s, l), n in counts.items() if l == label and source in (s, None))
            for label in (0, 1)
        ]
        name = "all" if source is None else source or "(no source)"
        cells = zip(plots.CLASSES, numbers, strict=True)
        rows.append({"source": name, **dict(cells), "images": sum(numbers)})
    return page.table(rows, {key: key for key in ("source", *plots.CLASSES, "images")})


def _formats(good: Sequence[Facts]) -> str:
    kinds = Counter(fact.format for fact in good).most_common()
    said = ", ".join(f"{number:,} {html.escape(name)}" for name, number in kinds)
    return f"<p>Files: {said}.</p>"

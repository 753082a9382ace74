"""Explains every image of a source: maps, pictures, layers and means over classes."""

import collections
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import jax
import numpy as np
from tqdm import tqdm

from sdfl_jax import explain
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data import images, search
from sdfl_jax.data.batches import eval_batches
from sdfl_jax.data.tiling import Assembler, Batch
from sdfl_jax.devices import compiled, sharding
from sdfl_jax.drawing import figures
from sdfl_jax.errors import InputError, valid
from sdfl_jax.explain import METHODS, sheets
from sdfl_jax.files import write_csv
from sdfl_jax.models import blank_inputs, canvas, identity, inputs_of
from sdfl_jax.models.watch import shapes

COLUMNS = ("image", "label", "called", "explained", "score", "picture", "layers")


def run(
    trained: checkpoint.Trained,
    source,
    out: str | Path,
    *,
    labelled: bool,
    methods: Sequence[str] = METHODS,
    cam_layer: str | None = None,
    layers: Sequence[str] = (),
    steps: int = 32,
    batch_size: int = 4,
    max_side: int = 512,
) -> Iterator[dict]:
    """Explains every image of `source`, and draws the means over each class.

    Writes to `out`: `pictures/NAME.png` (all maps side by side), `METHOD/NAME.png`
    (each map in grey, at the image's size), `layers/NAME.png`, `mean_CLASS.png`,
    `mean_layers_CLASS.png` and `explain.csv`. Classes are the true ones where
    `labelled`, otherwise the predicted ones; it is that class's score which is
    explained. An image larger than `max_side` is explained tile by tile (each by its
    own class), and its layers are those of the tile with the highest score.

    Yields:
      `image`, `label` (the true class, if known), `called` and `explained` (classes),
      `score` and the files written; or `image` and `error`.
    """
    out, mesh = Path(out), sharding.data_mesh()
    for name in ("pictures", *methods, *(["layers"] if layers else [])):
        search.mark_output(out / name)
    model, config = trained.model, trained.config
    there = layer_shapes(trained) if layers or cam_layer is not None else {}
    _known_methods(methods)
    if layers == ["main"]:
        layers = explain.notable_layers(there)
    layers = explain.find_layers(there, layers)
    if cam_layer is not None:
        explain.find_layers(
            {n: s for n, s in there.items() if n != explain.IMAGE}, [cam_layer]
        )
    settings = (labelled, tuple(methods), cam_layer, tuple(layers), steps)
    name = identity(model)
    step = compiled.traced_once(
        jax.jit(
            _explanation(model, *settings),
            in_shardings=(sharding.everywhere(mesh), sharding.split(mesh)),
        ),
        name and repr(("explanation", name, settings)),
    )
    variables = jax.device_put(trained.variables, sharding.everywhere(mesh))
    batches = eval_batches(
        source,
        batch_size=sharding.fitting_batch_size(min(batch_size, len(source)), mesh),
        image_size=config.image_size,
        geometry=config.data.geometry,
        inputs=tuple(config.data.get("inputs", ("rgb",))),
        max_side=max_side,
        keep_images=True,
        canvas=canvas.fits(model),
    )
    joined, views = collections.defaultdict(Assembler), _Views(layers)
    means, layer_means = _Means(config.image_size), _Means(config.image_size)
    channels = {name: there[name][3] for name in layers}
    rows = []
    bar = tqdm(total=len(source), unit="image", dynamic_ncols=True, file=sys.stderr)
    for batch in batches:
        for error in batch.errors:
            bar.update()
            yield {"image": error["name"], "error": error["error"]}
        if not batch.tiles:
            continue
        given = ("image", "label", "extent")
        arrays = {n: batch.arrays[n] for n in given if n in batch.arrays}
        arrays |= inputs_of(batch.arrays)
        found = jax.device_get(step(variables, sharding.to_global(arrays, mesh)))
        score = _without_nan(found)
        views.add(batch, found)
        found = {n: x for n, x in found.items() if n not in ("score", "layers")}
        # The same batches go in, so the same examples come out, in the same order.
        done = [
            joined[name].add(batch, planes, score) for name, planes in found.items()
        ]
        for assembler in list(joined.values())[:1]:  # the others lost the same
            for lost in assembler.lost:
                bar.update()
                yield {"image": lost["name"], "error": lost["error"]}
            assembler.lost.clear()
        for several in zip(*done, strict=True):
            (example, _, score), *_ = several
            maps = dict(zip(found, (plane for _, plane, _ in several), strict=True))
            maps = {name: maps[name] for name in ("mask", *METHODS) if name in maps}
            called = figures.CLASSES[int(score >= 0.5)]
            line = {
                "image": example["name"],
                "label": figures.CLASSES[example["label"]] if labelled else None,
                "called": called,
                "explained": figures.CLASSES[example["label"]] if labelled else called,
                "score": round(float(score), 4),
            }
            line |= _write(out, example, maps, line)
            means.add(line["explained"], maps)
            if layers:
                seen = views.pop(example["index"])
                path = out / "layers" / images.png_name(example["name"])
                title = f"{example['name']}: maps of layers"
                figures.save(sheets.layer_sheet(title, seen, channels), path)
                line["layers"] = str(path)
                first = {name: view[..., 0] for name, view in seen.items()}
                layer_means.add(line["explained"], first)
            rows.append(line)
            bar.update()
            yield line
    bar.close()
    _write_means(out, means, layer_means, channels)
    write_csv(out / "explain.csv", rows, COLUMNS)


def _explanation(model, labelled, methods, cam_layer, layers, steps):
    """The function to compile: arrays to maps B H W, scores and maps of layers."""

    def step(variables, arrays):
        with canvas.of(arrays.get("extent"), arrays["image"].shape[1:3]):
            return explanation(variables, arrays)

    def explanation(variables, arrays):
        image = arrays["image"].astype(np.float32) / 255
        inputs = inputs_of(arrays)
        outputs = model.apply(variables, image, **inputs, train=False)
        label = arrays["label"].astype(np.int32)
        if not labelled:
            label = explain.predicted_class(outputs)
        given = (model, variables, image)
        found = {
            "score": outputs.image_score(),
            "layers": explain.look(*given, layers, inputs=inputs) if layers else {},
        }
        if "saliency" in methods:
            found["saliency"] = explain.saliency(*given, label, inputs=inputs)
        if "grad_cam" in methods:
            found["grad_cam"] = explain.grad_cam(
                *given, cam_layer, label, normalise=False, inputs=inputs
            )
        if "integrated_gradients" in methods:
            values = explain.integrated_gradients(
                *given, label, steps=steps, inputs=inputs
            )
            found["integrated_gradients"] = values.sum(axis=-1)
        if outputs.mask_logits is not None:
            found["mask"] = jax.nn.sigmoid(outputs.mask_logits[..., 0])
        return found

    return step


def _without_nan(found: dict) -> np.ndarray:
    """The scores, NaN where any map of the image holds values that are no numbers."""
    score = np.array(found["score"])
    for name, planes in found.items():
        if name not in ("score", "layers"):
            score[~np.isfinite(planes).all(axis=(1, 2))] = np.nan
    return score


def _write(out: Path, example: dict, maps: dict, line: dict) -> dict:
    name = images.png_name(example["name"])
    height, width = next(iter(maps.values())).shape
    image = images.resize_image(example["image"], height, width)
    panels = {"image": image}
    for method, plane in maps.items():
        if method != "mask":
            images.write_png(out / method / name, sheets.saved(method, plane))
        panels[method] = sheets.coloured(method, plane, image)
    notes = [f"score {line['score']:.3f}", f"called {line['called']}"]
    if line["label"]:
        notes.append(f"is {line['label']}")
    notes.append(f"explained: why {line['explained']}")
    figure = sheets.sheet(example["name"], panels, notes)
    figures.save(figure, out / "pictures" / name)
    return {"picture": str(out / "pictures" / name)}


class _Views:
    """Layers' maps of each image, of its tile with the highest score; h w n."""

    def __init__(self, layers: Sequence[str]):
        self._layers = layers
        self._best = {}  # index -> score, views

    def add(self, batch: Batch, found: dict):
        if not self._layers:
            return
        height, width = batch.arrays["image"].shape[1:3]
        for row, tile in enumerate(batch.tiles):
            score = float(found["score"][row])
            if score <= self._best.get(tile.index, (-1,))[0]:
                continue
            tall, wide = tile.shown or tile.box[2:]
            shares = tall / height, wide / width
            views = {
                name: _without_padding(found["layers"][name][row], shares)
                for name in self._layers
            }
            self._best[tile.index] = score, views

    def pop(self, index: int) -> dict[str, np.ndarray]:
        return self._best.pop(index)[1]


def _without_padding(view: np.ndarray, shares: tuple[float, float]) -> np.ndarray:
    height, width = (
        max(1, round(side * share))
        for side, share in zip(view.shape[:2], shares, strict=True)
    )
    return view[:height, :width].copy()


class _Means:
    """Means of maps over the images of each class, all brought to one size."""

    def __init__(self, side: int):
        self._side = side
        self._sums = collections.defaultdict(dict)
        self.counts = collections.Counter()

    def add(self, which: str, maps: dict[str, np.ndarray]):
        self.counts[which] += 1
        sums = self._sums[which]
        for name, plane in maps.items():
            side = (self._side, self._side)
            plane = plane.astype(np.float32)
            plane = cv2.resize(plane, side, interpolation=cv2.INTER_AREA)
            sums[name] = sums.get(name, 0) + plane.astype(np.float64)

    def of(self, which: str) -> dict[str, np.ndarray]:
        return {
            name: total / self.counts[which]
            for name, total in self._sums[which].items()
        }


def _write_means(out: Path, means: _Means, layer_means: _Means, channels: dict):
    for which, count in means.counts.items():
        notes = [f"{count} images, each stretched to one size"]
        title = f"Mean maps, {which}"
        panels = {
            name: sheets.coloured(name, plane, None)
            for name, plane in means.of(which).items()
        }
        figures.save(sheets.sheet(title, panels, notes), out / f"mean_{which}.png")
        views = {n: plane[..., None] for n, plane in layer_means.of(which).items()}
        if views:
            figure = sheets.layer_sheet(f"Mean of layers, {which}", views, channels)
            figures.save(figure, out / f"mean_layers_{which}.png")


def layer_shapes(trained: checkpoint.Trained) -> dict[str, tuple[int, int, int, int]]:
    """Every layer that can be shown, the image among them, and its map's shape."""
    inputs = blank_inputs(trained.model, trained.config.image_size)
    image = inputs.pop("image").shape
    found = shapes(trained.model, trained.variables, image, inputs)
    return {explain.IMAGE: image, **found}


def _known_methods(methods: Sequence[str]):
    for method in methods:
        if method not in METHODS:
            raise InputError(f"No method {method!r}; {valid(method, METHODS)}")

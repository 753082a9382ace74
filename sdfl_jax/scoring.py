"""How evaluation runs: who answers, what is noted of single examples, who writes."""

import collections
import concurrent.futures
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from sdfl_jax import checkpoint, metrics, processes, report, sharding
from sdfl_jax.data import degrade, images, pipeline, predictions, sources, tiling
from sdfl_jax.errors import InputError, valid
from sdfl_jax.evaluators import Evaluation, LocalizationEvaluator
from sdfl_jax.experiment import loss_settings
from sdfl_jax.files import new_folder
from sdfl_jax.steps import make_evaluate_step, mask_source

TTA = ("none", "flips")
SCORING = ("original", "network")
SHOWN_IMAGES = 12
_WRITERS = 4  # threads that encode maps
_WAITING = 64  # maps that may wait for them

# Options that ask a network something, which saved masks cannot answer.
_OF_NETWORKS = (
    "checkpoint",
    "tile",
    "overlap",
    "tta",
    "image_level_mask",
    "scoring",
    "robustness",
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What is scored, how, and where the output goes: the flags of the command line."""

    out: str
    # What is scored, and against what.
    workdir: str | None = None
    checkpoint: str = "best"
    predictions: str | None = None
    data: str | None = None
    paths_file: str | None = None
    root: str | None = None
    mask_inverted: bool = False
    # How a network sees an image.
    tile: int | None = None
    overlap: int | None = None  # `tiling.OVERLAP`, or half of a smaller tile
    tta: str = "none"
    image_level_mask: str = "grey"
    # How it is scored.
    scoring: str = "original"
    threshold: float = 0.5
    size_mismatch: str = "resize"
    empty_mask: str = "one"
    permute: bool = False
    videos: bool = False
    subsets: Sequence[str] = ()
    robustness: Sequence[str] = ()
    # How it runs.
    batch_size: int = 8
    workers: int = 0
    strict: bool = False

    def __post_init__(self):
        """Raises `InputError` for values that mean nothing or not together."""
        if not 0 < self.threshold < 1:
            raise InputError(f"--threshold={self.threshold}: must lie between 0 and 1.")
        for name, least in (("batch_size", 1), ("workers", 0), ("overlap", 0)):
            if (getattr(self, name) or 0) < least:
                raise InputError(
                    f"--{name}={getattr(self, name)}: {least} or more is expected."
                )
        if (self.workdir is None) == (self.predictions is None):
            raise InputError(
                "Give --workdir=DIR to score a network or --predictions=DIR to score "
                "saved masks: one of them."
            )
        if (self.data is None) == (self.paths_file is None):
            raise InputError("Give --data=SHARDS or --paths_file=FILE: one of them.")
        if self.tile is not None and (self.tile < 32 or self.tile % tiling.STRIDE):
            raise InputError(
                f"--tile={self.tile}: a multiple of {tiling.STRIDE} is expected."
            )
        if 2 * (self.overlap or 0) > (self.tile or tiling.MAX_SIDE):
            raise InputError(
                f"--overlap={self.overlap}: at most half a tile of "
                f"{self.tile or tiling.MAX_SIDE} pixels."
            )
        for kind in self.robustness:
            if kind not in degrade.LEVELS:
                raise InputError(
                    f"--robustness={kind}: no such degradation; "
                    f"{valid(kind, degrade.LEVELS)}"
                )
        if self.predictions is not None:
            changed = [
                f"--{field.name}"
                for field in dataclasses.fields(self)
                if field.name in _OF_NETWORKS
                and getattr(self, field.name) != field.default
            ]
            if changed:
                raise InputError(
                    f"{', '.join(changed)}: for a network (--workdir), not for saved "
                    "--predictions."
                )


class Network:
    """A trained network and how it is asked."""

    def __init__(self, trained: checkpoint.Trained, options: Options):
        config = trained.config
        mesh = sharding.local_mesh(sharding.data_mesh())
        progress = trained.progress
        self.card = progress.get("card")
        self.calibrated = None
        if progress.get("pixel_threshold") is not None:
            self.calibrated = (
                progress["pixel_threshold"],
                progress.get("image_threshold"),
            )
        self.step = make_evaluate_step(
            trained.model,
            mesh,
            flips=options.tta == "flips",
            # The same figures from any batch, which GPUs pay for with their speed.
            one_by_one=mesh.devices.flat[0].platform == "cpu",
            loss_per_image=True,
            image_level_mask=options.image_level_mask,
            **loss_settings(config),
        )
        self.variables = sharding.local_copy(trained.variables, mesh)
        geometry = "crop" if options.tile else config.data.geometry
        side = options.tile or tiling.MAX_SIDE
        overlap = options.overlap
        if overlap is None:
            overlap = min(tiling.OVERLAP, side // 2)
        self._settings = {
            "batch_size": sharding.fitting_batch_size(options.batch_size, mesh),
            "image_size": config.image_size,
            "geometry": geometry,
            "max_side": side,
            "overlap": overlap,
            "scoring": options.scoring,
            "workers": options.workers,
        }
        cut = geometry == "crop"
        self.setting = {
            "step": trained.step,
            "checkpoint": options.checkpoint,
            "scoring": options.scoring,
            "geometry": geometry,
            "tile": side if cut else None,
            "overlap": overlap if cut else None,
            "tta": options.tta,
            "mask_source": mask_source(trained.model, options.image_level_mask),
            "config": config.to_dict(),
        }

    def batches(self, source, set_name: str, keep_images: bool):
        return pipeline.eval_batches(source, keep_images=keep_images, **self._settings)

    def finish(self, evaluation: Evaluation, notes: dict[str, list]) -> dict:
        return notes


class Saved:
    """Maps and scores that another program saved."""

    variables = calibrated = card = None

    def __init__(self, options: Options, sets: Sequence[sources.DataSet]):
        root = Path(options.predictions)
        # As evaluation itself writes them: a folder for each of several sets.
        apart = len(sets) > 1 and all((root / part.name).is_dir() for part in sets)
        self._folders = {
            part.name: predictions.Predictions(root / part.name if apart else root)
            for part in sets
        }
        self._workers = options.workers
        self.step = predictions.saved_step
        scored = {folder.scores is not None for folder in self._folders.values()}
        sources_of_scores = {True: predictions.SCORES, False: "maximum of the map"}
        self.setting = {
            "predictions": options.predictions,
            "scoring": "original",
            "mask_source": "saved predictions",
            "score_source": ", ".join(sources_of_scores[given] for given in scored),
        }

    def batches(self, source, set_name: str, keep_images: bool):
        predicted = predictions.Predicted(source, self._folders[set_name])
        return predictions.saved_batches(predicted, self._workers)

    def finish(self, evaluation: Evaluation, notes: dict[str, list]) -> dict:
        """Checks what only the whole shows, and lists files that fit no image."""
        images_of = collections.defaultdict(set)
        for folder, file, name in notes.pop("files", ()):
            images_of[folder, file].add(name)
        for (_, file), names in images_of.items():
            if len(names) > 1:
                raise InputError(
                    f"--predictions: {file} fits {len(names)} images, "
                    f"{' and '.join(sorted(names)[:2])}; call it as the image, with "
                    ".png behind."
                )
        found = evaluation.histograms.sum(axis=(0, 1))
        if found[1] and not found[2:].any():
            raise InputError(
                "--predictions: no map holds a value above 1; write maps from 0 to 255."
            )
        there = {
            (predicted.folder, file)
            for predicted in self._folders.values()
            for file in predicted.files
        }
        extra = sorted(file for _, file in there - images_of.keys())
        return notes | {"extra_predictions": extra}


class Notes:
    """What is worth a line about single examples: names by what it is."""

    def __init__(self, data_set: str, options: Options):
        self._set = data_set
        self._options = options
        self.names = collections.defaultdict(list)

    def watch(self, batches: Iterable[pipeline.Batch]) -> Iterator[pipeline.Batch]:
        """Hands batches on; with `strict` an example without figures is an error."""
        seen = set()  # a tile is not an example
        for batch in batches:
            for example in batch.errors:
                self._unfit(example)
            for tile in batch.tiles:
                if tile.index not in seen:
                    self._fit(tile.example)
                if tile.parts > 1:
                    seen.add(tile.index)
            yield batch

    def _unfit(self, example: dict):
        if self._options.strict:
            raise InputError(f"{example['name']}: {example['error']}")
        missing = example.get("missing", False)
        self._add("missing_predictions" if missing else "skipped", example)
        if not missing:
            self.names["errors"].append(f"{example['name']}: {example['error']}")
        self._file(example)

    def _fit(self, example: dict):
        if example.get("mask_resized"):
            skip = self._options.size_mismatch == "skip"
            self._add("mismatched" if skip else "resized", example)
        if example.get("map_resized"):
            self._add("maps_resized", example)
        self._file(example)

    def _add(self, what: str, example: dict):
        self.names[what].append(example["name"])

    def _file(self, example: dict):
        if "file" in example:
            self.names["files"].append([*example["file"], example["name"]])


class Writer:
    """Encodes and writes maps beside the scoring, and keeps images for the report."""

    def __init__(self, folder: Path, sets: Sequence[sources.DataSet], threshold: float):
        self._folder = folder / "masks"
        self._apart = len(sets) > 1
        self._first = processes.is_first()
        total = sum(len(part.source) for part in sets)
        self._every = max(1, total // SHOWN_IMAGES)
        self._seen = 0
        self._bar = tqdm(
            total=-(-total // jax.process_count()),
            unit=" images",
            dynamic_ncols=True,
            disable=not self._first,
        )
        self._threads = concurrent.futures.ThreadPoolExecutor(_WRITERS)
        self._waiting = collections.deque()
        self.gallery = report.Gallery(threshold)
        self.pictures = []

    def add(self, data_set: str, example: dict, mask_probs: np.ndarray):
        path = self._folder / (data_set if self._apart else "")
        path /= images.png_name(example["name"])
        self._waiting.append(self._threads.submit(_write_map, path, mask_probs))
        if len(self._waiting) > _WAITING:
            self._waiting.popleft().result()
        if self._first and "image" in example:
            self._show(example | {"set": data_set}, mask_probs)
        self._bar.update()

    def _show(self, example, mask_probs):
        self.gallery.offer(example, mask_probs)
        if self._seen % self._every == 0 and len(self.pictures) < SHOWN_IMAGES:
            names = ("image", "name", "kind", "label", "has_mask")
            row = {name: example[name] for name in names}
            row |= {"mask": example["original_mask"], "mask_probs": mask_probs}
            self.pictures.append(row)
        self._seen += 1

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        self._bar.close()
        self._threads.shutdown(cancel_futures=error is not None)
        if error is None:
            while self._waiting:
                self._waiting.popleft().result()


def _write_map(path: Path, mask_probs: np.ndarray):
    images.write_map(path, metrics.levels(mask_probs))


def score(
    scorer, sets, options: Options, *, writer=None, change=None
) -> tuple[Evaluation, dict] | None:
    """All sets together, and what is to be noted; None on all processes but the first.

    `change` is applied to every example; `writer` gets every example and its map.
    """
    process, count = jax.process_index(), jax.process_count()
    parts, notes = [], collections.defaultdict(list)
    for data_set in sets:
        source = sources.Part(data_set.source, process, count)
        if len(source):
            found = Notes(data_set.name, options)
            prepared = sources.Prepared(source, options.size_mismatch, change)
            parts.append(
                _score_set(scorer, prepared, data_set.name, options, writer, found)
            )
            for what, names in found.names.items():
                notes[what] += names
    joined = _joined(parts, notes)
    if joined is None:
        return None
    whole = dataclasses.replace(
        joined,
        calibrated=scorer.calibrated,
        empty_mask=options.empty_mask,
        permute=options.permute,
    )
    return whole, notes


def _score_set(scorer, source, name: str, options, writer, notes) -> Evaluation:
    evaluator = LocalizationEvaluator(
        scorer.step,
        lambda: notes.watch(
            scorer.batches(source, name, keep_images=writer is not None)
        ),
        threshold=options.threshold,
        set_name=name,
        may_be_empty=jax.process_count() > 1,
    )
    on_example = None
    if writer:
        on_example = lambda example, probs: writer.add(name, example, probs)
    return evaluator.run(scorer.variables, on_example=on_example)


def _joined(parts: list[Evaluation], notes: dict) -> Evaluation | None:
    """What all processes found, on the first of them; None on the others.

    The first one's `notes` get those of all.
    """
    place = jax.process_index(), jax.process_count()
    parts = [part.in_whole(*place) for part in parts]
    everyones = processes.gather((parts, dict(notes)))
    if not processes.is_first():
        return None
    for _, others in everyones[1:]:
        for what, names in others.items():
            notes[what] += names
    return Evaluation.merge(part for parts, _ in everyones for part in parts)


@contextlib.contextmanager
def shared_folder(out: str) -> Iterator[Path]:
    """`new_folder`, made by the first process and filled by all of them."""
    with contextlib.ExitStack() as stack:
        folder, problem = None, None
        if processes.is_first():
            try:
                folder = stack.enter_context(new_folder(out, made_by="metrics.json"))
            except (InputError, OSError) as error:
                problem = error
        # The others wait for an answer, be it that there is no folder.
        folder, refused = processes.gather((folder, problem))[0]
        if refused:
            raise refused
        yield folder
        processes.gather("written")  # the first must not rename it before

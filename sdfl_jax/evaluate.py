"""Scores a network, or masks that any program saved, and says what it rests on.

python -m sdfl_jax.evaluate --workdir=DIR --data=NAME=SHARDS[,NAME=SHARDS] --out=DIR
python -m sdfl_jax.evaluate --workdir=DIR --paths_file=FILE --out=DIR
python -m sdfl_jax.evaluate --predictions=DIR --data=SHARDS --out=DIR
python -m sdfl_jax.evaluate --compare DIR_A DIR_B
"""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from sdfl_jax import __version__, checkpoint, evaluators, metrics, report, sharding
from sdfl_jax.data import degrade, images, pipeline, predictions, sources, tiling
from sdfl_jax.errors import InputError, one_line, valid
from sdfl_jax.evaluators import Evaluation, LocalizationEvaluator
from sdfl_jax.experiment import loss_settings
from sdfl_jax.files import new_folder, write_csv, write_json
from sdfl_jax.report import tables
from sdfl_jax.steps import IMAGE_LEVEL_MASKS, make_evaluate_step, mask_source

TTA = ("none", "flips")
SCORING = ("original", "network")
SHOWN_IMAGES = 12
_LISTED = 1000  # names of one kind in `metrics.json`
_WRITERS = 4  # threads that encode maps
_WAITING = 64  # maps that may wait for them


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


@one_line
def main(argv=None):
    """Reads the command line, writes the report, prints its table."""
    args = vars(_arguments().parse_args(argv))
    compared = args.pop("compare")
    if compared:
        print(compare(*compared))
        return
    if args["out"] is None:
        raise InputError("--out: the folder for the report is expected.")
    scores = evaluate(Options(**args))
    if scores is None:  # another process has the whole result
        return
    print(report.score_table(scores))
    for key, what in _REMARKS.items():
        if scores.get(key, {}).get("count"):
            first = scores[key]["names"][0].encode(errors="backslashreplace").decode()
            print(
                f"Warning: {what}: {scores[key]['count']}, such as {first}; "
                "metrics.json lists them.",
                file=sys.stderr,
            )
    print(f"\nReport: {Path(args['out']) / 'report.html'}")


_REMARKS = {
    "skipped": "images that could not be read and are in no figure",
    "resized": "masks of another size than their image, resized (nearest pixel)",
    "mismatched": "masks of another size than their image, left out of pixel figures",
    "maps_resized": "predictions of another size than their image, stretched",
    "missing_predictions": "images without a prediction, in no figure",
    "extra_predictions": "predictions of no image",
}


def compare(first: str, second: str) -> str:
    """A table of how two output folders differ on the same images, and by what chance.

    Raises `InputError` where they are none, or not of the same images and masks.
    """
    found = evaluators.compare(Evaluation.load(first), Evaluation.load(second))
    parts = [
        f"A: {first}\nB: {second}",
        f"{found['images']} images in {found['groups']} groups, {found['resamples']} "
        "resamples (paired bootstrap). The p-values are of single figures, not "
        "corrected for looking at many.",
    ]
    columns = {"figure": "", "first": "A", "second": "B", "difference": "B - A"}
    columns |= {"interval": "95 % interval", "p_value": "p"}
    for key, title in _COMPARED.items():
        if key in found:
            protocols = (
                found[key] if key == "validation_threshold" else {"": found[key]}
            )
            for protocol, figures in protocols.items():
                rows = [
                    {"figure": tables.heading(name)}
                    | entry
                    | {"interval": tables.interval(entry["interval"])}
                    for name, entry in figures.items()
                ]
                parts += [f"{title}{protocol}", report.table(rows, columns)]
    return "\n\n".join(parts)


_COMPARED = {
    "standard": "Standard protocol",
    "reference": "Reference protocol",
    "validation_threshold": "At each one's thresholds of the validation data: ",
}


def evaluate(options: Options) -> dict | None:
    """Scores every example once and writes the report, all of it or nothing.

    `options.out` gets `metrics.json` (what is returned), `per_image.csv`,
    `evaluation.npz` (from which all figures follow), `masks/` (with a folder for each
    of several data sets), `report.md`, `report.html`, `roc.png` and `pictures.png`.

    With several processes (`jax.distributed`) each scores every n-th example on its own
    devices; `options.out` must lie on a disk that all of them see. The first one
    writes the report, the others get None.

    Raises:
      InputError: no checkpoint, shards, list or predictions there; nothing that could
        be scored; an `out` that holds other files; with `strict`, an example that
        cannot be scored.
    """
    if options.data is not None:
        sets = sources.shard_sets(options.data)
    else:
        sets = sources.list_sets(
            options.paths_file, root=options.root, mask_inverted=options.mask_inverted
        )
    scorer = _Saved(options, sets) if options.predictions else _Network(options)
    with _shared_folder(options.out) as folder:
        writer = _Writer(folder, sets, options.threshold)
        with writer:
            result = _score(scorer, sets, options, folder, writer=writer)
        robustness = {
            kind: _robustness(kind, scorer, sets, options, folder)
            for kind in options.robustness
        }
        if result is None:
            return None
        evaluation, notes = result
        if not evaluation.known:
            raise InputError("There are no examples to evaluate.")
        notes = scorer.finish(evaluation, notes)
        scores = _scores(evaluation, sets, options, scorer)
        if robustness:
            scores["robustness"] = robustness
        scores |= {key: _listed(names) for key, names in notes.items() if names}
        write_json(folder / "metrics.json", scores)
        rows = evaluation.rows
        write_csv(folder / "per_image.csv", rows, list(rows[0]))
        evaluation.save(folder)
        report.write_report(folder, gallery=writer.gallery, workdir=options.workdir)
        report.roc_plot(evaluation.label, evaluation.score, folder / "roc.png")
        report.picture_sheet(
            writer.pictures,
            folder / "pictures.png",
            title=f"{', '.join(part.name for part in sets)}: {len(rows)} images, every "
            "n-th of them",
        )
    return scores


class _Network:
    """A trained network and how it is asked."""

    def __init__(self, options: Options):
        trained = checkpoint.load(options.workdir, options.checkpoint)
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


class _Saved:
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


class _Notes:
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


class _Writer:
    """Encodes and writes maps beside the scoring, and keeps images for the report."""

    def __init__(self, folder: Path, sets: Sequence[sources.DataSet], threshold: float):
        self._folder = folder / "masks"
        self._apart = len(sets) > 1
        self._first = jax.process_index() == 0
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
        # A thread of its own, which sees the examples in their order.
        self._guide = concurrent.futures.ThreadPoolExecutor(1)
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
        for pool in (self._threads, self._guide):
            pool.shutdown(cancel_futures=error is not None)
        if error is None:
            while self._waiting:
                self._waiting.popleft().result()


def _write_map(path: Path, mask_probs: np.ndarray):
    images.write_map(path, metrics.levels(mask_probs))


def _score(
    scorer, sets, options: Options, folder: Path, *, writer=None, change=None
) -> tuple[Evaluation, dict] | None:
    """All sets together, and what is to be noted; None on all processes but the first.

    `change` is applied to every example; `writer` gets every example and its map.
    """
    process, processes = jax.process_index(), jax.process_count()
    parts, notes = [], collections.defaultdict(list)
    for data_set in sets:
        source = sources.Part(data_set.source, process, processes)
        if len(source):
            found = _Notes(data_set.name, options)
            prepared = sources.Prepared(source, options.size_mismatch, change)
            parts.append(
                _score_set(scorer, prepared, data_set.name, options, writer, found)
            )
            for what, names in found.names.items():
                notes[what] += names
    joined = _joined(parts, notes, folder)
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


def _joined(parts: list[Evaluation], notes: dict, folder: Path) -> Evaluation | None:
    """What all processes found, on the first of them; None on the others.

    The first one's `notes` get those of all.
    """
    process, processes = jax.process_index(), jax.process_count()
    if processes == 1:
        return Evaluation.merge(parts)
    everyones = [folder / f".part-{number}" for number in range(processes)]
    for number, part in enumerate(parts):
        # Places count within this process's part of the data so far.
        known = [
            one | {"index": one["index"] * processes + process} for one in part.known
        ]
        mine = everyones[process] / str(number)
        mine.mkdir(parents=True)
        dataclasses.replace(part, known=known).save(mine)
    write_json(everyones[process] / "notes.json", notes)
    multihost_utils.sync_global_devices("scored")
    if process == 0:
        for other in everyones[1:]:
            for what, names in json.loads((other / "notes.json").read_text()).items():
                notes[what] += names
        saved = sorted(path.parent for path in folder.glob(".part-*/*/evaluation.npz"))
        whole = Evaluation.merge([Evaluation.load(path) for path in saved])
        for path in everyones:
            shutil.rmtree(path)
    multihost_utils.sync_global_devices("joined")
    return whole if process == 0 else None


@contextlib.contextmanager
def _shared_folder(out: str) -> Iterator[Path]:
    """`new_folder`, made by the first process and filled by all of them."""
    if jax.process_count() == 1:
        with new_folder(out, made_by="metrics.json") as folder:
            yield folder
        return
    with contextlib.ExitStack() as stack:
        name = ""
        if jax.process_index() == 0:
            try:
                name = str(stack.enter_context(new_folder(out, made_by="metrics.json")))
            except Exception:
                _from_first("")  # the others wait for an answer
                raise
        folder = _from_first(name)
        if not folder:
            raise InputError(f"--out={out}: the first process could not make it.")
        yield Path(folder)
        multihost_utils.sync_global_devices("written")


def _from_first(text: str) -> str:
    """The first process's `text`, on all of them."""
    letters = np.zeros(4096, np.uint8)
    encoded = np.frombuffer(text.encode(errors="surrogateescape"), np.uint8)
    letters[: len(encoded)] = encoded
    sent = np.asarray(multihost_utils.broadcast_one_to_all(letters))
    return sent.tobytes().rstrip(b"\0").decode(errors="surrogateescape")


def _robustness(kind: str, scorer, sets, options: Options, folder: Path) -> dict:
    """Standard figures at each level of a degradation, as lists beside `level`."""
    unit, levels = degrade.LEVELS[kind]
    curve = {"unit": unit, "level": list(levels)}
    for level in levels:
        change = degrade.Degradation(kind, level)
        found = _score(scorer, sets, options, folder, change=change)
        if found is not None:
            for name, value in found[0].figures["standard"].items():
                curve.setdefault(name, []).append(value)
    return curve


def _scores(evaluation: Evaluation, sets, options: Options, scorer) -> dict:
    """What `metrics.json` holds of the examples that were scored."""
    return {
        "setting": {
            "version": __version__,
            "data": ",".join(part.name for part in sets),
            "examples": len(evaluation.label),
            "threshold": options.threshold,
            "size_mismatch": options.size_mismatch,
            "empty_mask": options.empty_mask,
            "permute": options.permute,
            **scorer.setting,
        },
        "data": [
            {
                "name": part.name,
                "path": part.path,
                "examples": len(part.source),
                "manifest_sha256": part.sha256,
            }
            for part in sets
        ],
        "model_card": scorer.card,
        **evaluation.scores(subsets=options.subsets, videos=options.videos),
    }


def _listed(names: Sequence[str]) -> dict:
    """How many there are, and the names of the first."""
    return {"count": len(names), "names": list(names[:_LISTED])}


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.evaluate",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    words = lambda text: tuple(text.split(","))

    add = parser.add_argument_group("what is scored").add_argument
    add("--workdir", help="folder of a training run")
    add("--checkpoint", default="best", help="best, latest or a step")
    add("--predictions", help="folder of masks (PNG) and scores.csv, instead")
    add("--data", help="SHARDS, or NAME=SHARDS[,NAME=SHARDS]")
    add("--paths_file", help="a list of image files (see data/lists.py), likewise")
    add("--root", help="what the list's paths count from (default: its folder)")
    add(
        "--mask_inverted", action="store_true", help="the list's masks: 0 = manipulated"
    )
    add("--out", help="folder for the report")
    add(
        "--compare",
        nargs=2,
        metavar="DIR",
        help="test the difference between two such folders (paired bootstrap)",
    )

    add = parser.add_argument_group("how a network sees an image").add_argument
    add("--tile", type=int, help="at native resolution, in tiles of this side")
    help = f"of tiles, which are blended (default: {tiling.OVERLAP})"
    add("--overlap", type=int, help=help)
    add("--tta", choices=TTA, default="none", help="average over mirror images")
    add(
        "--image_level_mask",
        choices=tuple(IMAGE_LEVEL_MASKS),
        default="grey",
        help="baseline map of a network that makes none",
    )
    how = "change the images before the network sees them, at several levels"
    add(
        "--robustness",
        nargs="?",
        const=tuple(degrade.LEVELS),
        default=(),
        type=words,
        metavar="KIND,...",
        help=f"{how}: all, or some of {', '.join(degrade.LEVELS)}",
    )

    add = parser.add_argument_group("how it is scored").add_argument
    add("--scoring", choices=SCORING, default="original", help="resolution of scoring")
    add("--threshold", type=float, default=0.5, help="of map and score")
    add(
        "--size_mismatch",
        choices=sources.SIZE_MISMATCH,
        default="resize",
        help="masks of another size than the image",
    )
    add(
        "--empty_mask",
        choices=tuple(metrics.EMPTY_MASK),
        default="one",
        help="F1 and IoU where the true mask is empty, in figures over all images",
    )
    add("--permute", action="store_true", help="also F1 of the better of map, inverse")
    add("--videos", action="store_true", help="also figures by video, of its frames")
    add(
        "--subsets",
        type=words,
        default=(),
        help="unions of kinds to score on their own: splice+inpainting,...",
    )

    add = parser.add_argument_group("how it runs").add_argument
    add("--batch_size", type=int, default=8, help="over all devices")
    add("--workers", type=int, default=0, help="processes that decode")
    add("--strict", action="store_true", help="what cannot be scored is an error")
    return parser


if __name__ == "__main__":
    main()

"""How an evaluation runs: every example once, what is noted of it, the report."""

import collections
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence

import jax

from sdfl_jax import __version__, report
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data import degrade, eval_sources, pipeline
from sdfl_jax.devices import processes
from sdfl_jax.errors import InputError, valid
from sdfl_jax.evaluate.options import Options
from sdfl_jax.evaluate.scorers import Network, Saved
from sdfl_jax.evaluate.writer import Writer, shared_folder
from sdfl_jax.evaluators import Evaluation, Evaluator
from sdfl_jax.files import write_csv, write_json
from sdfl_jax.metrics.calibration import log10_ratio, verdict
from sdfl_jax.report import likelihood_ratios

_LISTED = 1000  # names of one kind in `metrics.json`


def evaluate(options: Options) -> dict | None:
    """Scores every example once and writes the report, all of it or nothing.

    `options.out` gets `metrics.json` (what is returned), `per_image.csv`,
    `evaluation.npz` (from which all metrics follow), `masks/` (with a folder for each
    of several data sets), `report.md`, `report.html`, `roc.png` and `pictures.png`.

    With several processes (`processes.join`) each scores every n-th example on its own
    devices; `options.out` must lie on a disk that all of them see. The first one
    writes the report, the others get None.

    Raises:
      InputError: no checkpoint, shards, list or predictions there; nothing that could
        be scored; an `out` that holds other files; with `strict`, an example that
        cannot be scored.
    """
    if options.data is not None:
        sets = eval_sources.shard_sets(options.data)
    else:
        sets = eval_sources.list_sets(
            options.paths_file,
            root=options.root,
            replace=options.replace,
            mask_inverted=options.mask_inverted,
            mask_as_stored=options.mask_as_stored,
        )
    _check_subsets(options.subsets, sets)
    if options.predictions is not None:
        scorer = Saved(options, sets)
    else:
        trained = checkpoint.load(options.workdir, options.checkpoint)
        scorer = Network(trained, options)
    with shared_folder(options.out) as folder:
        writer = Writer(folder, sets, options.threshold)
        with writer:
            result = score(scorer, sets, options, writer=writer)
        robustness = {
            kind: _robustness(kind, scorer, sets, options)
            for kind in options.robustness
        }
        if result is None:
            return None
        evaluation, notes = result
        if not evaluation.known:
            raise InputError("There are no examples to evaluate.")
        notes = scorer.finish(evaluation, notes)
        scores = _scores(evaluation, sets, options, scorer)
        if scorer.calibration:
            found = likelihood_ratios.measured(evaluation, scorer.calibration)
            scores["calibration"] = found
        if robustness:
            scores["robustness"] = robustness
        scores |= {key: _listed(names) for key, names in notes.items() if names}
        write_json(folder / "metrics.json", scores)
        rows = [_with_verdict(row, scorer.calibration) for row in evaluation.rows]
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


def _with_verdict(row: dict, known: Mapping | None) -> dict:
    if known is None:
        return row
    ratio = log10_ratio(row["score"], known)
    told = {"verdict": verdict(row["score"], known), "log10_likelihood_ratio": ratio}
    return row | told


def _check_subsets(subsets: Sequence[str], sets: Sequence[eval_sources.DataSet]):
    """Raises `InputError` for a kind that no example of the sets has."""
    kinds = {kind for part in sets for kind in eval_sources.kinds_of(part)}
    for kind in {kind for name in subsets for kind in name.split("+")}:
        if kind not in kinds:
            raise InputError(f"--subsets: no kind {kind!r}; {valid(kind, kinds)}")


def _robustness(kind: str, scorer, sets, options: Options) -> dict:
    """Standard metrics at each `strength` of a degradation, as lists beside it."""
    unit, strengths = degrade.STRENGTHS[kind]
    curve = {"unit": unit, "strength": list(strengths)}
    for strength in strengths:
        change = degrade.Degradation(kind, strength)
        found = score(scorer, sets, options, change=change)
        if found is not None:
            for name, value in found[0].by_protocol["standard"].items():
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


class Notes:
    """What is worth a line about single examples: names by what it is."""

    def __init__(self, data_set: str, options: Options):
        self._set = data_set
        self._options = options
        self.names = collections.defaultdict(list)

    def watch(self, batches: Iterable[pipeline.Batch]) -> Iterator[pipeline.Batch]:
        """Hands batches on; with `strict` an example without metrics is an error."""
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
        for warning in example["warnings"]:
            if warning != "mask_size":  # told by what was done about it
                self._add(warning, example)
        if example.get("map_resized"):
            self._add("maps_resized", example)
        self._file(example)

    def _add(self, what: str, example: dict):
        self.names[what].append(example["name"])

    def _file(self, example: dict):
        if "file" in example:
            self.names["files"].append([*example["file"], example["name"]])


def score(
    scorer, sets, options: Options, *, writer=None, change=None
) -> tuple[Evaluation, dict] | None:
    """All sets together, and what is to be noted; None on all processes but the first.

    `change` is applied to every example; `writer` gets every example and its map.
    """
    process, count = jax.process_index(), jax.process_count()
    parts, notes = [], collections.defaultdict(list)
    for data_set in sets:
        source = eval_sources.Prepared(data_set.source, options.size_mismatch, change)
        source = eval_sources.Part(source, process, count)
        if len(source):
            found = Notes(data_set.name, options)
            parts.append(
                _score_set(scorer, source, data_set.name, options, writer, found)
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
    evaluator = Evaluator(
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

"""How an evaluation runs: every example once, what is noted of it, the report."""

import collections
import contextlib
import dataclasses
import functools
import pickle
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import jax
from tqdm import tqdm

from sdfl_jax import __version__, report
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data import degrade, eval_sources
from sdfl_jax.data.batches import NothingRead
from sdfl_jax.data.tiling import Batch
from sdfl_jax.data.workers import Engine
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

_PART = 64  # examples of a task of an engine
_PART_SECONDS = 3600  # that may pass before the next of them is scored


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
    sets, scorer = _asked(options)
    with shared_folder(options.out) as folder:
        writer = Writer(
            folder,
            sets,
            options.threshold,
            *_place(),
            silent=isinstance(options.workers, Engine),
        )
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


def _asked(options: Options):
    """The data sets, and who answers."""
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
        return sets, Saved(options, sets)
    trained = checkpoint.load(options.workdir, options.checkpoint)
    return sets, Network(trained, options)


def _place() -> tuple[int, int]:
    return jax.process_index(), jax.process_count()


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

    def watch(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Hands batches on; with `strict` an example without metrics is an error."""
        seen = set()  # a tile is not an example
        for batch in batches:
            for example in batch.errors:
                self.unfit(example)
            for tile in batch.tiles:
                if tile.index not in seen:
                    self._fit(tile.example)
                if tile.parts > 1:
                    seen.add(tile.index)
            yield batch

    def unfit(self, example: dict):
        """Notes an example that cannot be scored."""
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
    if isinstance(options.workers, Engine):
        found = _spread(sets, options, writer, change)
    else:
        given, how = (scorer, sets, options, _place()), {"change": change}
        part = processes.together(lambda: score_part(*given, writer=writer, **how))
        found = processes.gather(part)
    if not processes.is_first():
        return None
    notes = collections.defaultdict(list)
    for _, noted in found:
        for what, names in noted.items():
            notes[what] += names
    whole = dataclasses.replace(
        Evaluation.merge(part for parts, _ in found for part in parts),
        calibrated=scorer.calibrated,
        empty_mask=options.empty_mask,
        permute=options.permute,
    )
    return whole, notes


def score_part(
    scorer, sets, options, place, *, writer=None, change=None, begin=None
) -> tuple[list[Evaluation], dict]:
    """Every n-th example of each set, `place` being the first and n; what is noted.

    `begin` is called with the place of each example that is scored.
    """
    parts, notes = [], collections.defaultdict(list)
    with writer or contextlib.nullcontext():
        for data_set in sets:
            source = data_set.source
            source = eval_sources.Prepared(source, options.size_mismatch, change)
            source = eval_sources.Part(source, *place)
            if len(source):
                found = Notes(data_set.name, options)
                part = _score_set(
                    scorer,
                    source,
                    data_set.name,
                    options,
                    writer=writer,
                    notes=found,
                    begin=begin,
                    may_be_empty=place[1] > 1,
                )
                parts.append(part.in_whole(*place))
                for what, names in found.names.items():
                    notes[what] += names
    return parts, dict(notes)


def _score_set(
    scorer, source, name, options, *, writer, notes, begin, may_be_empty
) -> Evaluation:
    def readable():
        try:
            yield from scorer.batches(source, name, keep_images=writer is not None)
        except NothingRead as nothing:
            if not may_be_empty:
                raise
            for example in nothing.examples:
                notes.unfit(example)

    evaluator = Evaluator(
        scorer.step,
        lambda: notes.watch(readable()),
        threshold=options.threshold,
        set_name=name,
        may_be_empty=may_be_empty,
    )

    def on_example(example, probs):
        if begin:
            begin(example["index"])
        if writer:
            writer.add(name, example, probs)

    watched = on_example if begin or writer else None
    return evaluator.run(scorer.variables, on_example=watched)


def _spread(sets, options: Options, writer, change) -> list:
    """What `score_part` finds in parts that an engine spreads over its machines."""
    examples = sum(len(data_set.source) for data_set in sets)
    count = -(-examples // _PART)
    alone = dataclasses.replace(options, workers=0)
    part = _Part(alone, writer and writer.folder, change)
    how = {"attempt": part.attempt, "seconds": _PART_SECONDS}
    found = []
    with tqdm(total=examples, unit=" images", dynamic_ncols=True) as bar:
        tasks = [(place, count) for place in range(count)]
        for place, (scored, shown) in options.workers.work(part, tasks, bar=bar, **how):
            found.append(scored)
            if writer and place == 0:
                writer.gallery, writer.pictures = shown
    return found


@dataclasses.dataclass(frozen=True)
class _Part:
    """A part of an evaluation, as an engine asks for it."""

    options: Options
    folder: Path | None
    change: degrade.Degradation | None

    def __call__(self, first: int, step: int, begin, rejected):
        for reason in rejected.values():
            raise InputError(f"Part {first + 1} of {step}: {reason}.")
        sets, scorer = _asked_before(pickle.dumps(self.options))
        given = (scorer, sets, self.options, (first, step))
        how = {"change": self.change, "begin": begin}
        if self.folder is None:
            return score_part(*given, **how), None
        threshold = self.options.threshold
        writer = Writer(self.folder, sets, threshold, first, step, silent=True)
        scored = score_part(*given, writer=writer, **how)
        return scored, (writer.gallery, writer.pictures)

    def attempt(self, first: int, step: int, index: int):
        """Nothing: what is read ahead cannot be told from what is scored."""


@functools.lru_cache(maxsize=1)
def _asked_before(options: bytes):
    """`_asked`, once in a process, which does one part after the other."""
    return _asked(pickle.loads(options))

"""Scores a network, or masks that any program saved, and says what it rests on.

python -m sdfl_jax.evaluate --workdir=DIR --data=NAME=SHARDS[,NAME=SHARDS] --out=DIR
python -m sdfl_jax.evaluate --workdir=DIR --paths_file=FILE --out=DIR
python -m sdfl_jax.evaluate --predictions=DIR --data=SHARDS --out=DIR
python -m sdfl_jax.evaluate --compare DIR_A DIR_B
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from sdfl_jax import (
    __version__,
    checkpoint,
    compiled,
    evaluators,
    metrics,
    processes,
    report,
    scoring,
)
from sdfl_jax.data import degrade, sources, tiling
from sdfl_jax.errors import InputError, one_line
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.files import write_csv, write_json
from sdfl_jax.report import tables
from sdfl_jax.scoring import Options
from sdfl_jax.steps import IMAGE_LEVEL_MASKS

_LISTED = 1000  # names of one kind in `metrics.json`


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
    compiled.keep()
    options = Options(**args)
    processes.join()
    scores = evaluate(options)
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

    With several processes (`processes.join`) each scores every n-th example on its own
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
    if options.predictions is not None:
        scorer = scoring.Saved(options, sets)
    else:
        trained = checkpoint.load(options.workdir, options.checkpoint)
        scorer = scoring.Network(trained, options)
    with scoring.shared_folder(options.out) as folder:
        writer = scoring.Writer(folder, sets, options.threshold)
        with writer:
            result = scoring.score(scorer, sets, options, writer=writer)
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


def _robustness(kind: str, scorer, sets, options: Options) -> dict:
    """Standard figures at each level of a degradation, as lists beside `level`."""
    unit, levels = degrade.LEVELS[kind]
    curve = {"unit": unit, "level": list(levels)}
    for level in levels:
        change = degrade.Degradation(kind, level)
        found = scoring.score(scorer, sets, options, change=change)
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
    add("--tta", choices=scoring.TTA, default="none", help="average over mirror images")
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
    add(
        "--scoring",
        choices=scoring.SCORING,
        default="original",
        help="resolution of scoring",
    )
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

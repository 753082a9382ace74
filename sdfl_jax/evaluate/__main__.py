"""Scores a network, or masks that any program saved, and says what it rests on.

python -m sdfl_jax.evaluate --workdir=DIR --data=NAME=SHARDS[,NAME=SHARDS] --out=DIR
python -m sdfl_jax.evaluate --workdir=DIR --paths_file=FILE --out=DIR
python -m sdfl_jax.evaluate --predictions=DIR --data=SHARDS --out=DIR
python -m sdfl_jax.evaluate --compare DIR_A DIR_B
"""

import argparse
import sys
from pathlib import Path

from sdfl_jax import evaluators, metrics, report
from sdfl_jax.data import degrade, eval_sources, tiling
from sdfl_jax.data.lists import add_list_arguments
from sdfl_jax.data.planes import WARNINGS
from sdfl_jax.data.setup import setup
from sdfl_jax.devices import compiled, processes
from sdfl_jax.errors import InputError, one_line
from sdfl_jax.evaluate import options
from sdfl_jax.evaluate.options import Options
from sdfl_jax.evaluate.scoring import evaluate
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.files import printable
from sdfl_jax.report import tables
from sdfl_jax.steps import IMAGE_LEVEL_MASKS


@one_line
def main(argv=None):
    """Reads the command line, writes the report, prints its table."""
    args = vars(_arguments().parse_args(argv))
    setup()
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
            first = printable(scores[key]["names"][0])
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
} | {name: what for name, what in WARNINGS.items() if name != "mask_size"}


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


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.evaluate",
        description=__doc__.splitlines()[0],
        allow_abbrev=False,
    )
    words = lambda text: tuple(text.split(","))

    group = parser.add_argument_group("what is scored")
    add = group.add_argument
    help = "folder of a training run, or a network of the package's (starter)"
    add("--workdir", "--network", help=help)
    add("--checkpoint", default="best", help="best, latest or a step")
    add("--predictions", help="folder of masks (PNG) and scores.csv, instead")
    add("--data", help="SHARDS, or NAME=SHARDS[,NAME=SHARDS]")
    add("--paths_file", help="a list of image files (see data/lists.py), likewise")
    add_list_arguments(group)
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
    add("--tta", choices=options.TTA, default="none", help="average over mirror images")
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
        choices=options.SCORING,
        default="original",
        help="resolution of scoring",
    )
    add("--threshold", type=float, default=0.5, help="of map and score")
    add(
        "--size_mismatch",
        choices=eval_sources.SIZE_MISMATCH,
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

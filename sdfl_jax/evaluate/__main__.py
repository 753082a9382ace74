"""Scores a network, or masks saved by any program, and writes a report.

python -m sdfl_jax.evaluate --workdir=DIR --data=NAME=SHARDS[,NAME=SHARDS] --out=DIR
python -m sdfl_jax.evaluate --workdir=DIR --paths_file=FILE --out=DIR
python -m sdfl_jax.evaluate --predictions=DIR --data=SHARDS --out=DIR
python -m sdfl_jax.evaluate --compare DIR_A DIR_B
"""

import argparse
import sys
from pathlib import Path

from sdfl_jax.data import engine
from sdfl_jax.data.lists import add_list_arguments
from sdfl_jax.errors import InputError, one_line
from sdfl_jax.files import printable


@one_line
def main(argv=None):
    """Reads the command line, writes the report, prints its table."""
    args = vars(engine.parse(_arguments(), argv))
    if "compare" not in args and "out" not in args:
        raise InputError("--out: the folder for the report is expected.")
    # Imported late: help and mistakes are told within a second.
    from sdfl_jax import report
    from sdfl_jax.data import degrade
    from sdfl_jax.data.planes import WARNINGS
    from sdfl_jax.data.setup import setup
    from sdfl_jax.devices import compiled, processes
    from sdfl_jax.evaluate.comparing import compare
    from sdfl_jax.evaluate.options import Options
    from sdfl_jax.evaluate.scoring import evaluate

    setup()
    if "compare" in args:
        print(compare(*args["compare"]))
        return
    if args.get("robustness") == ("all",):
        args["robustness"] = tuple(degrade.STRENGTHS)
    compiled.keep()
    options = Options(**args)
    processes.join()
    scores = evaluate(options)
    if scores is None:  # another process has the whole result
        return
    print(report.score_table(scores, options.protocol))
    remarks = _REMARKS | {
        name: what for name, what in WARNINGS.items() if name != "mask_size"
    }
    for key, what in remarks.items():
        if scores.get(key, {}).get("count"):
            first = printable(scores[key]["names"][0])
            print(
                f"Warning: {what}: {scores[key]['count']}, such as {first}; "
                "metrics.json lists them.",
                file=sys.stderr,
            )
    print(f"\nReport: {Path(args['out']) / 'report.html'}")


_REMARKS = {
    "skipped": "images that could not be read and are in no metric",
    "resized": "masks of another size than their image, resized (nearest pixel)",
    "mismatched": "masks of another size than their image, left out of pixel metrics",
    "maps_resized": "predictions of another size than their image, stretched",
    "missing_predictions": "images without a prediction, in no metric",
    "extra_predictions": "predictions of no image",
}


def _arguments() -> argparse.ArgumentParser:
    """What is not given is left out, for `Options` has the defaults and the checks."""
    parser = argparse.ArgumentParser(
        prog="sdfl evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
    )
    words = lambda text: tuple(text.split(","))

    group = parser.add_argument_group("what is scored")
    add = group.add_argument
    run = "working directory of a run, or the name of a network that ships (starter)"
    add("--workdir", "--network", help=run)
    add("--checkpoint", help="best (default), latest or a step number")
    add("--predictions", help="score these masks (PNG, and scores.csv) instead")
    add("--data", help="folder of shards, or NAME=SHARDS[,NAME=SHARDS]")
    add("--paths_file", help="or a list of image files (see data/lists.py)")
    add_list_arguments(group)
    add("--out", help="folder for the report")
    compared = (
        "test the difference between two reports (paired bootstrap), or between the "
        "repeated runs of two experiments: A1,A2,A3 B1,B2,B3"
    )
    add("--compare", nargs=2, metavar="DIR", help=compared)

    add = parser.add_argument_group("how a network sees an image").add_argument
    add("--tile", type=int, help="native resolution, in tiles of this many pixels")
    add(
        "--overlap", type=int, help="pixels that neighbouring tiles share (default: 64)"
    )
    add("--tta", help="test-time augmentation: none (default) or flips")
    baseline = (
        "map for image-level networks, which have none: grey (default) or grad_cam"
    )
    add("--image_level_mask", metavar="KIND", help=baseline)
    add(
        "--robustness",
        nargs="?",
        const=("all",),
        type=words,
        metavar="KIND,...",
        help="also score degraded images, at several strengths: all degradations, or "
        "some of them (jpeg,blur,...)",
    )

    add = parser.add_argument_group("how it is scored").add_argument
    add("--scoring", help="resolution to score at: original (default) or network")
    protocols = "protocol to print: standard (default), reference, benco, "
    add("--protocol", metavar="NAME", help=f"{protocols}trufor; reports hold all")
    add("--threshold", type=float, help="for pixels and image scores (default: 0.5)")
    sizes = "if mask and image differ in size: resize (default), skip or error"
    add("--size_mismatch", metavar="HOW", help=sizes)
    empty = "F1 and IoU of images with an empty mask, in metrics over all images"
    add("--empty_mask", metavar="VALUE", help=f"{empty}: one (default), zero or skip")
    add("--permute", action="store_true", help="also F1 of the map or its inverse")
    add("--videos", action="store_true", help="also video-level metrics")
    unions = "subsets to score separately, by kind: splice+inpainting,..."
    add("--subsets", type=words, help=unions)

    group = parser.add_argument_group("how it runs")
    engine.add_arguments(group, workers=0)
    add = group.add_argument
    add(
        "--batch_size", type=int, help="images at a time, over all devices (default: 8)"
    )
    add("--strict", action="store_true", help="stop at an image that cannot be scored")
    return parser


if __name__ == "__main__":
    main()

"""Explains the predictions of a network: attribution maps and feature maps.

python -m sdfl_jax.explain --workdir=DIR --out=DIR FILE|FOLDER...
python -m sdfl_jax.explain --workdir=DIR --out=DIR --data=SHARDS
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sdfl_jax.errors import InputError, one_line
from sdfl_jax.explain import METHODS


@one_line
def main(argv=None):
    """Reads the command line; one JSON line per image goes to standard output."""
    args = _arguments().parse_args(argv)
    # Imported late, as in `_source`: help and mistakes are told within a second.
    from sdfl_jax.checkpoints import checkpoint
    from sdfl_jax.data.setup import setup
    from sdfl_jax.devices import compiled
    from sdfl_jax.explain import explainer

    setup()
    compiled.keep()
    trained = checkpoint.load(args.workdir, args.checkpoint)
    if args.list_layers:
        for name, (_, *size) in explainer.layer_shapes(trained).items():
            print(f"{name}  {'x'.join(map(str, size))}")
        return
    if args.out is None:
        raise InputError("--out is missing: the folder for the pictures.")
    for name in ("batch_size", "steps", "max_side"):
        if getattr(args, name) < 1:
            raise InputError(f"--{name}={getattr(args, name)}: 1 or more is expected.")
    source, labelled = _source(args, trained.config.data.get("inputs", ("rgb",)))
    failed = 0
    lines = explainer.run(
        trained,
        source,
        args.out,
        labelled=labelled,
        methods=args.methods,
        cam_layer=args.cam_layer,
        layers=args.layers,
        steps=args.steps,
        batch_size=args.batch_size,
        max_side=args.max_side,
    )
    for line in lines:
        if "error" in line:
            failed += 1
            tqdm.write(f"Error: {line['error']}", file=sys.stderr)
        else:
            tqdm.write(json.dumps(line, allow_nan=False), file=sys.stdout)
    if failed:
        print(f"{failed} of the images have no explanation.", file=sys.stderr)
        sys.exit(1)


def _source(args, inputs: Sequence[str]) -> tuple[object, bool]:
    """Where the images come from, and whether their true classes are known."""
    from sdfl_jax.data import search
    from sdfl_jax.data.batches import FileSource
    from sdfl_jax.data.eval_sources import ListSource
    from sdfl_jax.data.records import RecordSource

    given = [bool(args.files), bool(args.data), bool(args.paths_file)]
    if sum(given) != 1:
        raise InputError(
            "Give files or folders, --data=SHARDS or --paths_file=LIST, one of them."
        )
    if args.files:
        kept = [Path(args.out, name) for name in ("pictures", "layers", *METHODS)]
        found = search.find(args.files, skip=kept)
        return FileSource(found, inputs=inputs), False
    if args.data:
        return RecordSource(args.data), True
    return ListSource(args.paths_file), True


def _arguments() -> argparse.ArgumentParser:
    names = lambda text: [name for name in text.split(",") if name]
    parser = argparse.ArgumentParser(
        prog="sdfl explain", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--workdir",
        "--network",
        required=True,
        help="working directory of a run, or a network that ships (starter)",
    )
    parser.add_argument("--out", help="folder for the pictures")
    parser.add_argument("files", nargs="*", help="images or folders")
    parser.add_argument("--data", help="or shards, which tell the true classes")
    parser.add_argument("--paths_file", help="or a list of images with labels")
    parser.add_argument(
        "--methods",
        type=names,
        default=list(METHODS),
        help=f"any of {','.join(METHODS)} (default: all)",
    )
    parser.add_argument(
        "--cam_layer", help="layer for Grad-CAM (default: the encoder's last stage)"
    )
    parser.add_argument(
        "--layers",
        type=names,
        default=[],
        help="draw the feature maps of these layers; main: those the study shows",
    )
    parser.add_argument(
        "--list_layers", action="store_true", help="print every layer's name and size"
    )
    parser.add_argument(
        "--steps", type=int, default=32, help="for integrated gradients"
    )
    parser.add_argument(
        "--checkpoint", default="best", help="best, latest or a step number"
    )
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument(
        "--max_side", type=int, default=512, help="tile larger images to this side"
    )
    return parser


if __name__ == "__main__":
    main()

"""Writes a network as a file or folder that runs without this package.

python -m sdfl_jax.export [--workdir=DIR] --format=onnx --out=FILE.onnx
python -m sdfl_jax.export [--network=NAME] --format=stablehlo --out=FILE.stablehlo
python -m sdfl_jax.export [--network=NAME] --format=web --out=FOLDER

Nothing is written that does not give the numbers of JAX, to 1e-4 of each output's
largest value, on random pixels and on photographs.
"""

import argparse
import re
from pathlib import Path

from sdfl_jax.errors import InputError, one_line

FORMATS = ("onnx", "stablehlo", "web")


@one_line
def main(argv=None):
    """Reads the command line; one line says what was written."""
    args = _arguments().parse_args(argv)
    if args.batch < 1:
        raise InputError(f"--batch={args.batch}: 1 or more is expected.")
    size = _size(args.image_size)
    out = Path(args.out)
    if args.format != "web" and out.is_dir():
        raise InputError(f"--out={out}: a folder; --format={args.format} is a file.")
    if args.format != "web" and args.onnxruntime_web:
        raise InputError("--onnxruntime_web is for --format=web.")
    if out.exists() and not args.force:
        raise InputError(f"--out={out}: is there already; --force replaces it.")
    # Imported late: help and mistakes are told within a second.
    from sdfl_jax.export import onnx, stablehlo, subject, web

    network = subject.read(
        args.workdir, args.checkpoint, image_size=size, batch=args.batch
    )
    if args.format == "web":
        told = web.write(out, network, onnxruntime_web=args.onnxruntime_web)
    else:
        told = {"onnx": onnx, "stablehlo": stablehlo}[args.format].write(out, network)
    _, height, width, _ = network.shape
    print(
        f"{out}: {network.about['network']} at {height}x{width}, "
        f"{told['bytes'] / 1e6:.1f} MB; differs from JAX by {told['difference']:.1e} "
        "at most."
    )


def _size(given: str | None) -> tuple[int, int] | None:
    if given is None:
        return None
    found = re.fullmatch(r"(\d+)(?:[,x](\d+))?", given)
    if not found or not all(int(n) for n in found.groups() if n):
        raise InputError(f"--image_size={given}: H,W in pixels is expected.")
    height = int(found[1])
    return height, int(found[2] or height)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdfl export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    run = "working directory of a run, or a network that ships (default: starter)"
    add("--workdir", "--network", default="starter", help=run)
    add("--checkpoint", default="best", help="best, latest or a step number")
    add("--format", choices=FORMATS, required=True)
    add("--out", required=True, help="file or folder to write")
    size = "H,W in pixels, multiples of 32 (default: as predict shows images to it)"
    add("--image_size", help=size)
    add("--batch", type=int, default=1, help="batch size of the exported network")
    package = "of --format=web: npm's package as tarball or folder (default: fetched)"
    add("--onnxruntime_web", metavar="PATH", help=package)
    add("--force", action="store_true", help="overwrite an existing file or folder")
    return parser


if __name__ == "__main__":
    main()

"""Marks manipulated pixels in images and videos: masks, overlays and scores.

python -m sdfl_jax.predict [--workdir=DIR] --out=DIR FILE|FOLDER|VIDEO...
python -m sdfl_jax.predict [--workdir=DIR] --serve
python -m sdfl_jax.predict --onnx=FILE --out=DIR FILE|FOLDER|VIDEO...

Without --workdir the network is `starter`, which ships with the package.
"""

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial

from tqdm import tqdm

from sdfl_jax.data import engine
from sdfl_jax.errors import InputError, one_line


@one_line
def main(argv=None):
    """Reads the command line; one JSON line per image goes to standard output."""
    args = engine.parse(_arguments(), argv)
    if args.serve:
        _serve(args)
        return
    if args.out is None or not args.files:
        raise InputError("Give --out=DIR and images, folders or videos; or --serve.")
    for name, least in (("batch_size", 1), ("every_frames", 1)):
        if getattr(args, name) < least:
            raise InputError(
                f"--{name}={getattr(args, name)}: {least} or more is expected."
            )
    if not args.every_seconds >= 0:
        raise InputError(f"--every_seconds={args.every_seconds}: 0 or more.")
    # Imported late: help and mistakes are told within a second.
    from sdfl_jax.data.setup import setup
    from sdfl_jax.devices import memory
    from sdfl_jax.predict.output_folder import predict

    setup()
    memory.keep_all()
    failed = 0
    for line in predict(
        _network(args),
        args.out,
        args.files,
        batch_size=args.batch_size,
        workers=args.workers,
        every_frames=args.every_frames,
        every_seconds=args.every_seconds,
    ):
        if "error" in line:
            failed += 1
            tqdm.write(f"Error: {line['error']}", file=sys.stderr)
        else:
            tqdm.write(json.dumps(line, allow_nan=False), file=sys.stdout)
            sys.stdout.flush()
    if failed:
        print(f"{failed} of the files have no answer.", file=sys.stderr)
        sys.exit(1)


@one_line
def serve(argv=None):
    """`main --serve`, with the options of the page alone."""
    parser = argparse.ArgumentParser(
        prog="sdfl serve",
        description="Serves a page that marks manipulated pixels in photographs.",
    )
    _add_network(parser)
    _add_page(parser)
    _serve(parser.parse_args(argv))


def _serve(args):
    from sdfl_jax.data.setup import setup
    from sdfl_jax.predict.serve import run

    setup()
    run(
        _network(args),
        host=args.host,
        port=args.port,
        max_upload_mb=args.max_upload_mb,
    )


def _network(args) -> Callable:
    """What loads the network asked for; JAX is imported where it needs JAX."""
    if args.onnx:
        if args.workdir or args.checkpoint:
            raise InputError(f"--onnx={args.onnx[0]}: no --workdir or --checkpoint.")
        if getattr(args, "workers", 0) and isinstance(args.workers, int):
            raise InputError("--workers: --onnx decodes images as it computes.")
    return partial(_load, args.onnx, args.workdir, args.checkpoint)


def _load(onnx: list[str] | None, workdir: str | None, checkpoint: str | None):
    if onnx:
        from sdfl_jax.predict.exported import Exported

        return Exported(onnx)
    from sdfl_jax.predict.predictor import Predictor

    return Predictor(workdir or "starter", checkpoint or "best")


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdfl predict",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_network(parser)
    add = parser.add_argument
    add("--out", help="folder for masks and overlays")
    add("files", nargs="*", help="images, videos, or folders of them")
    add("--batch_size", type=int, default=8)
    engine.add_arguments(parser, workers=0)
    add("--every_frames", type=int, default=1, help="videos: take each n-th frame")
    seconds = "videos: take one frame in this many"
    add("--every_seconds", type=float, default=0, help=seconds)
    page = "serve a page to drop photographs on instead"
    add("--serve", action="store_true", help=page)
    _add_page(parser)
    return parser


def _add_network(parser: argparse.ArgumentParser):
    run = "working directory of a run, or a network that ships (default: starter)"
    parser.add_argument("--workdir", "--network", help=run)
    parser.add_argument("--checkpoint", help="best (default), latest or a step number")
    onnx = "run a file of `sdfl export` without JAX instead; repeat it for other sizes"
    parser.add_argument("--onnx", action="append", metavar="FILE", help=onnx)


def _add_page(parser: argparse.ArgumentParser):
    add = parser.add_argument_group("the page").add_argument
    host = "address it is served at (default: this machine alone)"
    add("--host", default="127.0.0.1", help=host)
    add("--port", type=int, default=8000, help="0 picks a free port")
    upload = "of a photograph that is dropped"
    add("--max_upload_mb", type=float, default=50, help=upload)


if __name__ == "__main__":
    main()

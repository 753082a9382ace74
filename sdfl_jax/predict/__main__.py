"""Marks manipulated pixels in images and videos: masks, overlays and scores.

python -m sdfl_jax.predict [--workdir=DIR] --out=DIR FILE|FOLDER|VIDEO...
python -m sdfl_jax.predict [--workdir=DIR] --serve

Without --workdir the network is `starter`, which ships with the package.
"""

import argparse
import json
import sys

from tqdm import tqdm

from sdfl_jax.data.setup import setup
from sdfl_jax.errors import InputError, one_line
from sdfl_jax.predict.outputs import predict


@one_line
def main(argv=None):
    """Reads the command line; one JSON line per image goes to standard output."""
    args = _arguments().parse_args(argv)
    setup()
    if args.serve:
        _serve(args)
        return
    if args.out is None or not args.files:
        raise InputError("Give --out=DIR and images, folders or videos; or --serve.")
    for name, least in (("batch_size", 1), ("workers", 0), ("every_frames", 1)):
        if getattr(args, name) < least:
            raise InputError(
                f"--{name}={getattr(args, name)}: {least} or more is expected."
            )
    if not args.every_seconds >= 0:
        raise InputError(f"--every_seconds={args.every_seconds}: 0 or more.")
    failed = 0
    for line in predict(
        args.workdir,
        args.out,
        args.files,
        checkpoint_name=args.checkpoint,
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


def _serve(args):
    from sdfl_jax.predict import (
        serve,
    )  # a web server, which the other way does not need

    serve.run(
        args.workdir,
        args.checkpoint,
        host=args.host,
        port=args.port,
        max_upload_mb=args.max_upload_mb,
    )


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.predict", description=__doc__.splitlines()[0]
    )
    parser.add_argument(
        "--workdir",
        "--network",
        default="starter",
        help="folder of a training run, or a network of the package's (starter)",
    )
    parser.add_argument("--out", help="folder for masks and overlays")
    parser.add_argument("files", nargs="*", help="images, videos, folders of both")
    parser.add_argument("--checkpoint", default="best", help="best, latest or a step")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--workers", type=int, default=0, help="processes that decode")
    parser.add_argument(
        "--every_frames", type=int, default=1, help="of a video: each n-th frame"
    )
    parser.add_argument(
        "--every_seconds", type=float, default=0, help="of a video: a frame in so many"
    )
    parser.add_argument(
        "--serve", action="store_true", help="opens a page to drop photos on instead"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="address that the page is served at: this machine alone by default",
    )
    parser.add_argument("--port", type=int, default=8000, help="0 takes a free one")
    parser.add_argument(
        "--max_upload_mb", type=float, default=50, help="of a photo that is dropped"
    )
    return parser


if __name__ == "__main__":
    main()

"""Turns a list of images into a folder of shards.

python -m sdfl_jax.data.build --paths_file=paths_train.txt --out=shards/train
python -m sdfl_jax.data.build --verify --out=shards/train

Shards are written by worker processes, each beside its place and then renamed, with a
note of what it holds; a build that was killed goes on with the shards that are not
finished and ends in the same bytes. The same list, settings and files give the same
shards, whatever the number of workers. An image that crashes its decoder, or takes all
memory or forever, costs a worker process and is rejected; it does not end the build.
"""

import argparse
import sys
from collections.abc import Sequence

from sdfl_jax.data import engine, records
from sdfl_jax.data.build.builder import STORAGE, build
from sdfl_jax.data.build.shards import (
    COMPRESSION,
)
from sdfl_jax.data.build.verify import verify
from sdfl_jax.data.lists import add_list_arguments
from sdfl_jax.data.setup import setup
from sdfl_jax.data.workers import Workers
from sdfl_jax.errors import InputError, one_line


@one_line
def main(argv: Sequence[str] | None = None):
    parser = argparse.ArgumentParser(
        prog="sdfl data build",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--paths_file", help="list of images, masks and labels (see data/lists.py)")
    add("--out", required=True, help="folder of the shards")
    add("--image_size", type=int, default=512, help="side of resized images")
    add(
        "--storage",
        choices=STORAGE,
        default="original",
        help="original file bytes, or resized pixels",
    )
    add(
        "--compression",
        choices=COMPRESSION,
        default="raw",
        help="compression of the shards",
    )
    add_list_arguments(parser)
    add(
        "--only",
        default="",
        metavar="COLUMN=VALUE",
        help="take matching lines alone: label=1, kind=X",
    )
    engine.add_arguments(parser)
    add("--strict", action="store_true", help="stop at the first bad line")
    add("--verify", action="store_true", help="read --out again; exit 1 if damaged")
    arguments = vars(engine.parse(parser, argv))
    setup()
    if arguments["image_size"] < 1:
        raise InputError(
            f"--image_size={arguments['image_size']}: 1 or more is expected."
        )
    if arguments.pop("verify"):
        sys.exit(_verify(arguments["out"], arguments["workers"]))
    if arguments["paths_file"] is None:
        raise InputError("--paths_file: the list to build from is expected.")
    build(arguments.pop("paths_file"), arguments.pop("out"), **arguments)


@one_line
def check(argv: Sequence[str] | None = None) -> int:
    """`main --verify`, as a command of its own."""
    parser = argparse.ArgumentParser(
        prog="sdfl data verify",
        description="Reads every record of some shards; exits with 1 if damaged.",
    )
    parser.add_argument("out", metavar="SHARDS", help="folder of the shards")
    engine.add_arguments(parser)
    return _verify(**vars(engine.parse(parser, argv)))


def _verify(out: str, workers: Workers) -> int:
    problems = verify(out, workers=workers)
    for problem in problems:
        print(problem)
    if not problems:
        manifest = records.read_manifest(out)
        print(
            f"{out}: {manifest['examples']} examples in {len(manifest['shards'])} "
            "shards are whole."
        )
        return 0
    print(f"{out}: damaged; copy it again, or delete it and build it anew.")
    return 1


if __name__ == "__main__":
    main()

"""Draws the charts of a data set, and a page that shows them.

python -m sdfl_jax.data.explore --data=shards/train --out=explored
python -m sdfl_jax.data.explore --paths_file=paths_train.txt --out=explored

Writes OUT/index.html, which needs no other file, and its charts as PNG: images of each
class and source, their sizes, the area of the masks, pixel intensities, qualities of
JPEG files, and a gallery of images, masks and edges from every source. Classes are
counted over everything, the rest over `--sample` images drawn evenly.
"""

import argparse
import os
from collections.abc import Sequence

from sdfl_jax.data import engine
from sdfl_jax.data.lists import add_list_arguments
from sdfl_jax.data.setup import setup
from sdfl_jax.errors import InputError, one_line


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    about, rest = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="sdfl data explore",
        description=about,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--data", metavar="DIR", help="folder of shards")
    given.add_argument("--paths_file", metavar="FILE", help="list of images")
    add_list_arguments(parser)
    parser.add_argument("--out", required=True, metavar="DIR")
    parser.add_argument("--sample", type=int, help="images to measure (default: 5000)")
    engine.add_arguments(parser)
    flags = engine.parse(parser, argv)
    # Imported late: help and mistakes are told within a second.
    from sdfl_jax.data.explore.explorer import (
        PAGE,
        SAMPLE,
        ListExamples,
        ShardExamples,
        explore,
    )

    setup()
    sample = SAMPLE if flags.sample is None else flags.sample
    if sample < 1:
        raise InputError(f"--sample={sample}: give a number of images from 1.")
    if flags.data is not None:
        of_lists = ("root", "replace", "mask_inverted", "mask_as_stored")
        if given := [f"--{name}" for name in of_lists if getattr(flags, name)]:
            raise InputError(
                f"{', '.join(given)}: for lists; shards hold everything already."
            )
        examples = ShardExamples(flags.data)
    else:
        examples = ListExamples(
            flags.paths_file,
            root=flags.root,
            replace=flags.replace,
            mask_inverted=flags.mask_inverted,
            mask_as_stored=flags.mask_as_stored,
        )
    counts = explore(
        examples,
        flags.out,
        title=flags.data or flags.paths_file,
        sample=sample,
        workers=flags.workers,
    )
    print(f"{os.path.join(flags.out, PAGE)}: {sum(counts.values())} images explored.")


if __name__ == "__main__":
    main()

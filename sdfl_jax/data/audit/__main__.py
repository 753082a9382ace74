"""Checks a study's lists: leaks between splits, labels, masks.

python -m sdfl_jax.data.audit --train=FILE --val=FILE --test=FILE --fix=clean

Compares the names on the lists and, where the files are there, their bytes, their looks
(perceptual hashes) and their masks. Exits 1 when a line of the test list has a relative
in train or val, 0 when none has, 2 for input that cannot be read.

`--fix=DIR` writes lists without these leaks, every kept line as it was:

* a line is dropped that repeats an earlier line of its own list, by path or by bytes;
* of val, every line is dropped that shares anything under "leak" with a line of test;
* of train, every line that does so with a line of test or with one that val keeps;
* test loses nothing but repetitions. All other findings are left for you to decide.
"""

import argparse
import contextlib
import gc
from collections.abc import Iterator, Sequence

from sdfl_jax.data import engine
from sdfl_jax.data.audit.auditor import run
from sdfl_jax.data.audit.leaks import leaks
from sdfl_jax.data.lists import SPLITS, add_list_arguments
from sdfl_jax.data.setup import setup
from sdfl_jax.errors import InputError, one_line


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """There are no cycles, and walking a million lines for them takes seconds."""
    before = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if before:
            gc.enable()


@one_line
def main(argv: Sequence[str] | None = None) -> int:
    about, rest = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="sdfl data audit",
        description=about,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for split in SPLITS:
        parser.add_argument(
            f"--{split}", metavar="FILE", help=f"list of the {split} split"
        )
    add_list_arguments(parser)
    parser.add_argument("--out", metavar="DIR", help="write DIR/findings.csv")
    parser.add_argument("--fix", metavar="DIR", help="write lists without leaks")
    engine.add_arguments(parser)
    reading = parser.add_mutually_exclusive_group()
    reading.add_argument(
        "--content",
        action="store_true",
        default=None,
        help="fail if none of the files is here",
    )
    reading.add_argument(
        "--names_only", action="store_true", help="compare names only, open no image"
    )
    flags = engine.parse(parser, argv)
    setup()
    paths = {s: getattr(flags, s) for s in SPLITS if getattr(flags, s) is not None}
    if not paths:
        raise InputError("No list given; --train=FILE --val=FILE --test=FILE.")
    with _no_garbage_collection():
        findings = run(
            paths,
            out=flags.out,
            fix_to=flags.fix,
            root=flags.root,
            replace=flags.replace,
            mask_inverted=flags.mask_inverted,
            content=False if flags.names_only else flags.content,
            workers=flags.workers,
        )
    return int(bool(leaks(findings)))


if __name__ == "__main__":
    raise SystemExit(main())

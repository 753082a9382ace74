"""Runs the studies and writes their page. See launch/studies.sh.

python -m studies DIR --photos=FOLDER [--quick|--full] [--only=NAME,...] [--seeds=N]
    [--print] [--page=FILE]

The small form (without a flag) forges its data from FOLDER and trains narrow networks;
--quick does everything within minutes, to see that it runs; --full trains what the
configs say on shards that lie in DIR/shards/NAME/SPLIT. What is done already is
skipped, and what was interrupted goes on.
"""

import argparse
import dataclasses
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from sdfl_jax.errors import InputError, one_line, valid
from studies.steps import Runner, fork, ordered

STUDIES = (
    "exploration",
    "nine",
    "settings",
    "finetuning",
    "generators",
    "faces",
    "backbones",
)

_STEP_MEMORY = 4 * 2**30  # bytes to have for each; MVSS-Net's training takes half


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    args = _arguments().parse_args(argv)
    names = args.only.split(",") if args.only else STUDIES
    for name in names:
        if name not in STUDIES:
            raise InputError(f"--only={name}: {valid(name, STUDIES)}")
    if args.form == "quick":  # compiles more than it computes
        os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
    # Imported late: help and mistakes are told within a second.
    from studies import page
    from studies.plan import FORMS, Plan

    form = FORMS[args.form]
    if args.seeds is not None:
        if args.seeds < 1:
            raise InputError(f"--seeds={args.seeds}: at least 1.")
        form = dataclasses.replace(form, seeds=args.seeds)
    if form.forged and not args.photos:
        raise InputError("--photos=FOLDER: the photographs to forge from are expected.")
    if args.photos and not os.path.isdir(args.photos):
        raise InputError(f"--photos={args.photos}: no such folder.")
    photos = os.path.abspath(args.photos) if args.photos else None
    runner = Runner(
        Path(args.dir).absolute(), fork, form.limit, _cores() if form.apart else ()
    )
    plan = Plan(form, runner, photos)
    studies = {name: study(name) for name in names}
    steps = ordered([step for study in studies.values() for step in study.steps(plan)])
    if args.print:
        for step in steps:
            print(runner.shown(step))
        return
    _import_what_steps_need()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    failed = None
    try:
        runner.run(steps)
    except InputError as error:
        failed = error
    finished = {
        name: study
        for name, study in studies.items()
        if runner.done(ordered(study.steps(plan)))
    }
    if finished:
        written = page.write(plan, finished, STUDIES)
        if args.page:
            page.merge(written, Path(args.page), STUDIES)
        print(f"Page: {args.page or written}")
    if failed:
        raise failed


def study(name: str):
    """The module of a study, with its TITLE, `steps` and `write`."""
    return importlib.import_module(f"studies.{name}")


def _cores() -> list[int]:
    """Those that get a step of their own: as many as there is memory for.

    Two steps on a core each end sooner than one after the other on both: much of a
    short training is tracing and loading its program, which know one thread.
    """
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    most = max(1, int(memory / _STEP_MEMORY))
    return sorted(os.sched_getaffinity(0))[:most]


def _import_what_steps_need():
    # So that no child of this process has to.
    import sdfl_jax.evaluate.scoring
    import sdfl_jax.explain.explainer
    import sdfl_jax.train  # noqa: F401


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="studies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("dir", nargs="?", default="studies_out", metavar="DIR")
    add("--photos", metavar="FOLDER", help="photographs to forge from")
    add("--only", metavar="NAME,...", help=f"of {', '.join(STUDIES)}")
    add(
        "--seeds", type=int, metavar="N", help="of every training (default: the form's)"
    )
    add("--print", action="store_true", help="the commands, and runs none of them")
    add("--page", metavar="FILE", help="puts its sections and charts there as well")
    forms = parser.add_mutually_exclusive_group()
    for name, what in (("quick", "minutes, to see that it runs"), ("full", "in full")):
        forms.add_argument(
            f"--{name}", dest="form", action="store_const", const=name, help=what
        )
    parser.set_defaults(form="small")
    return parser


if __name__ == "__main__":
    from sdfl_jax.devices import memory

    memory.restart()
    main()

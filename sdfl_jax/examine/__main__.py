"""Makes a case file of photographs: lines of evidence, a cautious verdict, a log.

python -m sdfl_jax.examine PHOTO|FOLDER... --out=CASE [--network=NAME|--workdir=DIR]
python -m sdfl_jax.examine --verify=CASE

Without either the network is `starter`, which ships with the package.
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from sdfl_jax.data import engine
from sdfl_jax.errors import InputError, one_line, valid


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line; one JSON line per photograph goes to standard output."""
    args = engine.parse(_arguments(), argv)
    if args.verify:
        _verify(args.verify)
        return
    if args.out is None or not args.files:
        raise InputError(
            "Give photographs or folders and --out=CASE; or --verify=CASE."
        )
    if args.workers == 0:
        raise InputError("--workers=0: 1 or more is expected.")
    from sdfl_jax.data import search
    from sdfl_jax.devices import memory
    from sdfl_jax.examine.case import Case
    from sdfl_jax.examine.isolation import Workers

    number = len(
        search.find(args.files, skip=[args.out])
    )  # before a network is loaded for nothing
    memory.keep_all()
    with contextlib.ExitStack() as stack:
        workers = args.workers
        if isinstance(workers, int):  # they start while the network is loaded
            workers = stack.enter_context(Workers(workers))
        case = Case(args.out, _predictor(args), _trusted(args.trusted))
        failed = 0
        bar = tqdm(total=number, unit="photograph", dynamic_ncols=True, file=sys.stderr)
        stack.enter_context(bar)
        for row in case.examine(args.files, workers=workers):
            bar.update()
            if "error" in row:
                failed += 1
                tqdm.write(f"Error: {row['image']}: {row['error']}", file=sys.stderr)
            else:
                tqdm.write(json.dumps(row), file=sys.stdout)
                sys.stdout.flush()
    print(
        f"{case.folder / 'index.html'}: {number - failed} photographs", file=sys.stderr
    )
    print(f"The log ends with {case.log.head}; note it elsewhere.", file=sys.stderr)
    if failed:
        sys.exit(1)


def _predictor(args):
    if args.network == "none":
        return None
    if args.workdir is not None and args.network is not None:
        raise InputError(
            f"--workdir={args.workdir} and --network={args.network}: give one of them."
        )
    from sdfl_jax.checkpoints import shipped
    from sdfl_jax.predict.predictor import Predictor

    if args.network and shipped.resolve(args.network) is None:
        known = valid(args.network, [*shipped.names(), "none"])
        raise InputError(f"--network={args.network}: no such network ships; {known}")
    return Predictor(args.workdir or args.network or "starter", args.checkpoint)


def _trusted(path: str | None) -> str:
    if path is None:
        return ""
    try:
        text = Path(path).read_text(encoding="ascii")
    except (OSError, UnicodeDecodeError):
        text = ""
    if "-----BEGIN CERTIFICATE-----" not in text:
        raise InputError(f"--trusted={path}: no file of certificates (PEM) is there.")
    return text


def _verify(folder: str):
    from sdfl_jax.examine.case import verify

    found = verify(folder)
    for problem in found["problems"]:
        print(f"Error: {problem}", file=sys.stderr)
    print(json.dumps({key: v for key, v in found.items() if key != "problems"}))
    if found["problems"]:
        sys.exit(1)


def _arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="sdfl examine", description=__doc__.splitlines()[0]
    )
    parser.add_argument("files", nargs="*", help="photographs or folders")
    parser.add_argument("--out", metavar="CASE", help="folder for the case file")
    parser.add_argument(
        "--workdir", metavar="DIR", help="working directory of the run to use"
    )
    parser.add_argument(
        "--checkpoint", default="best", help="best, latest or a step number"
    )
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="network that ships (default: starter), or none to do without",
    )
    parser.add_argument(
        "--trusted",
        metavar="PEM",
        help="certificates of trusted content-credential issuers",
    )
    engine.add_arguments(parser, workers=2)
    parser.add_argument(
        "--verify", metavar="CASE", help="check a case's log and its file hashes"
    )
    return parser


if __name__ == "__main__":
    main()

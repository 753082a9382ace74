"""Summarises several evaluations in tables.

python -m sdfl_jax.report table RUN...                 the study's tables
python -m sdfl_jax.report runs RUN...                  N runs of one experiment
python -m sdfl_jax.report matrix [ROW=]RUN... --out=DIR
python -m sdfl_jax.report matrix --run --config=FILE --out=DIR \\
    --data=NAME=TRAIN:VAL:TEST --data=NAME=TRAIN:VAL:TEST...

RUN is an output folder of `python -m sdfl_jax.evaluate`. `matrix` trains on each part
(or, with --leave_one_out, on all but one), tests on each, and goes on where it was
stopped; what follows `--` goes to training: `-- --config.seed=1`.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from sdfl_jax.errors import InputError, one_line


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    """Reads the command line, prints a table."""
    args = _arguments().parse_args(argv)
    args.command(args)


# The rooms behind each table are imported late: help is told within a second.


def _table(args):
    from sdfl_jax.files import write_csv
    from sdfl_jax.report import study

    found = study.rows(args.runs)
    print(study.study_table(found))
    if args.intervals:
        print(f"\n{study.interval_table(found)}")
    if args.csv:
        write_csv(args.csv, study.csv_rows(found), study.CSV_COLUMNS)


def _runs(args):
    from sdfl_jax.files import write_csv
    from sdfl_jax.report import runs

    rows = runs.sum_up(args.runs, args.protocol)
    print(runs.runs_table(rows))
    if args.csv:
        write_csv(args.csv, rows, list(runs.COLUMNS))


def _matrix(args):
    from sdfl_jax.report import matrix

    keys = args.metrics.split(",") if args.metrics else matrix.SHOWN
    if args.run:
        if args.config is None or not args.data:
            raise InputError("--run takes --config=FILE and --data=NAME=... parts.")
        cells = matrix.run(
            [matrix.parse_part(text) for text in args.data],
            args.out,
            config=args.config,
            leave_one_out=args.leave_one_out,
            overrides=args.runs,
        )
    else:
        if args.data or args.config or args.leave_one_out:
            raise InputError("--data, --config and --leave_one_out go with --run.")
        if not args.runs:
            raise InputError("No folder given: matrix [ROW=]RUN..., or see --help.")
        cells = matrix.collect(args.runs)
    print(matrix.matrix_tables(cells, keys))
    matrix.write(cells, args.out, keys)
    print(f"\nHeat map: {Path(args.out) / 'matrix.png'}")


def _calibrate(args):
    from sdfl_jax.report import likelihood_ratios

    found = likelihood_ratios.write(args.run, args.out, args.false_alarms, args.test)
    print("\n".join(likelihood_ratios.lines(found)))


def _arguments() -> argparse.ArgumentParser:
    about, rest = __doc__.split("\n\n", 1)
    parser = argparse.ArgumentParser(
        prog="sdfl report",
        description=about,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(
        required=True, metavar="table | runs | matrix | calibrate"
    )

    table = commands.add_parser("table", help="networks against groups of data sets")
    table.set_defaults(command=_table)
    table.add_argument("runs", nargs="+", metavar="RUN")
    table.add_argument("--csv", metavar="FILE", help="write all metrics to this file")
    table.add_argument(
        "--intervals",
        action="store_true",
        help="add a table that pools repeated runs, with intervals",
    )

    summed = commands.add_parser(
        "runs", help="mean, standard deviation and worst of N runs"
    )
    summed.set_defaults(command=_runs)
    summed.add_argument("runs", nargs="+", metavar="RUN")
    summed.add_argument("--csv", metavar="FILE")
    summed.add_argument(
        "--protocol", default="standard", help="reference, benco or trufor"
    )

    grid = commands.add_parser(
        "matrix", help="train on each data set, test on every one"
    )
    grid.set_defaults(command=_matrix)
    grid.add_argument("runs", nargs="*", metavar="[ROW=]RUN")
    grid.add_argument("--out", required=True, metavar="DIR")
    grid.add_argument(
        "--run", action="store_true", help="train and evaluate what is missing"
    )
    grid.add_argument("--config", metavar="FILE", help="config for each training run")
    grid.add_argument(
        "--data", action="append", default=[], metavar="NAME=TRAIN:VAL:TEST"
    )
    grid.add_argument("--leave_one_out", action="store_true")
    grid.add_argument(
        "--metrics", help="standard metrics, comma-separated (default: IoU and F1)"
    )

    calibrated = commands.add_parser(
        "calibrate", help="calibrate a network's scores to likelihood ratios"
    )
    calibrated.set_defaults(command=_calibrate)
    calibrated.add_argument("run", metavar="RUN")
    calibrated.add_argument(
        "--out",
        required=True,
        metavar="FILE",
        help="as calibration.json in a working directory, predictions use it",
    )
    calibrated.add_argument(
        "--false_alarms",
        type=float,
        default=0.05,
        help="accepted false-alarm rate on authentic images",
    )
    calibrated.add_argument(
        "--test",
        metavar="RUN",
        help="evaluation on other images, to test the calibration on",
    )
    return parser


if __name__ == "__main__":
    main()

"""Other encoders in the network: quality against size, and against speed."""

import functools
import json
import re
from pathlib import Path

from sdfl_jax import evaluators
from sdfl_jax.drawing.figures import save
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.models import ENCODERS
from sdfl_jax.report import charts, tables
from studies import findings
from studies.findings import Claim
from studies.plan import Plan, of_length
from studies.steps import Step

TITLE = "Other backbones"

TESTS = ("shallow", "deep")
# Tells networks apart that have hardly begun, whose marks are below any threshold.
METRIC = "pixel_auc_manipulated"
OF_DOCUMENTS = "resnet50_deep"
SMALL = 64  # images are made as small as this for narrow networks


def steps(plan: Plan) -> list[Step]:
    return [
        plan.score(run, TESTS)
        for encoder in plan.form.encoders
        for seed in plan.seeds("backbones")
        for run in _trained(plan, encoder, seed)
    ]


def _trained(plan: Plan, encoder: str, seed: int) -> tuple[Step, Step]:
    """A run of as many steps as any other, and one of as many seconds."""
    flags = [
        f"--config.model.encoder={encoder}",
        "--config.init_encoders.encoder=",  # fresh, with statistics that it learns
        "--config.model.freeze_encoder_bn=False",
    ]
    if plan.form.narrow:  # with four times as many images, for nothing is known yet
        flags.append(f"--config.image_size={SMALL}")
    train = functools.partial(
        plan.train, "backbones", config="study_6_upernet_both", data="both", seed=seed
    )
    equal = train(f"{encoder}_steps", flags=flags)
    late = functools.partial(_as_long_as, equal.out, plan.form.seconds)
    timed = train(f"{encoder}_seconds", flags=flags, needs=[equal], late=late)
    return equal, timed


def _as_long_as(run: Path, seconds: float) -> tuple[str, ...]:
    """Flags of a training that takes these seconds, by the speed that `run` had."""
    steps = max(1, round(seconds * _speed(run) / _config(run)["batch_size"]))
    return "--config.total_epochs=0", *of_length(steps)


def _speed(run: Path) -> float:
    """Images a second of the training alone."""
    try:
        speed = json.loads((run / "summary.json").read_text())["images_per_second"]
    except FileNotFoundError:
        raise InputError(f"{run}: not trained yet.") from None
    if not speed:
        raise InputError(f"{run}: too short a run to know its speed.")
    return speed


def _config(run: Path) -> dict:
    return json.loads((run / "config.json").read_text())


def _parameters(run: Path) -> int:
    text = (run / "parameters.txt").read_text()
    return int(re.search(r"Total: ([\d,]+)", text)[1].replace(",", ""))


def write(plan: Plan) -> list[str]:
    rows = [_row(plan, encoder) for encoder in plan.form.encoders]
    places = {
        "million parameters": lambda row: row["parameters"] / 1e6,
        "images/s in training": lambda row: row["speed"],
    }
    ways = {"steps": "after equal steps", "seconds": "after equal seconds"}
    for way, said in ways.items():
        panels = {
            name: {row["encoder"]: (place(row), row[way]) for row in rows}
            for name, place in places.items()
        }
        figure = charts.trade_offs(panels, f"pixel AUC {said}")
        save(figure, plan.picture(f"backbones_{way}"))
    shown = [
        row
        | {"parameters": f"{row['parameters'] / 1e6:.1f}"}
        | {"speed": f"{row['speed']:.1f}"}
        | {way: f"{row[way]:.3f} ({row[f'{way}_interval']})" for way in ways}
        for row in sorted(rows, key=lambda row: -row["seconds"])
    ]
    heads = {
        "encoder": "encoder",
        "parameters": "M parameters",
        "speed": "images/s",
        "steps": "pixel AUC, equal steps",
        "seconds": "pixel AUC, equal seconds",
        "taken": "steps taken in them",
    }
    judged = findings.found(_claims(plan, rows), plan.form.resamples)
    small = f", made {SMALL}x{SMALL}" * plan.form.narrow
    left_out = [name for name in ENCODERS if name not in plan.form.encoders]
    return [
        f"The network without BayarConv under {len(rows)} encoders, from fresh "
        "weights, trained on shallow and deep fakes together; pixel AUC of the "
        f"manipulated images of both tests{small}, where .5 is chance. Speed is that "
        f"of {'one core' if plan.runner.cores else 'this machine'} while it trained."
        + f" Left out at this size: {', '.join(left_out)}."
        * bool(left_out),
        tables.table(shown, heads),
        *(plan.shown(f"backbones_{way}", f"Pixel AUC {ways[way]}") for way in ways),
        findings.table(judged),
        findings.sentences(judged),
    ]


def _row(plan: Plan, encoder: str) -> dict:
    runs = [_trained(plan, encoder, seed) for seed in plan.seeds("backbones")]
    first, timed = runs[0]
    row = {"encoder": encoder, "parameters": _parameters(first.out)}
    row["speed"] = sum(_speed(equal.out) for equal, _ in runs) / len(runs)
    for way, of in zip(("steps", "seconds"), zip(*runs, strict=True), strict=True):
        found = evaluators.of_runs(
            [Evaluation.load(plan.score(run, TESTS).out) for run in of],
            resamples=plan.form.resamples,
            protocols=["standard"],
        )
        figure = found["standard"][METRIC]
        row[way] = figure["mean"]
        row[f"{way}_interval"] = tables.interval(figure["interval"])
    row["taken"] = _config(timed.out)["total_steps"]
    return row


def _claims(plan: Plan, rows: list[dict]) -> list[Claim]:
    others = [row for row in rows if row["encoder"] != OF_DOCUMENTS]
    if not others or len(others) == len(rows):
        return []
    claims = []
    for place, way in enumerate(("steps", "seconds")):
        best = max(others, key=lambda row: row[way])["encoder"]
        reports = [
            [
                plan.score(_trained(plan, encoder, seed)[place], TESTS).out
                for seed in plan.seeds("backbones")
            ]
            for encoder in (best, OF_DOCUMENTS)
        ]
        said = f"ResNet-50 is a good choice (equal {way}, beside the best other)"
        names = (best, OF_DOCUMENTS)
        claims.append(Claim(said, names, *reports, "both", METRIC, "not lower"))
    return claims

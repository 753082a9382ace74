"""The documents' other settings: image and batch size, loss weights, RMSprop."""

import json

from sdfl_jax.drawing.figures import save
from sdfl_jax.report import charts
from sdfl_jax.report.training_log import read_log
from studies import findings
from studies.findings import Claim
from studies.plan import Plan
from studies.steps import Step

TITLE = "Hyperparameters"

BASE = "512_12"
TESTS = ("shallow", "deep")


def variants(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Flags of each setting by its name; images are a quarter as large when narrow."""
    half = 64 if plan.form.narrow else 256
    return {
        BASE: ("--config.batch_size=12",),
        "256_32": (f"--config.image_size={half}", "--config.batch_size=32"),
        "weights_0.1_0.1": (
            "--config.batch_size=12",
            "--config.loss_weights.mask=0.1",
            "--config.loss_weights.label=0.1",
        ),
        "rmsprop": (
            "--config.batch_size=12",
            "--config.optimizer.name=rmsprop",
            "--config.optimizer.weight_decay=0.0",
        ),
    }


def _trained(plan: Plan, name: str, seed: int) -> Step:
    flags = (*variants(plan)[name], "--config.log_every=1")
    config = "study_9_sdfl_both"
    return plan.train("settings", name, config, "both", seed=seed, flags=flags)


def steps(plan: Plan) -> list[Step]:
    return [
        plan.score(_trained(plan, name, seed), TESTS)
        for name in variants(plan)
        for seed in plan.seeds("settings")
    ]


def write(plan: Plan) -> list[str]:
    runs = {name: _trained(plan, name, 0).out for name in variants(plan)}
    figure = charts.losses({name: read_log(run) for name, run in runs.items()})
    save(figure, plan.picture("settings_loss"))
    reports = {
        name: [
            plan.score(_trained(plan, name, s), TESTS).out
            for s in plan.seeds("settings")
        ]
        for name in runs
    }
    judged = findings.found(
        [
            Claim(
                "the settings that were tried did worse",
                (BASE, name),
                reports[BASE],
                reports[name],
                "both",
                metric,
                "lower",
            )
            for name in list(runs)[1:]
            for metric in ("pixel_f1_manipulated", "image_auc")
        ],
        plan.form.resamples,
    )
    sizes = {
        name: json.loads((run / "config.json").read_text())["image_size"]
        for name, run in runs.items()
    }
    said = ""
    if plan.form.narrow:
        said = (
            f" Scaled: `{BASE}` is {sizes[BASE]} with a batch of 12, `256_32` is "
            f"{sizes['256_32']} with one of 32."
        )
    return [
        "The full network on shallow and deep fakes: 512 with a batch of 12 against "
        "256 with 32, loss weights 0.16/0.04 against 0.1/0.1, AdamW against RMSprop, "
        f"for as many steps.{said} The weights of the loss scale its curve.",
        plan.shown("settings_loss", "Loss of every setting in training, first seed"),
        findings.table(judged),
        findings.sentences(judged),
    ]

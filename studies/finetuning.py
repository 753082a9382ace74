"""Fine-tuning on labels alone: what it brings, what it moves, what happens to masks."""

import jax
import numpy as np

from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.report import tables
from studies import findings, nine
from studies.findings import Claim
from studies.plan import Plan
from studies.steps import Step

TITLE = "Fine-tuning with labels alone"


def _trained(plan: Plan, seed: int) -> tuple[Step, Step]:
    before = nine.train(plan, "sdfl", "both", seed)
    after = plan.train(
        "finetuning",
        "after",
        "finetune_cifake",
        plan.labelled,
        seed=seed,
        flags=[f"--config.init_from={before.out}"],
        needs=[before],
    )
    return before, after


def _scored(plan: Plan, seed: int) -> list[Step]:
    sets = ("shallow", "deep", plan.labelled)
    return [
        plan.score(run, sets, study="finetuning", run=f"{name}/{seed}")
        for run, name in zip(_trained(plan, seed), ("before", "after"), strict=True)
    ]


def steps(plan: Plan) -> list[Step]:
    return [step for seed in plan.seeds("finetuning") for step in _scored(plan, seed)]


def write(plan: Plan) -> list[str]:
    scored = zip(
        *(_scored(plan, seed) for seed in plan.seeds("finetuning")), strict=True
    )
    before, after = ([step.out for step in steps] for steps in scored)

    def claim(said, test, metric, expected):
        names, runs = ("before", "after"), (before, after)
        return Claim(said, names, *runs, test, metric, expected)

    collapse = "mask quality does not collapse"
    judged = findings.found(
        [
            claim(
                "labels alone teach the new kind", plan.labelled, "image_auc", "higher"
            ),
            claim(collapse, "shallow", "pixel_f1_manipulated", "not lower"),
            claim(collapse, "deep", "pixel_f1_manipulated", "not lower"),
            claim("the old kinds are still told", "shallow", "image_auc", "not lower"),
            claim("the old kinds are still told", "deep", "image_auc", "not lower"),
        ],
        plan.form.resamples,
    )
    made = ""
    if plan.form.forged:
        made = (
            " The labels here are of photographs of which every other one was drawn "
            "anew as a whole (resampled, smoothed or by medians), without a mask."
        )
    return [
        "The full network, trained on shallow and deep fakes (experiment 9), goes on "
        "with images that have a label and no mask; all but the label head is frozen."
        + made,
        findings.table(judged),
        "Parameters that moved, first seed:",
        _moved(*(step.out for step in _trained(plan, 0))),
        findings.sentences(judged),
    ]


def _moved(before, after) -> str:
    """Of each part of the network how many parameters changed, and how far."""
    one, other = (checkpoint.load(run).variables["params"] for run in (before, after))
    rows = []
    for part in one:
        pairs = zip(
            jax.tree.leaves(one[part]), jax.tree.leaves(other[part]), strict=True
        )
        steps = [np.abs(np.asarray(b) - np.asarray(a)).ravel() for a, b in pairs]
        change = np.concatenate(steps)
        rows.append(
            {
                "part": part,
                "parameters": f"{change.size:,}",
                "moved": f"{np.count_nonzero(change):,}",
                "furthest": float(change.max()),
            }
        )
    return tables.table(rows, ("part", "parameters", "moved", "furthest"))

"""The documents' nine experiments: three networks, trained on three groups of data."""

from sdfl_jax.report import study
from studies import findings
from studies.findings import Claim
from studies.plan import Plan
from studies.steps import Step

TITLE = "Nine experiments"

NETWORKS = ("mvssnet", "upernet", "sdfl")
DATA = ("shallow", "deep", "both")
TESTS = ("shallow", "deep")


def steps(plan: Plan) -> list[Step]:
    return [
        plan.score(train(plan, network, data, seed), TESTS)
        for seed in plan.seeds("nine")
        for data in DATA  # networks in turns: no two compile the same at once
        for network in NETWORKS
        if seed in plan.seeds("nine", f"{network}_{data}")
    ]


def train(plan: Plan, network: str, data: str, seed: int) -> Step:
    """One of the nine."""
    number = _place(f"{network}_{data}") + 1
    return plan.train(
        "nine",
        f"{network}_{data}",
        f"study_{number}_{network}_{data}",
        data,
        seed=seed,
    )


def write(plan: Plan) -> list[str]:
    reports = {}
    for step in sorted(steps(plan), key=lambda step: _place(step.out.parent.name)):
        reports.setdefault(step.out.parent.name, []).append(step.out)
    rows = study.rows([folder for folders in reports.values() for folder in folders])
    judged = findings.found(_claims(reports), plan.form.resamples)
    return [
        "MVSS-Net, the network without BayarConv (`upernet`) and with it (`sdfl`), "
        "each trained on shallow fakes, deep fakes and both, and tested on either. "
        + (
            "“Shallow” is forged here as splices, copy-move, inpainting and pasted "
            "objects; “deep” stands for swaps, ovals of another photograph blended in, "
            "which are no faces and no work of a generative model."
            if plan.form.forged
            else ""
        ),
        study.interval_table(rows, resamples=plan.form.resamples),
        findings.table(judged),
        findings.sentences(judged),
    ]


def _place(run: str) -> int:
    """Of a run in the table: by network, then by data."""
    network, data = run.split("_")
    return 3 * NETWORKS.index(network) + DATA.index(data)


def _claims(reports) -> list[Claim]:
    def claim(said, first, second, test, expected, **more):
        runs = reports[first], reports[second]
        metric = "pixel_f1_manipulated"
        return Claim(said, (first, second), *runs, test, metric, expected, **more)

    helps = "BayarConv helps"
    free = "training on both costs nothing"
    as_good = "the network is as good as MVSS-Net"
    none = "no transfer between shallow and deep fakes"
    return [
        claim(helps, "upernet_both", "sdfl_both", "shallow", "higher"),
        claim(helps, "upernet_both", "sdfl_both", "deep", "higher"),
        claim(free, "sdfl_shallow", "sdfl_both", "shallow", "not lower"),
        claim(free, "sdfl_deep", "sdfl_both", "deep", "not lower"),
        claim(none, "sdfl_deep", "sdfl_shallow", "deep", "lower", learnt=["shallow"]),
        claim(none, "sdfl_shallow", "sdfl_deep", "shallow", "lower", learnt=["deep"]),
        claim(as_good, "mvssnet_both", "sdfl_both", "shallow", "not lower"),
        claim(as_good, "mvssnet_both", "sdfl_both", "deep", "not lower"),
    ]

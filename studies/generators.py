"""U-Net across generators: trained on each kind and on all but one, tested on each."""

from sdfl_jax.drawing.figures import save
from sdfl_jax.report import matrix
from studies import findings
from studies.findings import Claim
from studies.plan import Plan
from studies.steps import Step

TITLE = "U-Net across generators"


def steps(plan: Plan) -> list[Step]:
    return [
        plan.score(_trained(plan, data, seed), plan.form.kinds)
        for seed in plan.seeds("generators")
        for data in (*plan.form.kinds, *(f"all_but_{kind}" for kind in plan.form.kinds))
    ]


def _trained(plan: Plan, data: str, seed: int) -> Step:
    """One kind's, or in twice as many steps one of several, which is harder."""
    times = 2 if data.startswith("all_but_") else 1
    return plan.train(
        "generators", data, "unet_inpainting", data, seed=seed, times=times
    )


def write(plan: Plan) -> list[str]:
    reports = {}
    for step in steps(plan):
        reports.setdefault(step.out.parent.name, []).append(step.out)
    cells = matrix.collect(
        [f"{row.replace('_', ' ')}={folders[0]}" for row, folders in reports.items()]
    )
    save(matrix.heat_maps(cells), plan.picture("generators"))
    judged = findings.found(
        [
            Claim(
                "no transfer across generators",
                (f"trained on {kind}", f"on all but {kind}"),
                reports[kind],
                reports[f"all_but_{kind}"],
                kind,
                "pixel_iou_manipulated",
                "lower",
                learnt=[other for other in plan.form.kinds if other != kind],
            )
            for kind in plan.form.kinds
        ],
        plan.form.resamples,
    )
    seeds = "" if plan.form.seeds == 1 else " The matrix is that of the first seed."
    return [
        "One U-Net for each kind of forgery (rows), and one for all kinds but one, "
        f"tested on every kind.{seeds}",
        plan.shown("generators", "IoU and F1, trained on rows, tested on columns"),
        matrix.matrix_tables(cells),
        findings.table(judged),
        findings.sentences(judged),
    ]

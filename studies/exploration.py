"""What every set holds: bars and pies of classes, areas of masks, intensities."""

import shutil

from studies.plan import Plan
from studies.steps import Step

TITLE = "Data exploration"

CHARTS = {"classes": "Images by class and source", "intensity": "Pixel intensities"}


def sets(plan: Plan) -> tuple[str, ...]:
    return ("shallow", "deep", "rendered") if plan.form.forged else ("shallow", "deep")


def steps(plan: Plan) -> list[Step]:
    return [_explored(plan, name) for name in sets(plan)]


def _explored(plan: Plan, name: str) -> Step:
    shards = plan.shards(name, "train")
    out = plan.folder / "explored" / name
    flags = (f"--data={shards.out}", f"--out={out}", "--workers=1")
    return Step(out, "sdfl_jax.data.explore", flags, (shards,))


def write(plan: Plan) -> list[str]:
    parts = [
        "The training data of every set; `DIR/explored` holds a page of each with "
        "sizes, areas of masks, JPEG qualities and a gallery as well."
    ]
    for step in steps(plan):
        for chart, said in CHARTS.items():
            name = f"explored_{step.out.name}_{chart}"
            shutil.copy(step.out / f"{chart}.png", plan.picture(name))
            parts.append(plan.shown(name, f"{said}: {step.out.name}"))
    parts.append(
        "There is no finding to test here: these charts say what the others rest on."
    )
    return parts

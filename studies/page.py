"""The page of all studies, in Markdown with charts beside it."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType

from sdfl_jax import __version__
from sdfl_jax.files import replacing
from studies.plan import FORMS, KIND_SIDE, SIDE, Plan
from studies.steps import ordered

_SAID = {
    "quick": "**This is the quick form: a few steps on a few images with one seed. It "
    "shows that a study runs from data to sentence, and where what stands; figures are "
    "those of networks that have hardly begun to learn.**",
    "small": "This is the small form: narrow networks at 128x128, forged data. It "
    "can tell what is large; it is no repetition of the documents.",
    "full": "This is the full form, on the shards that were given.",
}


def write(
    plan: Plan, studies: Mapping[str, ModuleType], left_out: Sequence[str] = ()
) -> Path:
    """Writes DIR/page/studies.md and its charts; returns its path.

    `left_out` names studies that were not asked for or failed, which the page says.
    """
    parts = [
        "# Studies",
        "<!-- Written by launch/studies.sh; changes here are lost. -->",
        _SAID[plan.form.name],
        _how(plan, studies, f" --only={','.join(studies)}" * bool(left_out)),
    ]
    if left_out:
        parts.append(
            f"**Not run for this page: {', '.join(left_out)}.** `--only=NAME` runs one "
            "of them."
        )
    for name, study in studies.items():
        parts += [f"## {study.TITLE}", *study.write(plan), _commands(plan, name, study)]
    path = plan.pictures.parent / "studies.md"
    with replacing(path) as beside:
        beside.write_text("\n\n".join(parts) + "\n")
    return path


def copy(page: Path, to: Path) -> None:
    """Copies the page and its charts, in place of those that were there."""
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(page, to)
    charts = to.with_suffix("")
    shutil.rmtree(charts, ignore_errors=True)
    shutil.copytree(page.with_suffix(""), charts)


def _how(plan: Plan, studies, only: str) -> str:
    steps = ordered([step for study in studies.values() for step in study.steps(plan)])
    seconds = plan.runner.seconds(steps)
    processor = sum(plan.runner.seconds(steps, "processor")) / 60
    form = plan.form
    said = f"sdfl_jax {__version__}; {form.seeds} seed{'s' * (form.seeds != 1)}"
    single = [name for name in form.once if name.split("/")[0] in studies]
    said += f" (one for {', '.join(single)})" * bool(single and form.seeds > 1)
    if form.forged:
        counts = " + ".join(f"{n} {split}" for split, n in form.images.items())
        said += (
            f"; photographs forged at {SIDE}x{SIDE}, {counts} images for shallow, deep "
            f"and re-rendered ones each, and at {KIND_SIDE}x{KIND_SIDE} those of one "
            f"kind, {' + '.join(f'{n} {s}' for s, n in form.kind_images.items())}"
        )
    return (
        f"`bash launch/studies.sh DIR --photos=FOLDER{_flag(plan)}{only}` wrote this "
        f"page ({said}): {len(seconds)} steps, which took {sum(seconds) / 60:.1f} "
        f"minutes ({processor:.1f} of processor time), the longest "
        f"{max(seconds, default=0) / 60:.1f}. "
        "Intervals draw photographs, and runs where there are several, anew (95 %, "
        f"{form.resamples:,} resamples). A sentence below "
        "follows from its interval by rule (`studies/findings.py`): a direction holds "
        "where the whole interval lies on its side of zero; “the same” where it lies "
        "within ±.03 as a whole and one of the two is at least .1 above chance; a "
        "network that is not so on any set it trained on tells nothing of transfer."
    )


def _commands(plan: Plan, name: str, study) -> str:
    steps = ordered(study.steps(plan))
    shown = [plan.runner.shown(step) for step in steps if step.module]
    # Of each module the last one: it stands for all.
    one = {command.split()[2]: command for command in shown}
    return "\n".join(
        [
            f"Of this study: `bash launch/studies.sh DIR --photos=FOLDER{_flag(plan)} "
            f"--only={name}`, with `--print` its {len(shown)} commands, such as",
            "",
            "```",
            *one.values(),
            "```",
        ]
    ).replace(str(plan.photos), "FOLDER")


def _flag(plan: Plan) -> str:
    form = plan.form
    seeds = f" --seeds={form.seeds}" * (form.seeds != FORMS[form.name].seeds)
    return f" --{form.name}" * (form.name != "small") + seeds

"""The page of all studies, in Markdown with charts beside it."""

import re
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
_RULES = (
    "Intervals draw photographs, and runs where there are several, anew (95 %). A "
    "sentence below follows from its interval by rule (`studies/findings.py`): a "
    "direction holds where the whole interval lies on its side of zero, “not lower” "
    "where it lies above -.03 as a whole, and both only where one of the two is at "
    "least .1 above chance; a network that is not so on any set it trained on tells "
    "nothing of transfer. Sentences rest on the standard protocol: in the reference's, "
    "pixel F1 counts an authentic image without marks as right, so that a network that "
    "marks nothing has their share, .4 in the forged sets."
)


def write(plan: Plan, studies: Mapping[str, ModuleType], names: Sequence[str]) -> Path:
    """Writes DIR/page/studies.md and its charts; returns its path.

    `names` are those of all studies in the order of the page, which says what is
    missing.
    """
    sections = {
        name: "\n\n".join(
            [
                f"## {study.TITLE}",
                *study.write(plan),
                f"{_how(plan, name, study)} {_commands(plan, name, study)}",
            ]
        )
        for name, study in studies.items()
    }
    plan.pictures.mkdir(parents=True, exist_ok=True)
    path = plan.pictures.parent / "studies.md"
    with replacing(path) as beside:
        beside.write_text(_page(plan.form.name, sections, names, _took(plan, studies)))
    return path


def merge(page: Path, to: Path, names: Sequence[str]) -> None:
    """Puts the sections of `page`, and their charts, into the page `to`.

    What `to` holds of other studies stays where it is of the same form; each section
    says by itself what made it. Charts lie in `studies` beside either page.
    """
    form, sections, took = _parts(page.read_text())
    before = to.read_text() if to.exists() else ""
    form_there, there, _ = _parts(before)
    if form_there == form and not set(there) <= set(sections):
        sections, took = there | sections, ""
    text = _page(form, sections, names, took)
    charts = to.parent / "studies"
    charts.mkdir(parents=True, exist_ok=True)
    for name in _charts(page.read_text()):
        shutil.copy(page.parent / "studies" / name, charts)
    with replacing(to) as beside:
        beside.write_text(text)
    for name in _charts(before) - _charts(text):
        (charts / name).unlink(missing_ok=True)


def _charts(page: str) -> set[str]:
    return set(re.findall(r"\(studies/([^)]+)\)", page))


def _page(
    form: str, sections: Mapping[str, str], names: Sequence[str], took: str
) -> str:
    parts = [
        "# Studies",
        "<!-- Written by launch/studies.sh; changes here are lost. -->",
        _SAID[form],
        _RULES,
        *([took] if took else []),
    ]
    left_out = [name for name in names if name not in sections]
    if left_out:
        parts.append(
            f"**Not run for this page: {', '.join(left_out)}.** `--only=NAME` runs one "
            "of them."
        )
    for name in names:
        if name in sections:
            parts += [f"<!-- study: {name} -->", sections[name]]
    return "\n\n".join(parts) + "\n"


def _parts(page: str) -> tuple[str, dict[str, str], str]:
    """The form of a page, its sections by study, and what `_took` said of them."""
    lead, *rest = re.split(r"^<!-- study: (\w+) -->$", page, flags=re.MULTILINE)
    form = next((form for form, said in _SAID.items() if said in lead), "")
    sections = dict(zip(rest[::2], map(str.strip, rest[1::2]), strict=True))
    took = re.search(rf"^{_TOOK} .*$", lead, flags=re.MULTILINE)
    return form, sections, took[0] if took else ""


_TOOK = "All of this took"


def _took(plan: Plan, studies: Mapping[str, ModuleType]) -> str:
    steps = ordered([step for study in studies.values() for step in study.steps(plan)])
    seconds = plan.runner.seconds(steps)
    cores = len(plan.runner.cores)
    where = f" on {cores} cores, a step on each" if cores > 1 else ""
    return (
        f"{_TOOK} {len(seconds)} steps and {plan.runner.hours(steps):.2f} hours{where}."
    )


def _how(plan: Plan, name: str, study: ModuleType) -> str:
    steps = ordered(study.steps(plan))
    seconds = plan.runner.seconds(steps)
    processor = sum(plan.runner.seconds(steps, "processor")) / 60
    form = plan.form
    said = f"sdfl_jax {__version__}; {form.seeds} seed{'s' * (form.seeds != 1)}"
    single = [of for of in form.once if of.split("/")[0] == name]
    said += f" (one for {', '.join(single)})" * bool(single and form.seeds > 1)
    said += f"; {form.resamples:,} resamples"
    if form.forged:
        counts = " + ".join(f"{n} {split}" for split, n in form.images.items())
        said += (
            f"; photographs forged at {SIDE}x{SIDE}, {counts} images for shallow, deep "
            f"and re-rendered ones each, and at {KIND_SIDE}x{KIND_SIDE} those of one "
            f"kind, {' + '.join(f'{n} {s}' for s, n in form.kind_images.items())}"
        )
    return (
        f"This section ({said}) took {len(seconds)} steps and {processor:.1f} minutes "
        "of processor time, data that other studies share included, and its longest "
        f"step {max(seconds, default=0) / 60:.1f} minutes."
    )


def _commands(plan: Plan, name: str, study) -> str:
    steps = ordered(study.steps(plan))
    shown = [plan.runner.shown(step) for step in steps if step.module]
    # Of each module the last one: it stands for all.
    one = {command.split()[2]: command for command in shown}
    return "\n".join(
        [
            f"Made by `bash launch/studies.sh DIR --photos=FOLDER{_flag(plan)} "
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

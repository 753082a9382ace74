"""The report of an evaluation: `report.md` and `report.html`."""

import os
from collections.abc import Mapping
from pathlib import Path

from sdfl_jax.evaluators import Evaluation
from sdfl_jax.files import replacing
from sdfl_jax.report import facts, tables
from sdfl_jax.report.gallery import Gallery
from sdfl_jax.report.training_log import read_log
from sdfl_jax.report.webpage import webpage


def write_report(
    folder: str | os.PathLike,
    *,
    gallery: Gallery | None = None,
    workdir: str | os.PathLike | None = None,
) -> None:
    """Writes `report.md` and `report.html` beside the files they are made of.

    Args:
      folder: holds `metrics.json` and `evaluation.npz`.
      gallery: images to show.
      workdir: the run, whose `metrics.jsonl` gives the curves of training.
    """
    folder = Path(folder)
    scores, evaluation = facts.read_scores(folder), Evaluation.load(folder)
    lines = read_log(workdir) if workdir is not None else []
    with replacing(folder / "report.md") as beside:
        text = markdown(scores, evaluation)
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")
    with replacing(folder / "report.html") as beside:
        text = webpage(scores, evaluation, gallery, lines)
        beside.write_text(text, encoding="utf-8", errors="backslashreplace")


def markdown(scores: Mapping, evaluation: Evaluation) -> str:
    """`report.md`: the summary first, then every metric with what it is."""
    said = facts.measured(scores, evaluation)
    parts = [
        f"# {facts.title(scores)}",
        "\n".join(f"- {term}: {text}" for term, text in said.items()),
        tables.score_table(scores),
        "Pixel metrics are means over manipulated images with a mask. Metrics that "
        "have no value on these images are left out.",
    ]
    for name, words in facts.protocols(scores).items():
        parts += [f"## Protocol: {name}", words]
        parts.append(
            tables.table(tables.metric_rows(scores, name), tables.METRIC_COLUMNS)
        )
    videos = scores.get("videos")
    if videos:
        parts += ["## Videos", tables.table(*facts.videos(videos))]
    ways = facts.ways(scores)
    if ways:
        parts.append("## Robustness")
        for name, way in ways.items():
            rows, columns = facts.robustness(way)
            parts += [f"{name}:", tables.table(rows, columns)]
    return "\n\n".join(parts) + "\n"

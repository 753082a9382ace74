"""The study's tables: networks by groups of data sets, in the reference's protocol.

The study prints pixel F1, image F1, combined F1 and image AUC over all images of a
group: shallow fakes, deep fakes and both. Groups are pooled here in the same way, from
the histograms that each evaluation keeps.
"""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from sdfl_jax import evaluators, metrics
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.report import tables
from sdfl_jax.report.facts import read_scores

GROUPS = {
    "shallow": ("casia2", "casia1", "columbia", "coverage", "nist16"),
    "deep": ("faceforensics", "cifake", "celebahq_inpainting", "faces140k"),
}

SHOWN = ("pixel_f1_all", "image_f1_sen_spe", "combined_f1", "image_auc")
_NAMES = ("pixel F1", "image F1 (sen-spe)", "combined F1", "image AUC")


@dataclasses.dataclass
class Row:
    """A trained network and what it was scored on, by name of the data set."""

    network: str
    train: str
    parts: dict[str, Evaluation]
    folders: list[str]


def group_of(name: str) -> str:
    """`shallow` or `deep` for the study's data sets, `casia1_test` and so on too."""
    lowered = name.lower()
    for group, members in GROUPS.items():
        for known in (group, *members):
            if lowered == known or lowered.startswith((f"{known}_", f"{known}-")):
                return group
    return name


def rows(folders: Sequence[str | os.PathLike]) -> list[Row]:
    """One row per network and training data; folders that add other sets join it."""
    found: list[Row] = []
    for folder in folders:
        scores, evaluation = read_scores(folder), Evaluation.load(folder)
        network, train = network_of(scores), train_of(scores)
        parts = by_set(scores, evaluation)
        for row in found:
            same = (row.network, row.train) == (network, train)
            if same and not row.parts.keys() & parts.keys():
                row.parts |= parts
                row.folders.append(str(folder))
                break
        else:
            found.append(Row(network, train, parts, [str(folder)]))
    return found


def network_of(scores: Mapping) -> str:
    """The network's name with what sets it apart."""
    setting = scores.get("setting") or {}
    model = (setting.get("config") or {}).get("model") or {}
    said = [model["encoder"]] if "encoder" in model else []
    if model.get("noise_branch") is False:
        said.append("no noise branch")
    name = model.get("name", "predictions")
    return f"{name} ({', '.join(said)})" if said else name


def train_of(scores: Mapping) -> str:
    """The groups of the training data's sources where known, else its folder's name."""
    card = scores.get("model_card") or {}
    sources = ((card.get("data") or {}).get("train") or {}).get("sources") or {}
    groups = {group_of(source) for source in sources if source}
    if groups and groups <= set(GROUPS):
        return " + ".join(group for group in GROUPS if group in groups)
    setting = scores.get("setting") or {}
    path = ((setting.get("config") or {}).get("data") or {}).get("train")
    if not path:
        return "-"
    names = [part for part in Path(path).parts if part not in ("train", "shards", "/")]
    return names[-1] if names else path


def by_set(scores: Mapping, evaluation: Evaluation) -> dict[str, Evaluation]:
    """The evaluation of each data set by its name."""
    data = scores.get("data") or []
    only = data[0]["name"] if len(data) == 1 else ""
    only = only or (scores.get("setting") or {}).get("data") or "data"
    return {name or only: evaluation.of_set(name) for name in evaluation.set_names}


def pooled(parts: Sequence[Evaluation]) -> dict:
    """The reference's metrics of all images of several evaluations."""
    thresholds = sorted({part.threshold for part in parts})
    if len(thresholds) > 1:
        raise InputError(
            f"Thresholds {thresholds} in one row; evaluate all data sets of a network "
            "at the same one."
        )
    arrays = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("histograms", "label", "score", "has_mask")
    )
    return metrics.from_histograms(*arrays, thresholds[0])["reference"]


def columns_of(found: Sequence[Row]) -> list[str]:
    """Shallow, deep and both as far as they occur, then sets of no group."""
    seen = dict.fromkeys(group_of(name) for row in found for name in row.parts)
    groups = [group for group in GROUPS if group in seen]
    both = ["both"] if len(groups) == len(GROUPS) else []
    return groups + both + [name for name in seen if name not in GROUPS]


def scores_of(row: Row) -> dict[str, dict]:
    """`pooled` of each group of the row's data sets; `both` where it has both."""
    return {name: pooled(list(parts.values())) for name, parts in _groups(row).items()}


def study_table(found: Sequence[Row]) -> str:
    """Markdown: four metrics in a cell, as the study prints them."""
    names = columns_of(found)
    lines = []
    for number, row in enumerate(found, start=1):
        scores = scores_of(row)
        cells = {name: _four(scores[name]) for name in names if name in scores}
        line = {"#": str(number), "network": row.network, "train": row.train}
        lines.append(line | cells)
    thresholds = {part.threshold for row in found for part in row.parts.values()}
    at = ", ".join(f"{threshold:.3g}" for threshold in sorted(thresholds))
    said = " / ".join(_NAMES)
    heads = {"#": "#", "network": "network", "train": "train"} | {
        name: f"{name} test" if name in GROUPS else name for name in names
    }
    return (
        f"{said}; threshold {at}; reference protocol: pixel F1 averages authentic "
        "images in,\nimage F1 is the harmonic mean of sensitivity and specificity.\n\n"
        + tables.table(lines, heads)
    )


def of_runs(found: Sequence[Row], *, resamples: int = metrics.RESAMPLES) -> list[dict]:
    """A dict per network, training data and group of test data, with intervals.

    Rows of one network, training data and test data are runs of one experiment. Keys:
    `network`, `train`, `test`, `runs`, and under each of `SHOWN` the `mean` over them
    and its `interval`, which draws images and runs anew.
    """
    experiments: dict[tuple, list[Row]] = {}
    for row in found:
        key = (row.network, row.train, tuple(sorted(row.parts)))
        experiments.setdefault(key, []).append(row)
    lines = []
    for (network, train, _), runs in experiments.items():
        groups = [_groups(row) for row in runs]
        for test in groups[0]:
            found = evaluators.of_runs(
                [_joined(parts[test]) for parts in groups],
                resamples=resamples,
                protocols=["reference"],
            )
            line = {"network": network, "train": train, "test": test}
            line["runs"] = len(runs)
            lines.append(line | {key: found["reference"][key] for key in SHOWN})
    return lines


def interval_table(found: Sequence[Row], *, resamples: int = metrics.RESAMPLES) -> str:
    """Markdown of `of_runs`, a line for each group of test data."""
    lines = [
        line | {key: _with_interval(line[key]) for key in SHOWN}
        for line in of_runs(found, resamples=resamples)
    ]
    heads = {name: name for name in ("network", "train", "test", "runs")}
    heads |= dict(zip(SHOWN, _NAMES, strict=True))
    return (
        "Means over runs (95 % intervals over images and runs); reference protocol.\n\n"
        + tables.table(lines, heads)
    )


def _groups(row: Row) -> dict[str, dict[str, Evaluation]]:
    """The parts of each group of the row's data sets; `both` where it has both."""
    members: dict[str, dict] = {}
    for name, part in row.parts.items():
        members.setdefault(group_of(name), {})[name] = part
    if all(group in members for group in GROUPS):
        members["both"] = {k: v for group in GROUPS for k, v in members[group].items()}
    return members


def _joined(parts: Mapping[str, Evaluation]) -> Evaluation:
    """One evaluation of all images of several data sets."""
    return Evaluation.merge(
        dataclasses.replace(
            part,
            known=[known | {"set": name} for known in part.known],
            calibrated=None,  # its thresholds play no part here
        )
        for name, part in parts.items()
    )


def _with_interval(figure: Mapping) -> str:
    if figure["interval"] is None:
        return _short(figure["mean"])
    low, high = figure["interval"]
    return f"{_short(figure['mean'])} ({_short(low)} to {_short(high)})"


CSV_COLUMNS = ("network", "train", "test", "n", *SHOWN, "folders")


def csv_rows(found: Sequence[Row]) -> list[dict]:
    """One dict per network and group, the metrics in full."""
    return [
        {
            "network": row.network,
            "train": row.train,
            "test": name,
            "n": scores["n"],
            **{key: scores[key] for key in SHOWN},
            "folders": " ".join(row.folders),
        }
        for row in found
        for name, scores in scores_of(row).items()
    ]


def _four(scores: Mapping) -> str:
    return " ".join(_short(scores[key]) for key in SHOWN)


def _short(value: float | None) -> str:
    """.60 for 0.6, as the study prints it."""
    if value is None:
        return "-"
    return f"{value:.2f}".removeprefix("0") if value < 0.995 else "1.0"

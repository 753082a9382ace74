"""N runs of one experiment summed up: mean, deviation, median and worst."""

import os
import statistics
from collections.abc import Mapping, Sequence

from sdfl_jax.errors import InputError, valid
from sdfl_jax.metrics import METRICS
from sdfl_jax.report import tables
from sdfl_jax.report.facts import read_scores

COLUMNS = {
    "metric": "metric",
    "runs": "runs",
    "mean": "mean",
    "deviation": "deviation",
    "median": "median",
    "worst": "worst",
    "best": "best",
    "key": "key",
}


def sum_up(
    folders: Sequence[str | os.PathLike], protocol: str = "standard"
) -> list[dict]:
    """A row for each metric with the keys of `COLUMNS`.

    `deviation` is that of a sample (n - 1), None for one run. `runs` counts those
    that have the metric. Raises `InputError` for folders that were scored on other
    data or at other thresholds, for then the runs do not repeat one experiment.
    """
    if protocol not in METRICS:
        raise InputError(f"--protocol={protocol}: {valid(protocol, METRICS)}")
    scores = [read_scores(folder) for folder in folders]
    for folder, one in zip(folders, scores, strict=True):
        if protocol not in one:
            raise InputError(
                f"{folder}: metrics.json has no protocol {protocol}; evaluate again."
            )
    first = _what(scores[0])
    for folder, other in zip(folders[1:], scores[1:], strict=True):
        differing = [key for key, value in _what(other).items() if value != first[key]]
        if differing:
            raise InputError(
                f"{folder}: another {differing[0]} than {folders[0]}; give runs that "
                "were scored on the same images in the same way."
            )
    keys = [key for key in scores[0][protocol] if key in METRICS[protocol]]
    return [
        _row(
            key,
            METRICS[protocol][key].better,
            [run[protocol].get(key) for run in scores],
        )
        for key in keys
    ]


def runs_table(rows: Sequence[Mapping]) -> str:
    """Markdown of what `sum_up` gives."""
    return tables.table(rows, COLUMNS)


def _row(key: str, better: str | None, values: Sequence[float | None]) -> dict:
    known = [value for value in values if value is not None]
    row = {"metric": tables.heading(key), "runs": len(known), "key": key}
    if not known:
        return row
    row |= {
        "mean": statistics.fmean(known),
        "deviation": statistics.stdev(known) if len(known) > 1 else None,
        "median": float(statistics.median(known)),
    }
    if better:
        ends = float(min(known)), float(max(known))
        row["worst"], row["best"] = ends[::-1] if better == "lower" else ends
    return row


def _what(scores: Mapping) -> dict:
    """What has to be the same in all runs."""
    setting = scores.get("setting") or {}
    data = [
        (part["name"], part.get("examples"), part.get("manifest_sha256"))
        for part in scores.get("data") or []
    ]
    return {
        "number of images": scores["reference"]["n"],
        "threshold": scores["reference"]["threshold"],
        "data set": data,
        "scoring": setting.get("scoring"),
        "empty-mask policy": setting.get("empty_mask"),
    }

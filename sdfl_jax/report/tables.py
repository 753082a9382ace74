"""Tables of metrics: rows out of `metrics.json`, and Markdown."""

from collections.abc import Mapping, Sequence

import numpy as np

from sdfl_jax import metrics


def table(rows: Sequence[Mapping], columns: Sequence[str] | Mapping[str, str]) -> str:
    """Markdown, aligned in plain text too.

    `columns`: the keys to show, or a mapping of keys to headings. Floats get three
    decimals, None and missing values a dash; a column of numbers, or of text that
    begins with a digit, is flush right.
    """
    headings = columns if isinstance(columns, Mapping) else {c: c for c in columns}
    # A bar would end the cell.
    cells = [[cell(row.get(k)).replace("|", r"\|") for k in headings] for row in rows]
    numeric = [all(_is_number(row.get(key)) for row in rows) for key in headings]
    grid = [list(headings.values()), *cells]
    widths = [max(3, *(len(line[i]) for line in grid)) for i in range(len(headings))]

    def line(values):
        padded = (
            value.rjust(width) if right else value.ljust(width)
            for value, width, right in zip(values, widths, numeric, strict=True)
        )
        return "| " + " | ".join(padded) + " |"

    rule = [
        "-" * (width - 1) + (":" if right else "-")
        for width, right in zip(widths, numeric, strict=True)
    ]
    return "\n".join([line(grid[0]), line(rule), *(line(row) for row in cells)])


SUMMARY = (
    "pixel_f1_manipulated",
    "pixel_iou_manipulated",
    "pixel_auc_manipulated",
    "image_f1",
    "image_auc",
)

_WORDS = {
    "f1": "F1",
    "iou": "IoU",
    "auc": "AUC",
    "mcc": "MCC",
    "ap": "average precision",
    "eer": "equal error rate",
    "ece": "calibration error",
    "pooled": "(pooled)",
    "permuted": "(map or its inverse)",
    "all": "(all images)",
}


def heading(key: str) -> str:
    """How a metric is called in a table: "pixel F1" for `pixel_f1_manipulated`."""
    if key == "image_f1_sen_spe":
        return "image F1 (sen-spe)"
    if key == "combined_f1":
        return "combined F1"
    words = key.removesuffix("_manipulated").removesuffix("_authentic").split("_")
    text = " ".join(_WORDS.get(word, word) for word in words)
    return text.replace("oracle dataset", "(oracle, one threshold)").replace(
        " oracle", " (oracle)"
    )


def summary_rows(scores: Mapping) -> list[dict]:
    """A row for each way to look at the data: `what` and the metrics of `SUMMARY`.

    `scores` is what `metrics.json` holds: `standard`, `reference` and, where there
    are any, `intervals`, `validation_threshold`, `sets`, `kinds`, `subsets`, `areas`,
    `videos` and `baselines`.
    """
    threshold = scores["reference"]["threshold"]
    rows = [{"what": f"threshold {threshold:.3g}", **scores["standard"]}]
    intervals = (scores.get("intervals") or {}).get("standard")
    if intervals:
        rows.append(
            {"what": "  95 % interval"}
            | {key: interval(intervals.get(key)) for key in SUMMARY}
        )
    calibrated = scores.get("validation_threshold")
    if calibrated:
        known = calibrated["threshold"]
        if known is None:  # of maps there is none where no mask was known
            known = calibrated["image_threshold"]
        what = f"threshold {known:.3g}, best on validation data"
        rows.append({"what": what, **calibrated["standard"]})
    for name, part in (scores.get("sets") or {}).items():
        rows.append({"what": f"- set {name}{_number(part)}", **part["standard"]})
    for kind, scored in (scores.get("kinds") or {}).items():
        what = f"- {kind or 'of unknown kind'}{_number(scored)}"
        rows.append({"what": what, **scored})
    for name, subset in (scores.get("subsets") or {}).items():
        rows.append({"what": f"- {name}{_number(subset)}", **subset["standard"]})
        everything = subset["baselines"]["everything_manipulated"]
        rows.append({"what": f"  baseline: all of it, {name}", **everything})
    for name, scored in (scores.get("areas") or {}).items():
        rows.append({"what": f"- mask area {name}{_number(scored)}", **scored})
    for name, scored in (scores.get("baselines") or {}).items():
        rows.append({"what": f"baseline: {name.replace('_', ' ')}", **scored})
    return rows


def score_table(scores: Mapping, protocol: str = "standard") -> str:
    """`summary_rows` as Markdown; of another protocol its metrics."""
    if protocol != "standard":
        columns = ("metric", "value", "interval")
        columns = {key: METRIC_COLUMNS[key] for key in columns}
        return table(metric_rows(scores, protocol), columns)
    rows = summary_rows(scores)
    return table(rows, summary_columns(rows))


def summary_columns(rows: Sequence[Mapping]) -> dict[str, str]:
    """Headings of `summary_rows`, without metrics that no row has.

    Where no image has a mask, those of pixels have no value.
    """
    known = [key for key in SUMMARY if any(row.get(key) is not None for row in rows)]
    return {"what": ""} | {key: heading(key) for key in known}


def metric_rows(scores: Mapping, protocol: str) -> list[dict]:
    """A row for each metric of a protocol that has a value, in the order of the file.

    Keys: `metric`, `value`, `interval` (95 %, text), `calibrated` (at the thresholds
    of the validation data), `meaning` and `key`.
    """
    intervals = (scores.get("intervals") or {}).get(protocol) or {}
    calibrated = (scores.get("validation_threshold") or {}).get(protocol) or {}
    meanings = metrics.METRICS[protocol]
    return [
        {
            "metric": heading(key),
            "value": value,
            "interval": interval(intervals.get(key)),
            "calibrated": calibrated.get(key),
            "meaning": meanings[key].what if key in meanings else "",
            "key": key,
        }
        for key, value in scores[protocol].items()
        if isinstance(value, float | None)  # counts and settings stand elsewhere
        and key != "threshold"
        and (value is not None or calibrated.get(key) is not None)
    ]


METRIC_COLUMNS = {
    "metric": "metric",
    "value": "value",
    "interval": "95 % interval",
    "calibrated": "at the validation data's thresholds",
    "meaning": "what it is",
    "key": "key in metrics.json",
}


def interval(bounds: Sequence[float | None] | None) -> str | None:
    """ "0.590 to 0.660"; None where there is none or no width."""
    if bounds is None or None in bounds or bounds[0] == bounds[1]:
        return None  # of a single image, say, which tells nothing of others
    return "{:.3f} to {:.3f}".format(*bounds)


def _number(scored: Mapping) -> str:
    number = scored.get("manipulated")
    return "" if number is None else f" ({number})"


def cell(value) -> str:
    """A value as tables show it."""
    if value is None:
        return "-"
    if isinstance(value, float | np.floating):
        return f"{value:.3f}"
    return str(value)


def _is_number(value) -> bool:
    if isinstance(value, str):
        return value[:1].isdigit()
    return isinstance(value, int | float | None)

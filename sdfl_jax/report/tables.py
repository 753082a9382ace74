"""Tables of figures, in Markdown."""

from collections.abc import Mapping, Sequence

import numpy as np


def table(rows: Sequence[Mapping], columns: Sequence[str] | Mapping[str, str]) -> str:
    """Markdown, aligned in plain text too.

    `columns`: the keys to show, or a mapping of keys to headings. Floats get three
    decimals, None and missing values a dash; a column of numbers is flush right.
    """
    headings = columns if isinstance(columns, Mapping) else {c: c for c in columns}
    cells = [[_cell(row.get(key)) for key in headings] for row in rows]
    numeric = [
        all(isinstance(row.get(key), int | float | None) for row in rows)
        for key in headings
    ]
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


_SCORE_COLUMNS = {
    "what": "",
    "pixel_f1_manipulated": "pixel F1",
    "pixel_iou_manipulated": "pixel IoU",
    "pixel_auc_manipulated": "pixel AUC",
    "image_f1": "image F1",
    "image_auc": "image AUC",
}


def score_table(scores: Mapping) -> str:
    """The standard figures of an evaluation beside those of its baselines, Markdown.

    `scores` is what `metrics.json` holds: `standard`, `reference` and, where there
    are any, `validation_threshold`, `kinds`, `subsets` and `baselines`.
    """
    threshold = scores["reference"]["threshold"]
    rows = [{"what": f"threshold {threshold:.3g}", **scores["standard"]}]
    calibrated = scores.get("validation_threshold")
    if calibrated:
        what = f"threshold {calibrated['threshold']:.3g}, best on validation data"
        rows.append({"what": what, **calibrated["standard"]})
    for kind, figures in (scores.get("kinds") or {}).items():
        what = f"- {kind or 'of unknown kind'} ({figures['manipulated']})"
        rows.append({"what": what, **figures})
    for name, subset in (scores.get("subsets") or {}).items():
        what = f"- {name} ({subset['manipulated']})"
        rows.append({"what": what, **subset["standard"]})
        everything = subset["baselines"]["everything_manipulated"]
        rows.append({"what": f"  baseline: all of it, {name}", **everything})
    for name, figures in (scores.get("baselines") or {}).items():
        rows.append({"what": f"baseline: {name.replace('_', ' ')}", **figures})
    return table(rows, _SCORE_COLUMNS)


def _cell(value) -> str:
    if value is None:
        return "-"
    if isinstance(value, float | np.floating):
        return f"{value:.3f}"
    return str(value)

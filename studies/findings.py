"""What may be said of a difference, by rule and not by hand."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from sdfl_jax import evaluators
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.report import tables

_PROTOCOL = "standard"
SMALL = 0.03  # a difference that costs nothing worth the name
ROOM = 0.1  # above chance, where a figure stands from which something could be lost
SEEDS = 3  # fewer runs tell nothing of what another seed would have changed


@dataclasses.dataclass(frozen=True)
class Claim:
    """Of the documents: the second is `higher`, `lower` or `not lower` than the first.

    `first` and `second` are folders of evaluations, of a run each; `metric` is one of
    the standard protocol on the test set `test`. (The reference's pixel F1 gives the
    share of authentic images to a network that marks nothing.) `learnt` are the sets
    that the second was trained on: where it marks none of them, it says nothing of what
    it does not know.
    """

    said: str
    names: tuple[str, str]
    first: Sequence[Path]
    second: Sequence[Path]
    test: str
    metric: str
    expected: str
    learnt: Sequence[str] = ()


def judge(
    expected: str, interval: Sequence[float] | None, above_chance: float = 1.0
) -> str:
    """`holds`, `does not hold` or `cannot tell`, from the interval of a difference.

    A direction holds where the whole interval lies on its side of zero, `not lower`
    where it lies above -SMALL as a whole. What is wholly below, or on the other side,
    does not hold; everything else cannot be told, nor can anything of two of which
    neither had learnt: the better one is less than ROOM `above_chance`.
    """
    if interval is None or above_chance < ROOM:
        return "cannot tell"
    low, high = interval
    above, below = low > (-SMALL if expected == "not lower" else 0), high < 0
    if expected == "lower":
        above, below = below, above
    return "holds" if above else "does not hold" if below else "cannot tell"


def found(claims: Sequence[Claim], resamples: int) -> list[dict]:
    """A row for each claim: what was compared, the difference and what it says."""
    rows = []
    for claim in claims:
        first, second = (
            [_of(folder, claim.test) for folder in folders]
            for folders in (claim.first, claim.second)
        )
        how = {"resamples": resamples, "protocols": [_PROTOCOL]}
        entry = evaluators.compare(first, second, **how)[_PROTOCOL][claim.metric]
        values = [entry[name] for name in ("first", "second")]
        above = _above_chance(values, claim.metric, first[0])
        here = judge(claim.expected, entry["interval"], above)
        if claim.learnt and _learnt(claim) < ROOM:
            here = "cannot tell"
        rows.append(
            {
                "finding": claim.said,
                "a": claim.names[0],
                "b": claim.names[1],
                "test": claim.test,
                "figure": tables.heading(claim.metric),
                "first": entry["first"],
                "second": entry["second"],
                "difference": entry["difference"],
                "interval": _interval(entry["interval"]),
                "p": entry["p_value"],
                "here": here,
                "runs": min(len(first), len(second)),
            }
        )
    return rows


COLUMNS = {
    "finding": "of the documents",
    "a": "A",
    "b": "B",
    "test": "test",
    "figure": "figure",
    "first": "A ",
    "second": "B ",
    "difference": "B - A",
    "interval": "95 % interval",
    "p": "p",
    "here": "here",
}


def table(rows: Sequence[dict]) -> str:
    return tables.table(rows, COLUMNS)


_VERDICTS = {
    "holds": "Holds",
    "does not hold": "Does not hold",
    "cannot tell": "Cannot be told",
}


def sentences(rows: Sequence[dict]) -> str:
    """What became of each finding, as a list, and what limits them all."""
    lines = []
    for finding in dict.fromkeys(row["finding"] for row in rows):
        of_it = [row for row in rows if row["finding"] == finding]
        lines.append(" ".join([f"- **{finding}**:", *map(_sentence, of_it)]))
    if min((row["runs"] for row in rows), default=0) < SEEDS:
        lines.append(
            "\nFewer than three seeds stand behind this, so the intervals cover other "
            "photographs but not another run of the same training: take every sentence "
            "above as what one run showed, not as a finding."
        )
    return "\n".join(lines)


def _sentence(row: dict) -> str:
    numbers = (
        f"{row['difference']:+.3f} ({row['interval'] or 'no interval'})"
        if row["difference"] is not None
        else "is not defined"
    )
    return (
        f"{_VERDICTS[row['here']]} on {row['test']}: {row['figure']} of {row['b']} "
        f"against {row['a']} {numbers}."
    )


def _above_chance(values: Sequence, metric: str, images: Evaluation) -> float:
    """Of the best run: how far above one that marks nothing or tosses a coin."""
    chance = 0.0
    if "_auc" in metric:
        chance = 0.5
    elif metric == "image_accuracy":  # of one that always says the same
        chance = float(max((images.label == c).mean() for c in (0, 1)))
    return max((v for v in values if v is not None), default=0.0) - chance


def _learnt(claim: Claim) -> float:
    """How far the second is above chance on the set it knows best, in the mean run."""
    found = []
    for name in claim.learnt:
        runs = [_of(folder, name) for folder in claim.second]
        scores = [run.sample().by_protocol()[_PROTOCOL] for run in runs]
        values = [score[claim.metric] or 0.0 for score in scores]
        mean = sum(values) / len(values)
        found.append(_above_chance([mean], claim.metric, runs[0]))
    return max(found)


def _interval(bounds) -> str | None:
    return None if bounds is None else "{:+.3f} to {:+.3f}".format(*bounds)


def _of(folder: Path, test: str) -> Evaluation:
    whole = dataclasses.replace(Evaluation.load(folder), calibrated=None)
    return whole.of_set(test) if test in whole.set_names else whole

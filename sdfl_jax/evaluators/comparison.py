"""Whether two networks differ on the same images, or chance alone may explain it."""

import collections
from collections.abc import Sequence

import numpy as np

from sdfl_jax import metrics
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators.evaluation import Evaluation

PROTOCOLS = tuple(metrics.METRICS)


def compare(
    first: Evaluation | Sequence[Evaluation],
    second: Evaluation | Sequence[Evaluation],
    *,
    resamples: int = metrics.RESAMPLES,
    seed: int = 0,
    protocols: Sequence[str] = PROTOCOLS,
) -> dict:
    """`metrics.differences` of two evaluations of the same images, in any order.

    Either may be several runs of one experiment. Each is cut at its own threshold.
    Returns `images`, `groups` (drawn together), `runs` of either, `resamples`, `seed`,
    the comparisons of the `protocols`, and, where all know them, the same under
    `validation_threshold`. Raises `InputError` where images, labels or masks are not
    the same.
    """
    first, second = _aligned(_several(first)), _several(second)
    second = [one.take(_places(first[0], one)) for one in second]
    drawing = {"resamples": resamples, "seed": seed}
    groups, how = first[0].groups, {**drawing, "protocols": protocols}
    samples = lambda runs: [run.sample() for run in runs]
    result = {
        "images": len(first[0].known),
        "groups": len(np.unique(groups)),
        "runs": [len(first), len(second)],
        **drawing,
        **metrics.differences(samples(first), samples(second), groups, **how),
    }
    if all(run.calibrated for run in (*first, *second)):
        samples = lambda runs: [run.sample(*run.calibrated) for run in runs]
        result["validation_threshold"] = metrics.differences(
            samples(first), samples(second), groups, **how
        )
    return result


def of_runs(
    runs: Sequence[Evaluation],
    *,
    resamples: int = metrics.RESAMPLES,
    seed: int = 0,
    protocols: Sequence[str] = PROTOCOLS,
) -> dict:
    """`metrics.of_runs` of evaluations of the same images, in any order.

    `InputError` where images, labels or masks are not the same.
    """
    runs = _aligned(runs)
    samples = [run.sample() for run in runs]
    how = {"resamples": resamples, "seed": seed, "protocols": protocols}
    return metrics.of_runs(samples, runs[0].groups, **how)


def _several(given) -> list[Evaluation]:
    return [given] if isinstance(given, Evaluation) else list(given)


def _aligned(runs: Sequence[Evaluation]) -> list[Evaluation]:
    """The runs with their images in the order of the first."""
    first, *others = runs
    return [first, *(other.take(_places(first, other)) for other in others)]


def _places(first: Evaluation, second: Evaluation) -> np.ndarray:
    """Where each image of `first` stands in `second`."""
    keys, others = _keys(first), _keys(second)
    unlike = sorted(set(keys) ^ set(others))
    if unlike:
        raise InputError(
            f"The evaluations are of {len(keys)} and {len(others)} images, and"
            f" {len(unlike)} are only in one of them, such as {unlike[0][1]}; compare"
            " evaluations of the same data."
        )
    at = {key: place for place, key in enumerate(others)}
    places = np.array([at[key] for key in keys], np.int64)
    pixels = lambda e: e.histograms.sum(axis=2) * e.has_mask[:, None]
    for what, one, other in (
        ("label", first.label, second.label),
        ("mask", first.has_mask, second.has_mask),
        ("mask", pixels(first), pixels(second)),
    ):
        differ = (one != other[places]).reshape(len(places), -1).any(axis=1)
        if differ.any():
            name = keys[int(np.argmax(differ))][1]
            raise InputError(
                f"{np.count_nonzero(differ)} images, such as {name}, have another"
                f" {what} in the second evaluation; compare evaluations against the"
                " same masks at the same resolution."
            )
    return places


def _keys(evaluation: Evaluation) -> list[tuple]:
    """Set, name and, for names that come again, the how-manieth of each image."""
    seen = collections.Counter()
    several = len(evaluation.set_names) > 1  # one set may go by different names
    keys = []
    for known in evaluation.known:
        place = (known.get("set", "") if several else "", known["name"])
        keys.append((*place, seen[place]))
        seen[place] += 1
    return keys

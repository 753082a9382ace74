"""Whether two networks differ on the same images, or chance alone may explain it."""

import collections

import numpy as np

from sdfl_jax import metrics
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators.evaluation import Evaluation


def compare(
    first: Evaluation,
    second: Evaluation,
    *,
    resamples: int = metrics.RESAMPLES,
    seed: int = 0,
) -> dict:
    """`metrics.differences` of two evaluations of the same images, in any order.

    Each is cut at its own threshold. Returns `images`, `groups` (drawn together),
    `resamples`, `seed`, the comparisons `reference` and `standard`, and, where both
    know them, the same under `validation_threshold`. Raises `InputError` where images,
    labels or masks are not the same.
    """
    second = second.take(_places(first, second))
    drawing = {"resamples": resamples, "seed": seed}
    result = {
        "images": len(first.known),
        "groups": len(np.unique(first.groups)),
        **drawing,
        **metrics.differences(first.sample(), second.sample(), first.groups, **drawing),
    }
    if first.calibrated and second.calibrated:
        result["validation_threshold"] = metrics.differences(
            first.sample(*first.calibrated),
            second.sample(*second.calibrated),
            first.groups,
            **drawing,
        )
    return result


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

"""How sure a metric is: intervals and paired comparisons by resampling images.

Images that belong together (pieces of one photograph, frames of one video) are drawn
together: whole groups are resampled with replacement (cluster bootstrap; Field and
Welsh, JRSS B 2007). A resample is a row of weights, so all metrics of all resamples are
a few matrix products, and two networks are compared under the same weights. Several
runs of one experiment are drawn with replacement as well: what differs from seed to
seed then counts beside what differs from image to image.
"""

import functools
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Float, Integer

from sdfl_jax.errors import InputError
from sdfl_jax.metrics.sample import PROTOCOLS, Sample

RESAMPLES = 1000
CONFIDENCE = 0.95

# Weights held at a time: 128 MB.
_BLOCK = 2**24

# A metric that more than half of the resamples do not define (a class is missing in
# them) gets no interval.
_LEAST_DEFINED = 0.5


def intervals(
    sample: Sample,
    groups: Sequence | np.ndarray | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    protocols: Sequence[str] = PROTOCOLS,
) -> dict[str, dict]:
    """95 % intervals `[low, high]` of each metric of these protocols.

    Percentiles over `resamples` data sets of as many groups, drawn with replacement;
    `groups` (N,) names each image's group, by default each image is its own. Metrics
    that choose a threshold on the data choose it anew in each resample. None where the
    metric is None, where most resamples leave it undefined, or with a single group.
    """
    found = sample.by_protocol()
    drawn = _resampled([sample], groups, resamples, seed, protocols)
    return {
        protocol: {
            name: None
            if drawn is None or found[protocol][name] is None
            else _interval(drawn[0][protocol][name])
            for name in sample.keys(protocol)
        }
        for protocol in protocols
    }


def differences(
    first: Sample | Sequence[Sample],
    second: Sample | Sequence[Sample],
    groups: Sequence | np.ndarray | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    protocols: Sequence[str] = PROTOCOLS,
) -> dict[str, dict]:
    """Each metric of two predictions for the same images, and their difference.

    Either may be several runs of one experiment: their mean counts. Both see the same
    resamples of the images (paired bootstrap). Per protocol and metric: `first`,
    `second`, `difference` (second minus first), its 95 % `interval` and a two-sided
    `p_value`: twice the share of resamples in which the difference is not on its side
    of zero, at least 2 / (resamples + 1), which is as small as it can be told. The
    p-values are not corrected for looking at many metrics. None where a metric is
    undefined for either, and without two groups no interval and no p-value.
    """
    first, second = _several(first), _several(second)
    if len(first[0].label) != len(second[0].label):
        raise InputError(
            f"There are {len(first[0].label)} and {len(second[0].label)} images; both"
            " must hold the same ones."
        )
    one, other = _means(first), _means(second)
    drawn = _resampled([*first, *second], groups, resamples, seed, protocols)
    if drawn:
        count = len(first)
        drawn = (
            _drawn_runs(drawn[:count], seed, stream=1),
            _drawn_runs(drawn[count:], seed, stream=2),
        )
    result = {}
    for protocol in protocols:
        result[protocol] = {}
        for name in first[0].keys(protocol):
            if name not in other[protocol]:
                continue
            a, b = one[protocol][name], other[protocol][name]
            known = a is not None and b is not None
            entry = {"first": a, "second": b, "difference": b - a if known else None}
            differences = (
                drawn[1](protocol, name) - drawn[0](protocol, name)
                if known and drawn
                else np.full(1, np.nan)
            )
            entry["interval"] = _interval(differences)
            entry["p_value"] = _p_value(differences)
            result[protocol][name] = entry
    return result


def of_runs(
    runs: Sequence[Sample],
    groups: Sequence | np.ndarray | None = None,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    protocols: Sequence[str] = PROTOCOLS,
) -> dict[str, dict]:
    """Of runs on the same images the `mean` of each metric, and its 95 % `interval`.

    Each resample draws groups of images and, where there are several, runs.
    """
    found = _means(runs)
    drawn = _resampled(runs, groups, resamples, seed, protocols)
    values = _drawn_runs(drawn, seed, stream=1) if drawn else None
    return {
        protocol: {
            name: {
                "mean": found[protocol][name],
                "interval": None
                if values is None or found[protocol][name] is None
                else _interval(values(protocol, name)),
            }
            for name in runs[0].keys(protocol)
        }
        for protocol in protocols
    }


def _several(given: Sample | Sequence[Sample]) -> Sequence[Sample]:
    return [given] if isinstance(given, Sample) else given


def _means(runs: Sequence[Sample]) -> dict[str, dict[str, float | None]]:
    """The mean over runs of each metric; None where one of them has none."""
    found = [run.by_protocol() for run in runs]
    mean = lambda values: None if None in values else sum(values) / len(values)
    return {
        protocol: {
            name: mean([one[protocol][name] for one in found])
            for name in runs[0].keys(protocol)
        }
        for protocol in found[0]
    }


def _drawn_runs(drawn: Sequence[dict], seed: int, stream: int) -> Callable:
    """`(protocol, name) -> (R,)`: the mean over runs, drawn anew in each resample."""
    count = len(drawn)

    @functools.cache
    def shares(resamples: int):
        rng = np.random.default_rng((seed, stream))
        return rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count

    def values(protocol: str, name: str):
        each = np.stack([run[protocol][name] for run in drawn], axis=1)  # R runs
        of = shares(len(each))
        # A run that is not drawn may be undefined.
        return np.where(of > 0, each * of, 0).sum(axis=1)

    return values


def weights(
    groups: Integer[np.ndarray, "N"], resamples: int, seed: int
) -> Iterator[Float[np.ndarray, "R N"]]:
    """How often each image counts in each resample, some resamples at a time.

    `groups` counts from 0 without gaps. The same seed gives the same resamples.
    """
    count = int(groups.max()) + 1
    rng = np.random.default_rng(seed)
    rows = max(1, _BLOCK // len(groups))
    for start in range(0, resamples, rows):
        drawn = rng.multinomial(
            count, np.full(count, 1 / count), size=min(rows, resamples - start)
        )
        yield drawn.astype(np.float64)[:, groups]


def _resampled(
    samples, groups, resamples, seed, protocols=PROTOCOLS
) -> list[dict] | None:
    """Metrics of each sample under every resample; None without two groups."""
    n = len(samples[0].label)
    if groups is None:
        groups = np.arange(n)
    if len(groups) != n:
        raise InputError(f"There are {len(groups)} groups for {n} images.")
    groups = np.unique(np.asarray(groups), return_inverse=True)[1].reshape(-1)
    if not n or groups.max() < 1:
        return None
    blocks = [
        [sample.weighted(block, protocols) for sample in samples]
        for block in weights(groups, resamples, seed)
    ]
    return [
        {
            protocol: {
                name: np.concatenate([block[i][protocol][name] for block in blocks])
                for name in metrics
            }
            for protocol, metrics in blocks[0][i].items()
        }
        for i in range(len(samples))
    ]


def _interval(values) -> list[float] | None:
    defined = values[~np.isnan(values)]
    if len(defined) <= _LEAST_DEFINED * len(values):
        return None
    tail = (1 - CONFIDENCE) / 2
    return [float(edge) for edge in np.quantile(defined, [tail, 1 - tail])]


def _p_value(differences) -> float | None:
    defined = differences[~np.isnan(differences)]
    if len(defined) <= _LEAST_DEFINED * len(differences):
        return None
    # The metrics themselves count as one more resample: no p-value is ever 0.
    sides = [np.count_nonzero(defined <= 0), np.count_nonzero(defined >= 0)]
    return min(1.0, float(2 * (min(sides) + 1) / (len(defined) + 1)))

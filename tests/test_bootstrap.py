"""Intervals and comparisons: what resampling promises, and what scipy finds."""

import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from sdfl_jax import metrics
from sdfl_jax.errors import InputError
from sdfl_jax.metrics import bootstrap, pixels, scores


def sample_of(f1, label, score, **how):
    """Images of 100 pixels, 50 of them manipulated, of which so many are found."""
    label = np.asarray(label)
    found = np.round(50 * np.asarray(f1) / (2 - np.asarray(f1))).astype(int)
    histograms = np.zeros((len(label), 3, 256), np.int32)
    histograms[:, 2, 200] = label * found
    histograms[:, 2, 20] = label * (50 - found)
    histograms[:, 0, 10] = 100 - 50 * label
    return metrics.Sample(histograms, label, score, **how)


def random_sample(seed, n=24, distinct=5, **how):
    rng = np.random.default_rng(seed)
    histograms = np.zeros((n, 3, 256), np.int32)
    label = rng.integers(0, 2, n)
    few = rng.choice(256, 4, replace=False)
    histograms[:, 0][:, few] = rng.integers(0, 9, (n, 4))
    histograms[:, 2][:, few] = label[:, None] * rng.integers(0, 5, (n, 4))
    score = rng.integers(0, distinct + 1, n) / distinct
    return metrics.Sample(histograms, label, score, has_mask=rng.random(n) < 0.8, **how)


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 30),
    st.integers(1, 9),
    st.sampled_from(["one", "zero", "skip"]),
)
def test_an_image_of_weight_two_counts_as_two_images(seed, n, distinct, policy):
    how = {"empty_mask": policy, "permute": True, "threshold": 0.3}
    sample = random_sample(seed, n, distinct, **how)
    weights = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=2)
    found = sample.weighted(weights.astype(float))
    for row, weight in enumerate(weights):
        drawn = np.repeat(np.arange(n), weight)
        repeated = metrics.Sample(
            sample.histograms[drawn],
            sample.label[drawn],
            sample.score[drawn],
            sample.has_mask[drawn],
            **how,
        ).by_protocol()
        for protocol, figures in found.items():
            for name, values in figures.items():
                expected = repeated[protocol][name]
                expected = np.nan if expected is None else expected
                assert values[row] == pytest.approx(expected, nan_ok=True), name


def test_an_interval_of_a_mean_is_that_of_scipy():
    rng = np.random.default_rng(0)
    f1 = np.linspace(0.1, 0.9, 60) ** 2
    sample = sample_of(f1, np.ones(60, int), rng.random(60))
    values = sample.columns["pixel_f1"]
    expected = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=rng
    ).confidence_interval
    found = metrics.intervals(sample, resamples=4000)["standard"]
    low, high = found["pixel_f1_manipulated"]
    width = expected.high - expected.low
    assert low == pytest.approx(expected.low, abs=0.04 * width)
    assert high == pytest.approx(expected.high, abs=0.04 * width)


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held = {"image_auc": [], "image_recall": []}
    truth = {
        "image_auc": scipy.stats.norm.cdf(1 / np.sqrt(2)),
        "image_recall": scipy.stats.norm.sf(-0.5),
    }
    label = np.arange(80) % 2
    for seed in range(150):
        score = rng.normal(label, 1)
        sample = sample_of(np.ones(80), label, score)
        found = metrics.intervals(sample, resamples=200, seed=seed)["standard"]
        for name, hits in held.items():
            hits.append(found[name][0] <= truth[name] <= found[name][1])
    for name, hits in held.items():  # 95 % of 150 are 142.5, deviation 2.7
        assert 133 <= sum(hits) <= 150, name


def test_the_seed_decides_the_resamples_and_blocks_do_not(monkeypatch):
    sample = random_sample(1)
    first = metrics.intervals(sample, resamples=100)
    json.dumps(first, allow_nan=False)
    assert first == metrics.intervals(sample, resamples=100)
    assert first != metrics.intervals(sample, resamples=100, seed=1)
    monkeypatch.setattr(bootstrap, "_BLOCK", 7 * len(sample.label))
    monkeypatch.setattr(pixels, "_CHUNK", 5)
    monkeypatch.setattr(scores, "_BLOCK", 3 * len(sample.label))
    blocks = [len(w) for w in bootstrap.weights(np.arange(24), 100, 0)]
    assert blocks == [7] * 14 + [2]
    parts = metrics.intervals(sample, resamples=100)
    for protocol, figures in first.items():
        for name, interval in figures.items():
            assert parts[protocol][name] == (interval and pytest.approx(interval)), name


def test_copies_of_an_image_in_its_group_tell_nothing_new():
    sample = random_sample(2)
    copies = np.tile(np.arange(24), 4)
    many = metrics.Sample(
        sample.histograms[copies],
        sample.label[copies],
        sample.score[copies],
        sample.has_mask[copies],
    )
    one = metrics.intervals(sample, np.arange(24), resamples=200)["standard"]
    grouped = metrics.intervals(many, copies, resamples=200)["standard"]
    alone = metrics.intervals(many, resamples=200)["standard"]
    width = lambda interval: interval[1] - interval[0]
    for name in ("pixel_f1_manipulated", "image_auc", "image_recall", "image_ece"):
        assert grouped[name] == pytest.approx(one[name]), name
        assert width(alone[name]) < 0.75 * width(one[name]), name


def test_names_of_groups_may_be_anything():
    sample = random_sample(3)
    numbers = np.arange(24) // 2
    names = [f"video {number:02d}" for number in numbers]
    assert metrics.intervals(sample, names) == metrics.intervals(sample, numbers)
    with pytest.raises(InputError, match="3 groups for 24 images"):
        metrics.intervals(sample, [1, 2, 3])


def test_where_nothing_varies_or_nothing_is_known_there_is_no_interval():
    label = np.array([1] * 9 + [0])
    sample = sample_of(np.full(10, 0.5), label, label)
    found = metrics.intervals(sample, resamples=200)["standard"]
    low, high = found["pixel_f1_manipulated"]
    assert low == pytest.approx(high)  # all images score alike
    assert found["image_auc"] == [1, 1]  # where both classes are drawn
    alone = sample_of(np.full(10, 0.5), np.ones(10, int), np.ones(10))
    found = metrics.intervals(alone, resamples=50)["standard"]
    assert found["image_auc"] is None and found["false_alarm_area_authentic"] is None
    found = metrics.intervals(sample, np.zeros(10), resamples=50)
    assert set(found["standard"].values()) | set(found["reference"].values()) == {None}
    nothing = metrics.Sample(np.zeros((0, 3, 256), int), [], [])
    assert set(metrics.intervals(nothing)["standard"].values()) == {None}


def test_equal_predictions_do_not_differ():
    sample = random_sample(4)
    found = metrics.differences(sample, sample, resamples=50)["standard"]
    for entry in found.values():
        if entry["difference"] is not None:
            assert entry["difference"] == 0 and entry["p_value"] == 1
            assert entry["interval"] == [0, 0]


def test_a_difference_that_every_image_shows_is_found_though_images_vary():
    rng = np.random.default_rng(0)
    f1 = rng.uniform(0.1, 0.8, 40)
    ones = np.ones(40, int)
    worse, better = sample_of(f1, ones, ones), sample_of(f1 + 0.05, ones, ones)
    entry = metrics.differences(worse, better)["standard"]["pixel_f1_manipulated"]
    assert entry["difference"] == pytest.approx(
        entry["second"] - entry["first"]
    ) and entry["difference"] == pytest.approx(0.05, abs=0.01)
    assert entry["interval"][0] > 0
    assert entry["p_value"] == pytest.approx(2 / 1001)  # as small as can be told
    # The two intervals by themselves could not tell them apart.
    single = metrics.intervals(worse)["standard"]["pixel_f1_manipulated"]
    assert single[1] > entry["second"]
    back = metrics.differences(better, worse)["standard"]["pixel_f1_manipulated"]
    assert back["difference"] == -entry["difference"]
    assert back["p_value"] == entry["p_value"]


def test_chance_alone_is_called_a_difference_as_seldom_as_promised():
    rng = np.random.default_rng(0)
    ones = np.ones(50, int)
    found = []
    for seed in range(150):
        one, other = (sample_of(rng.uniform(0, 1, 50), ones, ones) for _ in range(2))
        entry = metrics.differences(one, other, resamples=200, seed=seed)["standard"]
        found.append(entry["pixel_f1_manipulated"]["p_value"])
    assert 1 <= np.count_nonzero(np.array(found) < 0.05) <= 16  # 7.5 expected
    assert 0.35 < np.mean(found) < 0.65


def test_other_numbers_of_images_are_not_compared():
    with pytest.raises(InputError, match="24 and 20 images"):
        metrics.differences(random_sample(0), random_sample(0, n=20))


# Several runs of one experiment


def runs_of(*f1s):
    label = np.array([0, 1] * 10)
    return [sample_of(label * f1, label, 0.1 + 0.8 * label) for f1 in f1s]


def test_one_run_has_the_interval_of_a_single_prediction():
    sample = random_sample(3)
    alone = metrics.intervals(sample, resamples=50, seed=4)
    for protocol, figures in metrics.of_runs([sample], resamples=50, seed=4).items():
        for name, figure in figures.items():
            assert figure["mean"] == sample.by_protocol()[protocol][name]
            assert figure["interval"] == alone[protocol][name]


def test_runs_that_differ_widen_the_interval_of_their_mean():
    # All images alike: only which runs are drawn can matter.
    alike = metrics.of_runs(runs_of(0.5, 0.5, 0.5), resamples=200)
    apart = metrics.of_runs(runs_of(0.2, 0.5, 0.8), resamples=200)
    name = "pixel_f1_manipulated"
    width = lambda found: np.ptp(found["standard"][name]["interval"])
    assert width(alike) == pytest.approx(0, abs=1e-9)
    assert width(apart) > 0.3
    assert apart["standard"][name]["mean"] == pytest.approx(0.5, abs=0.01)


def test_two_experiments_differ_where_all_their_runs_do():
    name, how = "pixel_f1_manipulated", {"resamples": 400}
    first, second = runs_of(0.3, 0.35, 0.4), runs_of(0.6, 0.65, 0.7)
    entry = metrics.differences(first, second, **how)["standard"][name]
    assert entry["difference"] == pytest.approx(0.3, abs=0.02)
    assert entry["interval"][0] > 0.1 and entry["p_value"] < 0.02
    near = runs_of(0.2, 0.5, 0.4)
    entry = metrics.differences(first, near, **how)["standard"][name]
    assert entry["interval"][0] < 0 < entry["interval"][1]
    assert entry["p_value"] > 0.2

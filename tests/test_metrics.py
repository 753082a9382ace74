"""Figures: equal to the reference evaluator and to scikit-learn, defined everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from sdfl_jax import metrics
from sdfl_jax.errors import InputError

GOLDEN = Path(__file__).parent / "golden"


@pytest.fixture(scope="module")
def golden():
    arrays = dict(np.load(GOLDEN / "metrics_a.npz"))
    return arrays, json.loads((GOLDEN / "metrics_a.json").read_text())


def tables(mask, mask_probs):
    pairs = zip(mask, mask_probs, strict=True)
    return np.stack([metrics.histogram(m, p) for m, p in pairs])


@pytest.fixture(scope="module")
def golden_tables(golden):
    arrays, _ = golden
    return tables(arrays["mask"], arrays["predicted_mask"]), arrays["label"]


@pytest.mark.parametrize("kind", ["uint8", "float64", "float32", "channel"])
def test_report_equals_the_reference_evaluator_and_scikit_learn(golden, kind):
    arrays, expected = golden
    mask, probs = arrays["mask"], arrays["predicted_mask"]
    if kind.startswith("float"):
        probs = (probs / 255).astype(kind)
    if kind == "channel":
        mask, probs = mask[..., None], probs[..., None]
    found = metrics.report(mask, probs, arrays["label"], arrays["score"])
    for protocol in ("reference", "standard"):
        assert list(found[protocol]) == list(expected[protocol])
        for name, value in expected[protocol].items():
            assert found[protocol][name] == pytest.approx(value, abs=1e-8), name
    json.dumps(found, allow_nan=False)  # Python numbers, no NaN


def test_pixel_figures_equal_scikit_learn_image_by_image(golden, golden_tables):
    arrays, _ = golden
    histograms, label = golden_tables
    for threshold in (0.2, 0.5, 0.9):
        found = metrics.per_image(histograms, threshold)
        for i in np.flatnonzero(label):
            true = (arrays["mask"][i] >= 128).ravel()
            probs = arrays["predicted_mask"][i].ravel() / 255
            called = probs >= threshold
            expected = {
                "pixel_f1": sklearn_metrics.f1_score(true, called),
                "pixel_iou": sklearn_metrics.jaccard_score(true, called),
                "pixel_auc": sklearn_metrics.roc_auc_score(true, probs),
                "mask_area": true.mean(),
                "predicted_area": called.mean(),
            }
            assert {k: v[i] for k, v in found.items()} == pytest.approx(expected)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 5, 256]),
    st.integers(1, 9),
    st.integers(1, 9),
)
def test_ties_count_as_in_scikit_learn(seed, distinct, height, width):
    rng = np.random.default_rng(seed)
    mask = rng.choice(np.array([0, 90, 127, 128, 255], np.uint8), (height, width))
    level = rng.choice(np.linspace(0, 255, distinct).astype(np.uint8), (height, width))
    found = metrics.per_image(metrics.histogram(mask, level)[None])
    true, called = (mask >= 128).ravel(), (level >= 128).ravel()
    if 0 < true.sum() < true.size:
        auc = sklearn_metrics.roc_auc_score(true, level.ravel())
        assert found["pixel_auc"][0] == pytest.approx(auc, abs=1e-12)
    else:
        assert np.isnan(found["pixel_auc"][0])
    if true.any() or called.any():
        f1 = sklearn_metrics.f1_score(true, called, zero_division=np.nan)
        assert found["pixel_f1"][0] == pytest.approx(f1)
    else:
        assert np.isnan(found["pixel_f1"][0])


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 6))
def test_image_figures_equal_scikit_learn(seed, n, distinct):
    rng = np.random.default_rng(seed)
    label, score = rng.integers(0, 2, n), rng.integers(0, distinct + 1, n) / distinct
    found = metrics.image_figures(label, score, 0.5)
    if 0 < label.sum() < n:
        auc = sklearn_metrics.roc_auc_score(label, score)
        assert found["image_auc"] == pytest.approx(auc)
    else:
        assert found["image_auc"] is None
    if label.any() or (score >= 0.5).any():
        f1 = sklearn_metrics.f1_score(label, score >= 0.5, zero_division=np.nan)
        assert found["image_f1"] == pytest.approx(f1)
    else:
        assert found["image_f1"] is None


def test_histogram_holds_every_pixel_once_in_its_class_and_level():
    mask = np.array([[0, 1, 127], [128, 255, 0]], np.uint8)
    probs = np.array([[0.0, 0.2, 0.5], [1.0, 0.499, 0.0019]])
    expected = np.zeros((3, 256), int)
    for row, level in [(0, 0), (1, 51), (1, 128), (2, 255), (2, 127), (0, 0)]:
        expected[row, level] += 1
    np.testing.assert_array_equal(metrics.histogram(mask, probs), expected)
    np.testing.assert_array_equal(
        metrics.histogram(mask >= 128, probs).sum(axis=1), [4, 0, 2]
    )


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_levels_and_probabilities_are_cut_alike(dtype):
    saved = np.arange(256, dtype=np.uint8)
    probs = (saved / 255).astype(dtype)
    np.testing.assert_array_equal(metrics.levels(probs), saved)
    near_half = np.array([0.4999, 0.5, 0.5001], dtype)
    np.testing.assert_array_equal(
        metrics.levels(near_half) >= 128, near_half >= dtype(0.5)
    )


@pytest.mark.parametrize(
    ("mask", "probs", "told"),
    [
        (np.zeros((2, 3), np.uint8), np.full((2, 3), np.nan), "NaN"),
        (np.zeros((2, 3), np.uint8), np.full((2, 3), 1.5), "outside"),
        (np.zeros((2, 3), np.uint8), np.full((2, 3), -0.1), "outside"),
        (np.zeros((2, 3), np.uint8), np.zeros((2, 3), np.int64), "int64"),
        (np.zeros((2, 3), np.float32), np.zeros((2, 3)), "float32"),
        (np.zeros((2, 3), np.uint8), np.zeros((3, 2)), "shape"),
        (np.zeros((2, 3, 3), np.uint8), np.zeros((2, 3, 3)), "shape"),
        (np.zeros((0, 3), np.uint8), np.zeros((0, 3)), "shape"),
    ],
)
def test_what_is_no_mask_or_no_probability_is_refused(mask, probs, told):
    with pytest.raises(InputError, match=told):
        metrics.histogram(mask, probs)


@pytest.mark.parametrize(
    ("label", "score", "threshold", "told"),
    [
        ([0, 1], [0.1], 0.5, "lengths"),
        ([0, 1, 1], [0.1, 0.2, 0.3], 0.5, "lengths"),
        ([0, 2], [0.1, 0.2], 0.5, "label holds 2"),
        ([0, 1], [0.1, np.nan], 0.5, "finite"),
        ([0, 1], [0.1, 0.2], 1.5, "threshold is 1.5"),
        ([0, 1], [0.1, 0.2], np.nan, "threshold is nan"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(label, score, threshold, told):
    mask = np.zeros((2, 4, 4), np.uint8)
    with pytest.raises(InputError, match=told):
        metrics.report(mask, mask, label, score, threshold)


def test_no_manipulated_image_leaves_their_figures_undefined():
    mask = np.zeros((3, 4, 4), np.uint8)
    found = metrics.report(mask, mask, [0, 0, 0], [0.1, 0.2, 0.3])
    json.dumps(found, allow_nan=False)
    assert found["reference"]["pixel_f1_all"] == 1.0
    assert found["reference"]["specificity"] == pytest.approx(1)
    assert found["reference"]["image_accuracy"] == pytest.approx(1)
    for name in ("pixel_f1_manipulated", "sensitivity", "image_auc", "combined_f1"):
        assert found["reference"][name] is None
    assert set(found["standard"].values()) == {None}


def test_no_authentic_image_leaves_their_figures_undefined():
    mask = np.full((2, 4, 4), 255, np.uint8)
    mask[:, :2] = 0
    found = metrics.report(mask, mask, [1, 1], [0.1, 0.9])
    assert found["standard"] == {
        "pixel_f1_manipulated": 1.0,
        "pixel_iou_manipulated": 1.0,
        "pixel_auc_manipulated": 1.0,
        "image_f1": pytest.approx(2 / 3),
        "image_auc": None,
    }
    assert found["reference"]["specificity"] is None
    assert found["reference"]["best_threshold"] is None


def test_no_image_at_all_is_defined():
    empty = np.zeros((0, 4, 4), np.uint8)
    found = metrics.report(empty, empty, [], [])
    assert found["reference"]["n"] == 0
    json.dumps(found, allow_nan=False)


def test_images_without_a_mask_count_in_image_figures_only(golden):
    arrays, _ = golden
    mask, probs = arrays["mask"], arrays["predicted_mask"]
    label, score = arrays["label"], arrays["score"]
    unknown = np.flatnonzero(label)[:5]
    has_mask = np.ones(len(label), bool)
    has_mask[unknown] = False
    found = metrics.report(mask, probs, label, score, has_mask=has_mask)
    # Whatever stands in a mask that is not known, it changes nothing.
    other = mask.copy()
    other[unknown] = 255 - other[unknown]
    assert found == metrics.report(other, probs, label, score, has_mask=has_mask)

    without = metrics.report(
        mask[has_mask], probs[has_mask], label[has_mask], score[has_mask]
    )
    with_all = metrics.report(mask, probs, label, score)
    for protocol in found:
        for name, value in found[protocol].items():
            pixel = name.startswith("pixel")
            if name != "combined_f1":
                assert value == (without if pixel else with_all)[protocol][name], name


def test_a_manipulated_image_with_an_empty_mask_is_left_out(golden):
    mask = np.zeros((2, 4, 4), np.uint8)
    mask[0, 0, 0] = 255
    mask[1, 0, 0] = 90  # manipulated to the reference, not to the standard figures
    probs = np.zeros((2, 4, 4))
    probs[0, 0, 0] = 1
    found = metrics.report(mask, probs, [1, 1], [1, 1])
    assert found["standard"]["pixel_f1_manipulated"] == 1
    assert found["reference"]["pixel_f1_manipulated"] == pytest.approx(0.5)


def test_order_and_sizes_of_images_do_not_matter():
    rng = np.random.default_rng(0)
    sizes = [(3, 5), (8, 8), (1, 9), (4, 4)]
    mask = [rng.choice(np.array([0, 255], np.uint8), size) for size in sizes]
    probs = [rng.random(size) for size in sizes]
    label, score = np.array([1, 0, 1, 0]), rng.random(4)
    first = metrics.report(mask, probs, label, score)
    order = [2, 0, 3, 1]
    second = metrics.report(
        [mask[i] for i in order], [probs[i] for i in order], label[order], score[order]
    )
    assert first["reference"].pop("confusion") == second["reference"].pop("confusion")
    for protocol in first:
        assert first[protocol] == pytest.approx(second[protocol])


def test_best_pixel_threshold_is_the_best_of_all_cuts(golden_tables):
    histograms, label = golden_tables
    threshold, f1 = metrics.best_pixel_threshold(histograms, label)
    tried = [
        metrics.pixel_figures(histograms, label, np.ones(len(label), bool), t / 255)
        for t in range(256)
    ]
    assert f1 == pytest.approx(max(t["pixel_f1_manipulated"] for t in tried))
    at = metrics.figures(histograms, label, np.zeros(len(label)), None, threshold)
    assert at["standard"]["pixel_f1_manipulated"] == pytest.approx(f1)


def test_best_pixel_threshold_of_equal_ones_is_nearest_to_half():
    mask = np.array([[[0, 255]]], np.uint8)
    histograms = tables(mask, np.array([[[0.1, 0.9]]]))
    threshold, f1 = metrics.best_pixel_threshold(histograms, [1])
    assert threshold == pytest.approx(0.5) and f1 == 1
    assert metrics.best_pixel_threshold(histograms, [0]) == (None, None)
    everything = tables(mask, np.array([[[0.9, 0.0]]]))
    assert metrics.best_pixel_threshold(everything, [1])[0] == 0


def test_best_image_threshold_takes_the_best_geometric_mean(golden):
    arrays, expected = golden
    threshold, g_mean = metrics.best_image_threshold(arrays["label"], arrays["score"])
    assert threshold == expected["reference"]["best_threshold"]
    called, label = arrays["score"] >= threshold, arrays["label"] == 1
    found = np.sqrt(called[label].mean() * (~called[~label]).mean())
    assert found == pytest.approx(g_mean)
    # Scores that say nothing leave no threshold, and JSON has no infinity.
    assert metrics.best_image_threshold([0, 1], [0.3, 0.3]) == (None, None)


def test_baselines_are_those_of_constant_maps(golden, golden_tables):
    arrays, _ = golden
    histograms, label = golden_tables
    mask = arrays["mask"]
    prior = metrics.centre_prior(*mask.shape[1:])
    centre = tables(mask, np.broadcast_to(prior, mask.shape))
    found = metrics.baselines(histograms, label, None, centre)
    ones, zeros = np.full_like(mask, 255), np.zeros_like(mask)
    n = len(label)
    assert (
        found["everything_manipulated"]
        == metrics.report(mask, ones, label, np.ones(n))["standard"]
    )
    assert (
        found["nothing_manipulated"]
        == metrics.report(mask, zeros, label, np.zeros(n))["standard"]
    )
    area = (mask[label == 1] >= 128).mean(axis=(1, 2))
    everything = found["everything_manipulated"]["pixel_f1_manipulated"]
    assert everything == pytest.approx((2 * area / (1 + area)).mean())
    assert found["nothing_manipulated"]["pixel_auc_manipulated"] == 0.5
    assert set(found["centre_prior"]) == {
        "pixel_f1_manipulated",
        "pixel_iou_manipulated",
        "pixel_auc_manipulated",
    }


def test_centre_prior_is_centred_and_calls_a_quarter():
    prior = metrics.centre_prior(60, 80)
    np.testing.assert_array_equal(prior, prior[::-1, ::-1])
    assert prior.max() == prior[30, 40] and prior.min() == prior[0, 0]
    assert (prior >= 128).mean() == pytest.approx(0.272, abs=0.01)


def test_rows_hold_what_an_image_scores_and_none_elsewhere():
    mask = np.zeros((3, 4, 4), np.uint8)
    mask[:2, :2] = 255
    probs = np.zeros((3, 4, 4))
    probs[:, :1] = 1
    rows = metrics.rows(
        tables(mask, probs), [1, 1, 0], [0.9, 0.8, 0.1], [True, False, True]
    )
    assert rows[0] == {
        "label": 1,
        "score": 0.9,
        "has_mask": True,
        "pixel_f1": pytest.approx(2 / 3),
        "pixel_iou": 0.5,
        "pixel_auc": 0.75,
        "mask_area": 0.5,
        "predicted_area": 0.25,
    }
    assert rows[1]["pixel_f1"] is None and rows[1]["mask_area"] is None
    assert rows[2]["pixel_f1"] is None and rows[2]["predicted_area"] == 0.25

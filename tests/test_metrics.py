"""Figures: equal to the reference evaluator and to scikit-learn, defined everywhere."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq
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
        given = list(expected[protocol])
        assert list(found[protocol])[: len(given)] == given
        for name, value in expected[protocol].items():
            assert found[protocol][name] == pytest.approx(value, abs=1e-8), name
    json.dumps(found, allow_nan=False)  # Python numbers, no NaN


def scikit_learn_pixels(true, probs, threshold):
    """What scikit-learn makes of one image's pixels, 0 where it warns of 0/0."""
    called = probs >= threshold
    zero = {"zero_division": 0}
    return {
        "pixel_f1": sklearn_metrics.f1_score(true, called, **zero),
        "pixel_iou": sklearn_metrics.jaccard_score(true, called, **zero),
        "pixel_precision": sklearn_metrics.precision_score(true, called, **zero),
        "pixel_recall": sklearn_metrics.recall_score(true, called, **zero),
        "pixel_mcc": sklearn_metrics.matthews_corrcoef(true, called),
        "pixel_auc": sklearn_metrics.roc_auc_score(true, probs),
        "pixel_ap": sklearn_metrics.average_precision_score(true, probs),
        "mask_area": true.mean(),
        "predicted_area": called.mean(),
    }


def test_pixel_figures_equal_scikit_learn_image_by_image(golden, golden_tables):
    arrays, _ = golden
    histograms, label = golden_tables
    for threshold in (0.2, 0.5, 0.9):
        found = metrics.per_image(histograms, threshold)
        for i in np.flatnonzero(label)[::3]:
            true = (arrays["mask"][i] >= 128).ravel()
            probs = arrays["predicted_mask"][i].ravel() / 255
            expected = scikit_learn_pixels(true, probs, threshold)
            assert {k: found[k][i] for k in expected} == pytest.approx(expected)


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
    values = rng.choice(np.linspace(0, 255, distinct).astype(np.uint8), (height, width))
    found = metrics.per_image(metrics.histogram(mask, values)[None])
    true, called = (mask >= 128).ravel(), (values >= 128).ravel()
    if 0 < true.sum() < true.size:
        expected = scikit_learn_pixels(true, values.ravel() / 255, 128 / 255)
        assert {k: found[k][0] for k in expected} == pytest.approx(expected, abs=1e-12)
    else:
        assert np.isnan(found["pixel_auc"][0])
    if true.any():
        cuts = [scores_at(true, values.ravel(), cut) for cut in range(256)]
        assert found["pixel_f1_oracle"][0] == pytest.approx(max(cuts))
        at = scores_at(true, values.ravel() / 255, found["pixel_threshold_oracle"][0])
        assert at == pytest.approx(max(cuts))
        inverse = sklearn_metrics.f1_score(true, ~called, zero_division=0)
        assert found["pixel_f1_inverse"][0] == pytest.approx(inverse)
    else:
        assert np.isnan(found["pixel_f1_oracle"][0])
        assert np.isnan(found["pixel_recall"][0]) and np.isnan(found["pixel_ap"][0])
    if not true.any() and not called.any():
        assert np.isnan(found["pixel_f1"][0]) and np.isnan(found["pixel_iou"][0])


def scores_at(true, values, cut):
    called = values >= cut
    return 2 * (true & called).sum() / (true.sum() + called.sum())


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 30), st.integers(1, 6))
def test_image_figures_equal_scikit_learn(seed, n, distinct):
    rng = np.random.default_rng(seed)
    label, score = rng.integers(0, 2, n), rng.integers(0, distinct + 1, n) / distinct
    found = metrics.report(np.zeros((n, 1, 1), bool), np.zeros((n, 1, 1)), label, score)
    reference, standard = found["reference"], found["standard"]
    called = score >= 0.5
    both = 0 < label.sum() < n
    assert standard["image_accuracy"] == pytest.approx((called == label).mean())
    some = lambda value, of: pytest.approx(value) if of else None
    expected = {
        "image_f1": (sklearn_metrics.f1_score, label.any() or called.any()),
        "image_precision": (sklearn_metrics.precision_score, called.any()),
        "image_recall": (sklearn_metrics.recall_score, label.any()),
    }
    for name, (figure, defined) in expected.items():
        assert standard[name] == some(figure(label, called, zero_division=0), defined)
    if not both:
        for name in ("image_balanced_accuracy", "image_auc", "image_ap", "image_eer"):
            assert standard[name] is None, name
        assert metrics.best_image_threshold(label, score) == (None, None)
        return
    balanced = sklearn_metrics.balanced_accuracy_score(label, called)
    assert standard["image_balanced_accuracy"] == pytest.approx(balanced)
    for auc in (standard["image_auc"], reference["image_auc"]):
        assert auc == pytest.approx(sklearn_metrics.roc_auc_score(label, score))
    precision = sklearn_metrics.average_precision_score(label, score)
    assert standard["image_ap"] == pytest.approx(precision)

    fpr, tpr, thresholds = sklearn_metrics.roc_curve(label, score)
    crossing = brentq(lambda x: 1 - x - np.interp(x, *distinct_x(fpr, tpr)), -1e-9, 1)
    assert standard["image_eer"] == pytest.approx(crossing, abs=1e-6)
    g_means = np.sqrt(tpr * (1 - fpr))
    best = int(np.argmax(g_means))
    if np.isfinite(thresholds[best]):
        assert reference["best_threshold"] == thresholds[best]
        assert reference["g_mean"] == pytest.approx(g_means[best])
    else:
        assert reference["best_threshold"] is None


def distinct_x(fpr, tpr):
    """A ROC curve whose upright pieces lean a little, so that it is a function."""
    return fpr + 1e-12 * np.arange(len(fpr)), tpr


def test_calibration_error_is_the_gap_between_promise_and_truth():
    blank = np.zeros((4, 1, 1), np.uint8)
    error = lambda *arrays: metrics.report(blank, blank, *arrays)["standard"][
        "image_ece"
    ]
    assert error([0, 0, 1, 1], [0, 0, 1, 1]) == 0
    assert error([1, 1, 0, 0], [0, 0, 1, 1]) == 1
    # One bin with a mean of 0.5 and half of it manipulated; then a quarter.
    assert error([0, 1, 0, 1], [0.5, 0.5, 0.5, 0.5]) == 0
    assert error([0, 1, 0, 0], [0.5, 0.5, 0.5, 0.5]) == pytest.approx(0.25)
    assert error([0, 1, 0, 1], [0.1, 0.1, 0.9, 0.9]) == pytest.approx(0.4)
    assert error([0, 1, 0, 1], [-3, 2, 0, 1]) is None  # no probabilities


def test_every_figure_has_its_words_and_its_place(golden):
    arrays, _ = golden
    given = (arrays["mask"], arrays["predicted_mask"], arrays["label"], arrays["score"])
    found = metrics.report(*given, permute=True)
    own = {"n", "threshold", "confusion"}
    assert set(found["reference"]) - own == set(metrics.METRICS["reference"])
    assert list(found["standard"]) == list(metrics.METRICS["standard"])
    plain = metrics.report(*given)["standard"]
    permuted = "pixel_f1_permuted_manipulated"
    assert plain.keys() == found["standard"].keys() - {permuted}
    # The mean of the better of two is at least either.
    assert found["standard"][permuted] >= plain["pixel_f1_manipulated"]


def test_figures_over_the_data_set_are_those_of_its_pixels(golden):
    arrays, _ = golden
    kept = arrays["label"] == 1
    given = [arrays[k] for k in ("mask", "predicted_mask", "label", "score")]
    found = metrics.report(*given, threshold=0.3)["standard"]
    true = (arrays["mask"][kept] >= 128).ravel()
    probs = arrays["predicted_mask"][kept].ravel() / 255
    expected = scikit_learn_pixels(true, probs, 0.3)
    for name in metrics.MEASURES:
        key = f"pixel_{name}_pooled_manipulated"
        assert found[key] == pytest.approx(expected[f"pixel_{name}"]), key

    # The best threshold for all images is the best of all; that of each is better.
    best = found["pixel_threshold_oracle_dataset"]
    at_best = metrics.report(*given, threshold=best)["standard"]
    for name in metrics.MEASURES:
        key = f"pixel_{name}_oracle_dataset_manipulated"
        assert found[key] == pytest.approx(at_best[f"pixel_{name}_manipulated"]), key
    f1 = [
        metrics.report(*given, threshold=t / 50)["standard"]["pixel_f1_manipulated"]
        for t in range(51)
    ]
    assert found["pixel_f1_oracle_dataset_manipulated"] >= max(f1)
    assert (
        found["pixel_f1_oracle_manipulated"]
        > found["pixel_f1_oracle_dataset_manipulated"]
    )


@pytest.mark.parametrize(
    ("policy", "expected"),
    # Masks and maps: a hit; both empty; empty mask, one of four pixels called.
    [("one", (1 + 1 + 0) / 3), ("zero", (1 + 0 + 0) / 3), ("skip", 1.0)],
)
def test_what_empty_masks_count_is_a_choice(policy, expected):
    mask, probs = np.zeros((3, 2, 2), np.uint8), np.zeros((3, 2, 2))
    mask[0, 0, 0], probs[0, 0, 0], probs[2, 0, 0] = 255, 1, 1
    found = metrics.report(mask, probs, [1, 0, 0], [1, 0, 0], empty_mask=policy)
    assert found["standard"]["pixel_f1_all"] == pytest.approx(expected)
    assert found["standard"]["pixel_iou_all"] == pytest.approx(expected)
    assert found["standard"]["pixel_f1_manipulated"] == 1
    assert found["standard"]["false_alarm_area_authentic"] == 0.125
    assert found["reference"]["pixel_f1_all"] == pytest.approx(2 / 3)  # its own policy
    with pytest.raises(InputError, match="'One'; there are .* did you mean 'one'"):
        metrics.report(mask, probs, [1, 0, 0], [1, 0, 0], empty_mask="One")


def test_a_map_the_wrong_way_round_scores_when_permuted():
    mask = np.zeros((2, 2, 2), np.uint8)
    mask[:, 0] = 255
    probs = np.stack([(mask[0] == 0) * 1.0, (mask[0] > 0) * 1.0])
    found = metrics.report(mask, probs, [1, 1], [1, 1], permute=True)["standard"]
    assert found["pixel_f1_manipulated"] == 0.5
    assert found["pixel_f1_permuted_manipulated"] == 1


def test_the_threshold_curve_holds_the_figures_of_every_threshold(golden_tables):
    histograms, label = golden_tables
    curve = metrics.threshold_curve(histograms, label)
    json.dumps(curve, allow_nan=False)
    assert len(curve["threshold"]) == 256
    for i in range(0, 256, 51):
        at = metrics.from_histograms(
            histograms, label, np.zeros(len(label)), None, curve["threshold"][i]
        )["standard"]
        for name in curve.keys() - {"threshold"}:
            assert curve[name][i] == pytest.approx(at[name]), name
    authentic = metrics.threshold_curve(histograms[label == 0], label[label == 0])
    assert set(authentic["pixel_f1_manipulated"]) == {None}
    assert authentic["false_alarm_area_authentic"][0] == pytest.approx(1)


def test_histogram_holds_every_pixel_once_in_its_class_and_value():
    mask = np.array([[0, 1, 127], [128, 255, 0]], np.uint8)
    probs = np.array([[0.0, 0.2, 0.5], [1.0, 0.499, 0.0019]])
    expected = np.zeros((3, 256), int)
    for row, value in [(0, 0), (1, 51), (1, 128), (2, 255), (2, 127), (0, 0)]:
        expected[row, value] += 1
    np.testing.assert_array_equal(metrics.histogram(mask, probs), expected)
    np.testing.assert_array_equal(
        metrics.histogram(mask >= 128, probs).sum(axis=1), [4, 0, 2]
    )


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 40))
def test_histograms_are_those_of_counting_one_by_one(seed, height, width):
    rng = np.random.default_rng(seed)
    # Every second row and column: no array in one piece.
    mask = rng.choice(np.array([0, 1, 127, 128, 255], np.uint8), (2 * height, width))
    mask = mask[::2] * rng.integers(0, 2, dtype=np.uint8)
    values = rng.integers(0, 256, (height, 2 * width), dtype=np.uint8)[:, ::2]
    classes = (mask > 0).astype(int) + (mask >= 128)
    counts = np.bincount((256 * classes + values).ravel(), minlength=768)
    found = metrics.histogram(mask, values)
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, counts.reshape(3, 256))


def test_an_image_of_more_pixels_than_float32_counts_is_counted_exactly():
    values = np.zeros((4097, 4097), np.uint8)
    assert values.size > 2**24 and values.size % 2
    assert metrics.histogram(np.full_like(values, 255), values)[2, 0] == values.size


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_uint8_and_probabilities_are_cut_alike(dtype):
    saved = np.arange(256, dtype=np.uint8)
    probs = (saved / 255).astype(dtype)
    np.testing.assert_array_equal(metrics.to_uint8(probs), saved)
    near_half = np.array([0.4999, 0.5, 0.5001], dtype)
    np.testing.assert_array_equal(
        metrics.to_uint8(near_half) >= 128, near_half >= dtype(0.5)
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


def test_a_prediction_that_is_no_number_is_told_with_its_place():
    mask, probs = np.zeros((3, 4, 4), np.uint8), np.zeros((3, 4, 4))
    probs[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="Image 1: mask_probs holds 1 values .* NaN"):
        metrics.report(mask, probs, [0, 1, 1], [0, 0, 0])
    with pytest.raises(InputError, match="the first at place 2"):
        metrics.report(mask, mask, [0, 1, 1], [0, 0, np.nan])


def test_no_manipulated_image_leaves_their_figures_undefined():
    mask = np.zeros((3, 4, 4), np.uint8)
    found = metrics.report(mask, mask, [0, 0, 0], [0.1, 0.2, 0.3])
    json.dumps(found, allow_nan=False)
    assert found["reference"]["pixel_f1_all"] == 1.0
    assert found["reference"]["specificity"] == pytest.approx(1)
    assert found["reference"]["image_accuracy"] == pytest.approx(1)
    for name in ("pixel_f1_manipulated", "sensitivity", "image_auc", "combined_f1"):
        assert found["reference"][name] is None
    # What is left: three quiet maps, three images called rightly.
    assert {k: v for k, v in found["standard"].items() if v is not None} == {
        "pixel_f1_all": 1,
        "pixel_iou_all": 1,
        "false_alarm_area_authentic": 0,
        "image_accuracy": 1,
        "image_ece": pytest.approx(0.2),
    }


def test_no_authentic_image_leaves_their_figures_undefined():
    mask = np.full((2, 4, 4), 255, np.uint8)
    mask[:, :2] = 0
    found = metrics.report(mask, mask, [1, 1], [0.1, 0.9])
    assert found["standard"]["image_f1"] == pytest.approx(2 / 3)
    undefined = {name for name, value in found["standard"].items() if value is None}
    assert undefined == {
        "false_alarm_area_authentic",
        "image_balanced_accuracy",
        "image_auc",
        "image_ap",
        "image_eer",
    }
    pixels = {v for k, v in found["standard"].items() if k.startswith("pixel")}
    assert pixels == {1.0, 0.5}  # 0.5 is the threshold
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
            pixel = name.startswith("pixel") or name.startswith("false")
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
        np.mean(metrics.per_image(histograms[label == 1], t / 255)["pixel_f1"])
        for t in range(256)
    ]
    assert f1 == pytest.approx(max(tried))
    score = np.zeros(len(label))
    at = metrics.from_histograms(histograms, label, score, None, threshold)
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
    centre = found["centre_prior"]
    assert 0 < centre["pixel_f1_manipulated"] < 1
    assert not [name for name in centre if name.startswith("image")]


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
    expected = {
        "label": 1,
        "score": 0.9,
        "has_mask": True,
        "pixel_f1": pytest.approx(2 / 3),
        "pixel_iou": 0.5,
        "pixel_precision": 1.0,
        "pixel_recall": 0.5,
        "pixel_auc": 0.75,
        "pixel_f1_oracle": pytest.approx(2 / 3),
        "mask_area": 0.5,
        "predicted_area": 0.25,
    }
    assert {name: rows[0][name] for name in expected} == expected
    nothing = {"mask_area", "pixel_f1", "pixel_threshold_oracle", "pixel_mcc"}
    assert {rows[1][name] for name in nothing} == {None}
    assert rows[1]["pixel_f1"] is None and rows[1]["mask_area"] is None
    assert rows[2]["pixel_f1"] is None and rows[2]["predicted_area"] == 0.25

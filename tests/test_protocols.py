"""The protocols of TruFor and IMDL-BenCo on cases worked by hand."""

import numpy as np
import pytest

from sdfl_jax import metrics


def strips(*columns):
    """A map of 32 rows from pairs of a width and the value of these columns."""
    row = np.concatenate([np.full(width, value) for width, value in columns])
    return np.tile(row, (32, 1))


# The left half is manipulated. Without borders 9 columns of it are left (8 + 7 <= 15)
# and 11 of the authentic ones (from 16 + 5 on).
MASK = strips((16, 255), (16, 0)).astype(np.uint8)
# Eight of the 9 are found, and 4 of the 11 are false alarms.
MAP = strips((8, 0.8), (1, 0.2), (12, 0.7), (4, 0.9), (7, 0.1))


def one(mask, probs, label=1, score=0.9):
    return metrics.report([mask], [probs], [label], [score])


def test_inner_histograms_leave_the_borders_out():
    outside, inside = metrics.inner_histogram(MASK, MAP)
    assert inside.sum() == 9 * 32 and outside.sum() == 11 * 32
    assert inside[204] == 8 * 32 and inside[51] == 32
    assert outside[230] == 4 * 32 and outside[26] == 7 * 32
    authentic = metrics.inner_histogram(np.zeros_like(MASK), MAP)
    assert authentic.sum(axis=1).tolist() == [32 * 32, 0]


def test_truefors_f1_is_that_of_the_better_of_map_and_inverse():
    found = one(MASK, MAP)["trufor"]
    assert found["pixel_f1_manipulated"] == pytest.approx(2 * 8 / (2 * 8 + 4 + 1))
    # All nine are found from 0.2 on, with the same false alarms.
    assert found["pixel_f1_oracle_manipulated"] == pytest.approx(2 * 9 / (2 * 9 + 4))
    # The inverse is as good; from 0.1 on it holds no more than it did.
    assert one(MASK, 1 - MAP)["trufor"] == pytest.approx(found, nan_ok=True)


def test_truefors_f1_where_no_region_is_left_by_the_borders():
    small = strips((10, 0), (6, 255), (16, 0)).astype(np.uint8)
    quiet = one(small, strips((32, 0.1)))["trufor"]
    assert quiet["pixel_f1_manipulated"] is None  # mask and map are of one class
    assert quiet["pixel_f1_oracle_manipulated"] == 0
    loud = one(small, strips((4, 0.9), (28, 0.1)))["trufor"]
    assert loud["pixel_f1_manipulated"] == 0


def test_trufor_and_benco_average_over_other_images():
    masks = [MASK, np.zeros_like(MASK), np.zeros_like(MASK)]
    maps = [MAP, np.zeros(MAP.shape), strips((16, 0.9), (16, 0.1))]
    found = metrics.report(masks, maps, [1, 0, 0], [0.9, 0.2, 0.8])
    # 8 + 7 of the 16 manipulated columns, 5 + 4 of the authentic ones.
    f1, iou = 2 * 15 / (16 + 24), 15 / (16 + 9)
    assert found["benco"]["pixel_f1_all"] == pytest.approx(f1 / 3)
    assert found["benco"]["pixel_iou_all"] == pytest.approx(iou / 3)
    assert found["benco"]["pixel_f1_permuted_all"] == pytest.approx(f1 / 3)
    assert found["benco"]["image_accuracy"] == pytest.approx(2 / 3)
    assert found["benco"]["image_f1"] == pytest.approx(2 / 3)
    assert found["trufor"]["pixel_f1_manipulated"] == pytest.approx(16 / 21)
    assert found["trufor"]["image_balanced_accuracy"] == 0.75
    assert found["trufor"]["image_auc"] == found["benco"]["image_auc"] == 1
    # The standard protocol gives the quiet authentic image a one.
    assert found["standard"]["pixel_f1_all"] == pytest.approx((f1 + 1) / 3)


def test_without_inner_histograms_only_trufors_pixels_are_unknown():
    table = metrics.histogram(MASK, MAP)[None]
    found = metrics.from_histograms(table, [1], [0.9])
    assert found["trufor"]["pixel_f1_manipulated"] is None
    assert found["benco"]["pixel_f1_all"] == pytest.approx(30 / 40)
    assert metrics.intervals(metrics.Sample(table, [1], [0.9]), resamples=3)

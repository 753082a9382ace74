"""Which validated state is the best, and what a checkpoint of then still says."""

import math

import pytest

from sdfl_jax.metrics import DECISIVE, METRICS
from sdfl_jax.training.validation import is_better


def best(metric: str, value: float) -> dict:
    return {"metric": metric, "value": value, "step": 1}


@pytest.mark.parametrize(
    "metric",
    ["loss", "loss/edge", "image_eer", "image_ece", "false_alarm_area_authentic"],
)
def test_errors_and_losses_are_better_when_they_are_smaller(metric):
    assert is_better(metric, 0.1, best(metric, 0.2))
    assert not is_better(metric, 0.3, best(metric, 0.2))


def test_a_correlation_below_zero_is_worse_than_one_above():
    metric = "pixel_mcc_manipulated"
    assert is_better(metric, 0.1, best(metric, -0.2))
    assert not is_better(metric, -0.3, best(metric, -0.2))


@pytest.mark.parametrize("metric", ["loss", "image_auc"])
def test_a_number_beats_nan_and_nan_beats_nothing(metric):
    assert is_better(metric, 0.5, best(metric, math.nan))
    assert not is_better(metric, math.nan, best(metric, 0.5))
    assert not is_better(metric, math.nan, None)
    assert is_better(metric, 0.5, None)


def test_the_best_of_another_metric_is_none_to_beat():
    assert is_better("loss", 9.0, best("image_auc", 1.0))


def test_every_standard_metric_says_which_end_is_good_but_thresholds():
    for protocol in METRICS.values():
        for key, metric in protocol.items():
            assert (metric.better is None) == ("threshold" in key)
    assert all(metric.better for metric in DECISIVE.values())

"""From scores to likelihood ratios, thresholds and a band of doubt."""

import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit

from sdfl_jax.errors import InputError
from sdfl_jax.report.__main__ import main
from sdfl_jax.report.calibration import calibrate, cllr
from tests import evaluations


def of_gaussians(count=600, apart=2.0, stretch=1.0, seed=0):
    """Scores whose log-likelihood ratio is `apart * x`, squeezed by `stretch`."""
    base = evaluations.evaluation(count=count)
    rng = np.random.default_rng(seed)
    x = rng.normal((base.label - 0.5) * apart, 1)
    return dataclasses.replace(base, score=expit(stretch * apart * x)), apart * x


def test_ratios_of_overconfident_scores_come_back_to_the_true_ones():
    evaluation, true = of_gaussians(stretch=3.0)
    found = calibrate(evaluation)
    # The true ratio is the logit of the score, a third as steep.
    assert found["logistic"]["slope"] == pytest.approx(1 / 3, abs=0.05)
    assert found["logistic"]["intercept"] == pytest.approx(0, abs=0.2)
    best = cllr(evaluation.label, true)
    assert found["cllr"]["before"] > best + 0.2
    assert found["cllr"]["logistic"] == pytest.approx(best, abs=0.02)
    assert found["cllr"]["minimum"] <= found["cllr"]["isotonic"]
    assert found["cllr"]["minimum"] < best + 1e-3
    assert found["ece"]["logistic"] < found["ece"]["before"] / 2


def test_the_cost_of_no_evidence_is_one_bit_and_of_perfect_evidence_none():
    label = np.array([0, 0, 0, 1])
    assert cllr(label, np.zeros(4)) == pytest.approx(1)
    assert cllr(label, np.where(label == 1, 50.0, -50.0)) == pytest.approx(0, abs=1e-9)
    # By hand: log2(1 + 1/3) for ratios of 3 to the right side.
    right = np.where(label == 1, np.log(3), -np.log(3))
    assert cllr(label, right) == pytest.approx(np.log2(4 / 3))


def test_thresholds_keep_their_false_alarms():
    evaluation, _ = of_gaussians()
    found = calibrate(evaluation, false_alarms=0.1)
    authentic = evaluation.score[evaluation.label == 0]
    for rate, at in found["thresholds"].items():
        assert (authentic >= at["score"]).mean() == at["false_alarms"] <= float(rate)
        # One image more would be too many.
        assert at["false_alarms"] + 1 / len(authentic) > float(rate)
        low, high = at["false_alarms_interval"]
        assert low <= at["false_alarms"] <= high
    low, high = found["band"]
    assert high == found["thresholds"]["0.1"]["score"] and low < high
    assert low == pytest.approx(0.5, abs=0.05)  # where both are as likely
    for shares in found["verdicts"].values():
        assert sum(shares.values()) == pytest.approx(1)


def test_what_cannot_be_calibrated_is_refused():
    few = evaluations.evaluation(count=98)
    with pytest.raises(InputError, match="49 manipulated images: 50 or more"):
        calibrate(few)
    evaluation, _ = of_gaussians(count=200)
    for score, words in (
        (1 - evaluation.score, "do not tell"),
        (2 * evaluation.score, "outside 0 to 1"),
    ):
        with pytest.raises(InputError, match=words):
            calibrate(dataclasses.replace(evaluation, score=score))


def test_the_command_writes_a_file_and_a_chart(tmp_path, capsys):
    evaluation, _ = of_gaussians(count=200)
    evaluation.save(tmp_path / "run")
    out = tmp_path / "calibration.json"
    main(["calibrate", str(tmp_path / "run"), f"--out={out}"])
    assert json.loads(out.read_text())["schema"] == "sdfl-calibration-1"
    assert out.with_suffix(".png").stat().st_size > 10_000
    assert "Cllr" in capsys.readouterr().out
    for arguments in (["--out=a.txt"], [f"--out={out}", "--false_alarms=2"]):
        with pytest.raises(SystemExit):
            main(["calibrate", str(tmp_path / "run"), *arguments])

"""From scores to likelihood ratios, thresholds and a band of doubt."""

import csv
import dataclasses
import json

import numpy as np
import pytest
from scipy.special import expit, logit

from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.errors import InputError
from sdfl_jax.evaluate.__main__ import main as evaluate
from sdfl_jax.files import write_json
from sdfl_jax.metrics.calibration import log10_ratio, verdict
from sdfl_jax.predict.predictor import Predictor
from sdfl_jax.report.__main__ import main
from sdfl_jax.report.likelihood_ratios import calibrate, cllr, measured
from tests import evaluations, tiny


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


def save(folder, evaluation, weights="a" * 64):
    """`evaluation` as an output folder of evaluate, as far as calibration reads it."""
    folder.mkdir()
    evaluation.save(folder)
    setting = {"weights_sha256": weights, "step": 3}
    scores = {"setting": setting, "standard": {}, "reference": {}}
    write_json(folder / "metrics.json", scores)
    return str(folder)


def renamed(evaluation, set_name):
    known = [one | {"set": set_name} for one in evaluation.known]
    return dataclasses.replace(evaluation, known=known)


def test_the_command_writes_a_file_and_a_chart(tmp_path, capsys):
    evaluation, _ = of_gaussians(count=200)
    run = save(tmp_path / "run", evaluation)
    others = renamed(of_gaussians(count=400, seed=1)[0], "others")
    test = save(tmp_path / "test", others)
    out = tmp_path / "calibration.json"
    main(["calibrate", run, f"--out={out}", f"--test={test}"])
    found = json.loads(out.read_text())
    assert found["schema"] == "sdfl-calibration-1"
    assert found["network"] == {"weights_sha256": "a" * 64, "step": 3}
    assert found["test"] == measured(others, found)
    assert out.with_suffix(".png").stat().st_size > 10_000
    said = capsys.readouterr().out
    assert "Cllr" in said and "kept out of the fit" in said
    other_weights = save(tmp_path / "weights", others, weights="b" * 64)
    for arguments in (
        ["--out=a.txt"],
        [f"--out={out}", "--false_alarms=2"],
        [f"--out={out}", f"--test={other_weights}"],
        [f"--out={out}", f"--test={run}"],
    ):
        with pytest.raises(SystemExit):
            main(["calibrate", run, *arguments])


def test_a_calibration_is_measured_on_other_images_than_it_was_made_from():
    evaluation, _ = of_gaussians(count=400)
    known = calibrate(evaluation, false_alarms=0.1)
    assert measured(evaluation, known)["same_images"]
    others = renamed(of_gaussians(count=2000, seed=1)[0], "others")
    found = measured(others, known)
    assert not found["same_images"]
    reach = others.score >= known["band"][1]
    assert found["false_alarms"] == reach[others.label == 0].mean()
    assert found["found"] == reach[others.label == 1].mean()
    # What the folds foretold holds elsewhere.
    low, high = known["false_alarms_interval"]
    assert low <= found["false_alarms"] <= high
    assert found["cllr"] == pytest.approx(known["cllr"]["logistic"], abs=0.05)
    assert found["cllr_minimum"] <= found["cllr"]
    # Drifted apart, the same calibration is worth less than nothing, and that is told.
    drifted = dataclasses.replace(others, score=expit(logit(others.score) + 6))
    found = measured(drifted, known)
    assert found["false_alarms"] > 0.9 and found["cllr"] > 1
    # Of a class that is not there nothing is told.
    alone = measured(others.take(np.flatnonzero(others.label == 1)), known)
    assert "false_alarms" not in alone and "cllr" not in alone and alone["found"] > 0.5


def test_a_ratio_is_the_fits_within_what_so_many_images_can_show():
    known = {"logistic": {"slope": 2.0, "intercept": 0.5}, "band": [0, 1]}
    known["images"] = {"manipulated": 100, "authentic": 1000}
    by_hand = (2 * np.log(0.6 / 0.4) + 0.5) / np.log(10)
    assert log10_ratio(0.6, known) == pytest.approx(by_hand)
    assert log10_ratio(1.0, known) == 3 and log10_ratio(0.0, known) == -2
    assert log10_ratio(0.6, {"band": [0, 1]}) is None
    assert log10_ratio(0.6, None) is log10_ratio(float("nan"), known) is None


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("run"))


def test_a_calibration_beside_a_run_is_used_wherever_it_answers(
    workdir, tmp_path, capsys
):
    trained = checkpoint.load(workdir)
    known = calibrate(of_gaussians(count=200)[0])
    known["network"] = {"weights_sha256": trained.sha256, "step": trained.step}
    path = workdir / checkpoint.CALIBRATION
    write_json(path, known)
    found = checkpoint.load(workdir)
    assert found.calibration == found.progress["card"]["calibration"] == known
    assert found.thresholds == (trained.thresholds[0], known["band"][1])
    image = np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)
    answer = Predictor(workdir).predict(image)
    assert answer.verdict == verdict(answer.score, known)
    assert answer.log10_ratio == log10_ratio(answer.score, known)
    assert answer.manipulated == (answer.verdict == "manipulated")
    told = answer.summary()
    assert told["log10_likelihood_ratio"] == round(answer.log10_ratio, 2)

    table = tiny.write_images(tmp_path / "images", 6)
    evaluate(
        ["--workdir", str(workdir), f"--paths_file={table}"]
        + [f"--out={tmp_path / 'report'}"]
    )
    scores = json.loads((tmp_path / "report" / "metrics.json").read_text())
    assert scores["setting"]["weights_sha256"] == trained.sha256
    assert scores["calibration"]["band"] == known["band"]
    assert not scores["calibration"]["same_images"]
    assert sum(scores["calibration"]["verdicts"]["authentic"].values()) == 1
    with (tmp_path / "report" / "per_image.csv").open() as file:
        for row in csv.DictReader(file):
            assert row["verdict"] == verdict(float(row["score"]), known)
            ratio = log10_ratio(float(row["score"]), known)
            assert float(row["log10_likelihood_ratio"]) == pytest.approx(
                ratio, abs=0.01
            )
    for report in ("report.md", "report.html"):
        assert "no manipulation found" in (tmp_path / "report" / report).read_text()

    # Of other weights it is left aside, and a line says so.
    known["network"]["weights_sha256"] = "0" * 64
    write_json(path, known)
    capsys.readouterr()
    assert checkpoint.load(workdir).calibration is None
    assert "other weights" in capsys.readouterr().err
    path.unlink()

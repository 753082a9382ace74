"""A trained network scored and used: reports, masks, and what is refused."""

import csv
import errno
import json
import shutil

import cv2
import numpy as np
import pytest

from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data import images
from sdfl_jax.data.records import RecordSource, decode
from sdfl_jax.errors import InputError
from sdfl_jax.evaluate import __main__ as evaluate_command
from sdfl_jax.evaluate import scoring
from sdfl_jax.evaluate.options import Options
from sdfl_jax.files import write_json
from sdfl_jax.predict import __main__ as predict_command
from sdfl_jax.predict import output_folder
from sdfl_jax.predict.predictor import Predictor
from sdfl_jax.train import train
from tests import tiny

SIZES = ((48, 40), (32, 32), (20, 60))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return (
        tiny.write_shards(folder / "train", 16),
        tiny.write_shards(folder / "test", 7, seed=1, sizes=SIZES),
    )


@pytest.fixture(scope="module")
def workdir(shards, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
    train(tiny.config(*shards, total_steps=2), str(workdir))
    return workdir


@pytest.fixture(scope="module")
def report(workdir, shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "out"
    evaluate_command.main(
        [f"--workdir={workdir}", f"--data={shards[1]}", f"--out={out}"]
    )
    return out


def examples_of(folder: str) -> list[dict]:
    source = RecordSource(folder)
    return [decode(source[i]) for i in range(len(source))]


def one_error(capsys, main, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        main([str(a) for a in arguments])
    assert stopped.value.code == 2
    lines = [x for x in capsys.readouterr().err.splitlines() if x.startswith("Error")]
    assert len(lines) == 1
    return lines[0]


def test_the_report_holds_both_protocols_at_the_original_size(report, shards):
    scores = json.loads((report / "metrics.json").read_text())
    assert scores["reference"]["n"] == 7
    assert 0 <= scores["standard"]["pixel_f1_manipulated"] <= 1
    assert scores["baselines"]["everything_manipulated"]["pixel_f1_manipulated"] > 0
    with (report / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    examples = examples_of(shards[1])
    assert [row["name"] for row in rows] == [e["name"] for e in examples]
    for example in examples:
        mask = cv2.imread(str(report / "masks" / example["name"]), cv2.IMREAD_UNCHANGED)
        assert mask.shape == example["original_mask"].shape
    for name in ("pictures.png", "roc.png", "report.md"):
        assert (report / name).stat().st_size > 0


def test_figures_follow_from_the_masks_that_were_saved(report, shards):
    """What `masks/` holds gives the same pixel F1, computed another way."""
    from sklearn.metrics import f1_score

    f1 = []
    for example in examples_of(shards[1]):
        if example["label"]:
            saved = cv2.imread(str(report / "masks" / example["name"]), 0)
            true = example["original_mask"].ravel() >= 128
            f1.append(f1_score(true, saved.ravel() >= 128, zero_division=0))
    scores = json.loads((report / "metrics.json").read_text())
    assert scores["standard"]["pixel_f1_manipulated"] == pytest.approx(np.mean(f1))


@pytest.mark.parametrize("options", [["--batch_size=3"], ["--checkpoint=latest"]])
def test_batches_and_the_same_step_by_another_name_change_nothing(
    workdir, shards, report, tmp_path, options
):
    out = tmp_path / "again"
    evaluate_command.main(
        [f"--workdir={workdir}", f"--data={shards[1]}", f"--out={out}", *options]
    )
    a, b = (
        json.loads((folder / "metrics.json").read_text()) for folder in (report, out)
    )
    assert a["reference"].pop("confusion") == b["reference"].pop("confusion")
    for protocol in ("reference", "standard"):
        assert a[protocol] == pytest.approx(b[protocol], abs=1e-6)


def test_resized_shards_are_scored_at_the_original_size_too(workdir, report, tmp_path):
    data = tiny.write_shards(tmp_path, 7, seed=1, sizes=SIZES, storage="resized")
    out = tmp_path / "out"
    evaluate_command.main([f"--workdir={workdir}", f"--data={data}", f"--out={out}"])
    assert (out / "per_image.csv").read_text() == (report / "per_image.csv").read_text()


def test_the_threshold_moves_figures_and_not_areas_under_curves(
    workdir, shards, report, tmp_path
):
    out = tmp_path / "low"
    scoring.evaluate(
        Options(workdir=str(workdir), data=shards[1], out=str(out), threshold=0.01)
    )
    scores = json.loads((out / "metrics.json").read_text())
    standard = json.loads((report / "metrics.json").read_text())["standard"]
    assert scores["standard"]["image_auc"] == standard["image_auc"]
    everything = scores["baselines"]["everything_manipulated"]["pixel_f1_manipulated"]
    assert scores["standard"]["pixel_f1_manipulated"] == pytest.approx(everything)


def test_evaluation_refuses_in_one_line(workdir, shards, tmp_path, capsys):
    common = [f"--workdir={workdir}", f"--data={shards[1]}"]
    error = lambda *a: one_error(capsys, evaluate_command.main, *a)
    out = f"--out={tmp_path / 'out'}"
    assert "no config.json" in error("--workdir=/nowhere", common[1], out)
    assert "/nowhere" in error(common[0], "--data=/nowhere", out)
    assert "No checkpoint '9'" in error(*common, out, "--checkpoint=9")
    assert "between 0 and 1" in error(*common, out, "--threshold=50")
    (tmp_path / "mine.txt").touch()
    assert "holds something else" in error(*common, f"--out={tmp_path}")
    assert "a part of the path is a file" in error(
        *common, f"--out={tmp_path / 'mine.txt' / 'out'}"
    )
    # Where not even root may write.
    assert "permission denied" in error(*common, "--out=/sys/report")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.txt"]


def test_a_full_disk_leaves_nothing_half_written(
    workdir, shards, tmp_path, capsys, monkeypatch
):
    def full(path, planes, **settings):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(images, "write_png", full)
    out = tmp_path / "out"
    error = one_error(
        capsys,
        evaluate_command.main,
        *(f"--workdir={workdir}", f"--data={shards[1]}", f"--out={out}"),
    )
    assert "the disk is full" in error
    assert list(tmp_path.iterdir()) == []


def test_a_config_of_another_network_is_refused(workdir, shards, tmp_path, capsys):
    other = tmp_path / "run"
    shutil.copytree(workdir, other)
    config = checkpoint.read_config(other).to_dict()
    config["model"]["width"] = 16
    write_json(other / "config.json", config)
    with pytest.raises(InputError, match="does not fit the network:\n.*another shape"):
        checkpoint.load(other)


def test_predictions_have_the_size_of_their_images(workdir, shards, tmp_path, capsys):
    folder = tmp_path / "photos" / "deep"
    tiny.write_images(folder, 3, seed=2, sizes=SIZES)
    cv2.imwrite(str(folder / "2_same.jpg"), np.zeros((33, 31, 3), np.uint8))
    (folder / "broken.png").write_text("no picture")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        predict_command.main(
            [f"--workdir={workdir}", f"--out={out}", str(tmp_path / "photos")]
        )
    assert stopped.value.code == 1  # the broken one

    printed = capsys.readouterr()
    lines = {x["image"]: x for x in map(json.loads, printed.out.splitlines())}
    assert set(lines) == {"0.png", "1.png", "1_mask.png", "2.png", "2_same.jpg"}
    assert printed.err.count("Error:") == 1 and "broken.png" in printed.err
    for name, line in lines.items():
        image = cv2.imread(str(folder / name))
        mask = cv2.imread(line["mask"], cv2.IMREAD_UNCHANGED)
        assert mask.shape == image.shape[:2]
        assert cv2.imread(line["overlay"]).shape == image.shape
        assert 0 <= line["score"] <= 1 and 0 <= line["manipulated_area"] <= 1
        assert line["mask_source"] == "network"


def test_one_photo_gets_the_mask_and_score_that_evaluation_gives_it(
    workdir, shards, report, tmp_path
):
    with (report / "per_image.csv").open() as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    name = next(iter(rows))
    path = f"{shards[1]}/../images/{name}"
    (line,) = output_folder.predict(
        lambda: Predictor(str(workdir)), str(tmp_path), [path]
    )
    assert line["score"] == pytest.approx(float(rows[name]["score"]), abs=1e-4)
    masks = [cv2.imread(str(p), 0) for p in (line["mask"], report / "masks" / name)]
    np.testing.assert_allclose(masks[0], masks[1].astype(int), atol=1)


def test_prediction_refuses_in_one_line(workdir, tmp_path, capsys):
    error = lambda *a: one_error(
        capsys, predict_command.main, f"--workdir={workdir}", f"--out={tmp_path}", *a
    )
    assert "/nowhere.jpg: no such file" in error("/nowhere.jpg")
    (tmp_path / "empty").mkdir()
    assert "no image in it" in error(tmp_path / "empty")
    (tmp_path / "text.png").write_text("text")
    assert "text.png" in error(tmp_path / "text.png")

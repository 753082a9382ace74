"""A packed network is the run's, calibrated, small, and found by its name."""

import json

import cv2
import jax
import numpy as np
import pytest
from scipy.special import expit, logit

import sdfl_jax
from sdfl_jax.checkpoints import checkpoint, shipped
from sdfl_jax.errors import InputError
from sdfl_jax.predict.ship import _bias, _without_folders, ship
from tests import tiny

STARTER = {
    "name": "starter",
    "encoder": "tiny",
    "width": 8,
    "noise_width": 8,
    "freeze_encoder_bn": False,
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("run"), model=STARTER)


@pytest.fixture(scope="module")
def packed(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    listed = tiny.write_images(folder / "a", 12, sizes=((64, 64), (64, 96)))
    ship(str(run), str(folder / "packed"), [str(listed)], alarms=0.2)
    return folder / "packed", listed


def test_a_packed_network_is_the_runs_but_for_its_biases(run, packed):
    before = checkpoint.load(run, "latest")
    after = checkpoint.load(packed[0])
    params = jax.device_get(after.variables["params"])
    for path in ("mask_head", "label_head"):
        del params[path]
    for path, kept in jax.tree_util.tree_flatten_with_path(params)[0]:
        given = before.variables["params"]
        for key in path:
            given = given[key.key]
        np.testing.assert_allclose(kept, given, rtol=1e-3, atol=1e-6)


def test_half_is_the_best_threshold_and_the_call(run, packed):
    folder, listed = packed
    card = json.loads((folder / "card.json").read_text())["card"]
    low, high = card["calibration"]["band"]
    assert 0 <= low <= high == 0.5
    images = [str(listed.parent / f"{i}.png") for i in range(12)]
    answers = list(sdfl_jax.load(str(folder)).of_files(images))
    authentic = [a for a in answers if int(a.name.split(".")[0]) % 2 == 0]
    assert sum(a.verdict == "manipulated" for a in authentic) <= 2
    told = card["calibration"]["called_manipulated"]["manipulated"]
    manipulated = [a for a in answers if int(a.name.split(".")[0]) % 2]
    called = np.mean([a.verdict == "manipulated" for a in manipulated])
    assert abs(called - told) < 0.2  # float16 moves scores a little


def test_nothing_says_where_the_data_lay(packed):
    for name in ("config.json", "card.json"):
        text = (packed[0] / name).read_text()
        assert "/tmp" not in text and str(packed[1].parent) not in text


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("forge:/a/b/cameras:5,/a/wall:1,c/d", "forge:cameras:5,wall:1,c/d"),
        ("/val", "val"),
        ("casia2=/a/b:10", "casia2=b:10"),
        ("gs://bucket/a", "gs://bucket/a"),
        ("encoder/block1/*", "encoder/block1/*"),
        ("1 / 2", "1 / 2"),
    ],
)
def test_only_folders_of_paths_are_left_out(before, after):
    assert _without_folders({"x": [before]}) == {"x": [after]}


def test_a_name_that_ships_is_found_and_others_are_told(monkeypatch, packed, tmp_path):
    monkeypatch.setattr(shipped, "FOLDER", packed[0].parent)
    assert shipped.names() == ["packed"]
    assert checkpoint.load("packed").config.model.name == "starter"
    with pytest.raises(InputError, match="packed"):
        checkpoint.load(str(tmp_path / "nowhere"))


def test_a_damaged_folder_is_one_line(packed, tmp_path):
    for name in ("config.json", "card.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / shipped.WEIGHTS).write_bytes(b"nothing")
    with pytest.raises(InputError, match="no whole network"):
        checkpoint.load(tmp_path)


def test_other_networks_and_lists_of_one_class_are_refused(run, packed, tmp_path):
    other = tiny.write_run(tmp_path / "other")
    with pytest.raises(InputError, match="a sdfl; only"):
        ship(str(other), str(tmp_path / "out"), [str(packed[1])])
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "list.csv").write_text("image,label\na.png,0\n")
    with pytest.raises(InputError, match="manipulated images and authentic"):
        ship(str(run), str(tmp_path / "out"), [str(tmp_path / "list.csv")])


def test_alarms_of_a_second_look_start_where_those_of_one_do():
    rng = np.random.default_rng(0)
    logits, twice = rng.normal(-2, 1, 400), np.arange(400) % 4 > 0
    scores = expit(np.where(twice, logits - 3, logits))
    bias = _bias(scores, twice, 0.05)
    moved = expit(logit(scores) + np.where(twice, bias, 0))
    high = np.quantile(moved, 0.95)
    for part in (twice, ~twice):
        assert np.mean(moved[part] > high) == pytest.approx(0.05, abs=0.02)
    assert _bias(scores, twice, 0.005) == 0  # of 100, none is half of one
    assert _bias(scores, np.ones(400, bool), 0.05) == 0

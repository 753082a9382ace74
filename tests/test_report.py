"""What people get to see: whole files, readable tables, pictures with words."""

import json
import math

import cv2
import numpy as np
import pytest

from sdfl_jax import report
from sdfl_jax.report import tables
from sdfl_jax.report.training_log import grid


def lines(workdir):
    text = (workdir / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def test_log_writes_lines_at_once_and_no_nan(tmp_path):
    log = report.Log(tmp_path / "run")
    log.write(1, {"loss": np.float32(0.5), "val/pixel_f1": None})
    log.write(2, {"loss": math.nan, "rate": math.inf, "skipped": np.int32(3)})
    # Read while the log is open: a killed run keeps its lines.
    assert lines(tmp_path / "run") == [
        {"step": 1, "loss": 0.5, "val/pixel_f1": None},
        {"step": 2, "loss": None, "rate": None, "skipped": 3.0},
    ]
    log.close()


def test_resumed_log_tells_each_step_once(tmp_path):
    log = report.Log(tmp_path)
    for step in (1, 2, 3, 4):
        log.write(step, {"loss": step})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # cut short by a kill
    log = report.Log(tmp_path, resume_step=2)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]
    log.write(3, {"loss": 30})
    log.close()
    assert [line["loss"] for line in lines(tmp_path)] == [1, 2, 30]


def test_tensorboard_events_are_written_without_tensorflow(tmp_path):
    log = report.Log(tmp_path)
    log.write(1, {"loss": 0.25})
    log.images(1, "val", np.zeros((3, 8, 24, 3), np.uint8))
    log.close()
    (events,) = (tmp_path / "tensorboard").glob("events*")
    content = events.read_bytes()
    assert b"loss" in content and b"val" in content and b"PNG" in content


def test_grid_shows_every_image_once():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] + np.zeros(
        (5, 4, 12, 3), np.uint8
    )
    one = grid(images)
    assert one.shape == (5 * 6, 14, 3)  # wide images go below each other
    wide = grid(images[:, :, :4])
    assert wide.shape == (3 * 6, 2 * 6, 3)
    for value in range(5):
        assert np.count_nonzero(wide[..., 0] == value) == 16


def test_table_is_aligned_and_tells_missing_from_zero():
    rows = [
        {"what": "network", "f1": 0.12345, "n": 12},
        {"what": "x", "f1": 0.0, "n": None},
        {"what": "y"},
    ]
    assert report.table(rows, {"what": "", "f1": "pixel F1", "n": "n"}) == (
        "|         | pixel F1 |   n |\n"
        "| ------- | -------: | --: |\n"
        "| network |    0.123 |  12 |\n"
        "| x       |    0.000 |   - |\n"
        "| y       |        - |   - |"
    )
    assert report.table([], ["a"]) == "|   a |\n| --: |"


def test_score_table_sets_the_network_beside_its_baselines():
    figures = {
        "pixel_f1_manipulated": 0.5,
        "pixel_iou_manipulated": 0.4,
        "pixel_auc_manipulated": 0.9,
        "image_f1": 0.7,
        "image_auc": None,
    }
    scores = {
        "standard": figures,
        "reference": {"threshold": 0.5},
        "validation_threshold": {"threshold": 0.342, "standard": figures},
        "kinds": {"splice": {"manipulated": 31, **figures}},
        "baselines": {"centre_prior": {"pixel_auc_manipulated": 0.59}},
    }
    text = report.score_table(scores)
    for part in ("threshold 0.342", "splice (31)", "centre prior", "0.590"):
        assert part in text
    assert len({len(line) for line in text.splitlines()}) == 1
    only = {"standard": figures, "reference": {"threshold": 0.5}}
    assert len(report.score_table(only).splitlines()) == 3


def test_of_images_without_masks_only_metrics_of_images_are_shown():
    figures = {key: None for key in tables.SUMMARY} | {"image_auc": 0.75}
    scores = {"standard": figures, "reference": {"threshold": 0.5}}
    head, _, row = report.score_table(scores).splitlines()
    assert head.split("|")[2:-1] == [" image AUC "] and "0.750" in row
    assert [row["key"] for row in tables.metric_rows(scores, "standard")] == [
        "image_auc"
    ]


def test_overlay_reddens_what_is_called_manipulated_and_leaves_the_rest():
    image = np.full((60, 80, 3), 100, np.uint8)
    probs = np.zeros((60, 80), np.float32)
    probs[20:40, 30:50] = 1
    found = report.overlay(image, probs)
    assert found.shape == image.shape and found.dtype == np.uint8
    np.testing.assert_array_equal(found[:15], image[:15])
    red, green, _ = found[30, 40].astype(int)
    assert red > 150 and green < 80
    assert not np.array_equal(found[20, 40], found[30, 40])  # the line around it
    assert np.array_equal(image, np.full((60, 80, 3), 100))  # not changed in place


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    made = []
    for i, (h, w) in enumerate([(60, 80), (128, 128), (90, 40)]):
        mask = np.zeros((h, w), np.uint8)
        mask[h // 4 : h // 2] = 255 * (i != 1)
        made.append(
            {
                "image": rng.integers(0, 256, (h, w, 3), dtype=np.uint8),
                "mask": mask,
                "mask_probs": (mask / 255).astype(np.float32),
                "name": f"a $folder$/\udcff{i}$x$.png",
                "label": int(i != 1),
            }
        )
    made[0] |= {"kind": "inpainting", "score": 0.75}
    made[2] |= {"has_mask": False, "mask": np.zeros((90, 40, 1), np.uint8)}
    return made


def test_picture_sheet_has_a_row_of_four_for_each_example(tmp_path, rows):
    one, three = tmp_path / "one.png", tmp_path / "sheets" / "three.png"
    report.picture_sheet(rows[:1], one, "One")
    report.picture_sheet(iter(rows), three, "Three")
    one, three = cv2.imread(str(one)), cv2.imread(str(three))
    assert one.shape[1] == three.shape[1] > 1000
    assert three.shape[0] > 2 * one.shape[0]
    assert one.std() > 10  # not a blank sheet
    assert [p.name for p in (tmp_path / "sheets").iterdir()] == ["three.png"]


def test_roc_plot_draws_and_bears_a_single_class(tmp_path):
    report.roc_plot(np.array([0, 1, 1]), np.array([0.1, 0.9, 0.2]), tmp_path / "a.png")
    report.roc_plot(np.array([1, 1]), np.array([0.1, 0.9]), tmp_path / "b.png")
    for name in ("a.png", "b.png"):
        assert cv2.imread(str(tmp_path / name)).shape[0] > 400


def test_a_picture_that_cannot_be_written_leaves_nothing(tmp_path, rows, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", full)
    with pytest.raises(OSError, match="No space"):
        report.picture_sheet(rows, tmp_path / "sheet.png", "")
    assert not list(tmp_path.iterdir())

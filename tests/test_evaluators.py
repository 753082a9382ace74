"""The evaluator: every example once, at its own size, whatever the batches."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sdfl_jax import metrics
from sdfl_jax.data import pipeline
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators import EVALUATORS, Evaluation, LocalizationEvaluator
from sdfl_jax.files import write_csv

SIZES = [(40, 50), (64, 64), (33, 90), (70, 31), (64, 64), (20, 20), (50, 40)]
KINDS = ["splice", "", "copymove", "splice", "", "inpainting", ""]


class Source:
    """Seven examples whose red channel is what the network below predicts."""

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        height, width = SIZES[index]
        rng = np.random.default_rng(index)
        label = int(KINDS[index] != "")
        mask = np.zeros((height, width), np.uint8)
        if label:
            mask[: height // 2, width // 3 :] = 255
            mask[-3:] = 90
        image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        image[..., 0] = np.clip(image[..., 0] * 0.8 + mask * 0.3, 0, 255)
        return {
            "image": image,
            "mask": mask[..., None],
            "original_mask": mask,
            "label": label,
            "has_mask": index != 3,
            "height": height,
            "width": width,
            "name": f"folder/{index}.png",
            "source": "made",
            "group": str(index),
            "kind": KINDS[index],
        }


def network(state, arrays):
    """Predicts the red channel, and its mean as the score."""
    probs = arrays["image"][..., 0].astype(jnp.float32) / 255
    valid = arrays["valid"].astype(jnp.float32)
    mean = jnp.sum(arrays["label"] * valid) / jnp.sum(valid)
    return {
        "mask_probs": probs * state,
        "score": jnp.full(probs.shape[:1], 0.5) + 0.4 * (arrays["label"] - 0.5),
        "loss": {"loss": mean, "loss/mask": 2 * mean},
    }


def evaluate(
    batch_size=4, step=network, geometry="crop", change=iter, set_name="", **settings
):
    """An evaluation and the order in which its examples came."""
    seen = []
    make_batches = lambda: change(
        pipeline.eval_batches(
            Source(),
            batch_size=batch_size,
            image_size=64,
            geometry=geometry,
            **settings,
        )
    )
    evaluator = LocalizationEvaluator(step, make_batches, set_name=set_name)
    result = evaluator.run(
        jnp.float32(1), lambda example, probs: seen.append((example["name"], probs))
    )
    return result, seen


@pytest.fixture(scope="module")
def plain():
    return evaluate()[0]


def test_figures_are_those_of_the_whole_images(plain):
    examples = [Source()[i] for i in range(len(SIZES))]
    expected = metrics.report(
        [example["original_mask"] for example in examples],
        [example["image"][..., 0] for example in examples],
        [example["label"] for example in examples],
        [0.7 if example["label"] else 0.3 for example in examples],
        has_mask=[example["has_mask"] for example in examples],
    )
    for protocol in expected:
        for name, value in expected[protocol].items():
            assert plain.figures[protocol][name] == pytest.approx(value, rel=1e-6), name
    assert plain.figures["reference"]["n"] == len(SIZES)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_batches_and_tiles_change_nothing(plain, batch_size):
    for settings in ({}, {"max_side": 64}):
        found, seen = evaluate(batch_size, **settings)
        names = [Source()[i]["name"] for i in range(len(SIZES))]
        assert [name for name, _ in seen] == names  # each once, in order
        assert found.rows == plain.rows
        np.testing.assert_array_equal(found.histograms, plain.histograms)
        assert found.pixel_threshold == plain.pixel_threshold
    for (_, probs), size in zip(seen, SIZES, strict=True):
        assert probs.shape == size and probs.dtype == np.float32


def test_eight_devices_agree_with_one(plain):
    mesh = Mesh(jax.devices()[:8], ("data",))
    shardings = (
        NamedSharding(mesh, PartitionSpec()),
        NamedSharding(mesh, PartitionSpec("data")),
    )
    found, _ = evaluate(8, step=jax.jit(network, in_shardings=shardings))
    assert found.rows == plain.rows
    np.testing.assert_array_equal(found.histograms, plain.histograms)


def test_loss_is_the_mean_over_rows_and_padding_is_none():
    # Rows are whole images here: four of seven are manipulated.
    for batch_size in (1, 4, 32):
        found, _ = evaluate(batch_size, geometry="resize")
        assert found.loss == pytest.approx({"loss": 4 / 7, "loss/mask": 8 / 7})


def test_maps_come_back_at_the_size_of_the_image():
    found, seen = evaluate(geometry="resize")
    assert [probs.shape for _, probs in seen] == SIZES
    assert found.histograms.sum(axis=(1, 2)).tolist() == [h * w for h, w in SIZES]


def test_rows_name_each_example_and_fit_a_csv(plain, tmp_path):
    rows = plain.rows
    assert [row["name"] for row in rows] == [f"folder/{i}.png" for i in range(7)]
    assert (rows[2]["height"], rows[2]["width"]) == SIZES[2]
    assert rows[0]["kind"] == "splice" and 0 < rows[0]["pixel_f1"] < 1
    assert rows[3]["pixel_f1"] is None  # its mask is not known
    assert rows[1]["pixel_f1"] is None and rows[1]["predicted_area"] > 0
    write_csv(tmp_path / "per_image.csv", rows, list(rows[0]))
    with (tmp_path / "per_image.csv").open(newline="") as file:
        read = list(csv.DictReader(file))
    assert float(read[0]["pixel_f1"]) == rows[0]["pixel_f1"]
    assert read[1]["pixel_f1"] == ""


def test_kinds_are_scored_apart_against_all_authentic_images(plain):
    kinds = plain.by_kind()
    assert list(kinds) == ["copymove", "inpainting", "splice"]
    assert kinds["splice"]["manipulated"] == 2
    # The other splice has no mask.
    assert kinds["splice"]["pixel_f1_manipulated"] == plain.rows[0]["pixel_f1"]
    part = plain.of_kinds(["copymove", "inpainting"])
    assert part.figures["reference"]["n"] == 2 + 3
    assert part.figures["standard"]["pixel_f1_manipulated"] == pytest.approx(
        np.mean([plain.rows[i]["pixel_f1"] for i in (2, 5)])
    )
    assert set(part.baselines()) == {
        "everything_manipulated",
        "nothing_manipulated",
        "centre_prior",
    }


def test_thresholds_move_maps_and_scores_apart(plain):
    best = plain.at_threshold(plain.pixel_threshold)
    tried = [plain.at_threshold(t / 20) for t in range(21)]
    f1 = lambda figures: figures["standard"]["pixel_f1_manipulated"]
    assert all(f1(best) >= f1(t) for t in tried)
    image_f1 = {t["standard"]["image_f1"] for t in tried}
    assert image_f1 == {plain.figures["standard"]["image_f1"]}
    moved = plain.at_threshold(0.5, image_threshold=0.0)
    assert moved["reference"]["specificity"] == 0


def test_all_figures_fit_json(plain):
    everything = [plain.figures, plain.rows, plain.loss, plain.by_kind()]
    json.dumps([*everything, plain.baselines()], allow_nan=False)
    authentic = plain.of_kinds([])
    json.dumps([authentic.figures, authentic.baselines()], allow_nan=False)
    assert authentic.pixel_threshold is None and authentic.by_kind() == {}


def test_an_evaluation_is_read_back_from_its_folder(plain, tmp_path):
    odd = dataclasses.replace(
        plain, known=[known | {"name": "ä\udcff"} for known in plain.known]
    )
    odd.save(tmp_path)
    read = Evaluation.load(tmp_path)
    assert (read.known, read.loss) == (odd.known, odd.loss)
    assert read.figures == plain.figures and read.baselines() == plain.baselines()
    assert read.histograms.dtype == np.int32 and read.has_mask.dtype == bool


def test_a_folder_without_an_evaluation_is_told_in_one_line(tmp_path):
    with pytest.raises(InputError, match="holds no evaluation.npz"):
        Evaluation.load(tmp_path)
    (tmp_path / "evaluation.npz").write_bytes(b"PK no archive")
    with pytest.raises(InputError, match="damaged"):
        Evaluation.load(tmp_path)


def test_an_example_knows_its_set():
    assert {known["set"] for known in evaluate()[0].known} == {""}
    found, _ = evaluate(set_name="casia1")
    assert [(k["set"], k["index"]) for k in found.known] == [
        ("casia1", i) for i in range(len(SIZES))
    ]


def test_examples_that_come_twice_or_in_part_are_noticed():
    twice = lambda batches: (batch for b in batches for batch in (b, b))
    with pytest.raises(RuntimeError, match="twice"):
        evaluate(change=twice)
    short = lambda batches: list(batches)[:-2]
    with pytest.raises(RuntimeError, match="did not end"):
        evaluate(1, change=short, max_side=32)


def test_nothing_to_score_is_told_in_one_line():
    with pytest.raises(InputError, match="no examples"):
        evaluate(change=lambda batches: [])


def test_a_prediction_that_is_no_number_is_told_with_its_image():
    step = lambda state, arrays: network(state * jnp.nan, arrays)
    with pytest.raises(InputError, match=r"folder/0.png: .*NaN"):
        evaluate(step=step)


def test_evaluators_go_by_name():
    assert EVALUATORS["localization"] is LocalizationEvaluator

"""The evaluator: every example once, at its own size, whatever the batches."""

import csv
import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sdfl_jax import metrics, report
from sdfl_jax.data.batches import eval_batches
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators import Evaluation, Evaluator, compare
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
    batch_size=4,
    step=network,
    geometry="crop",
    change=iter,
    set_name="",
    may_be_empty=False,
    **settings,
):
    """An evaluation and the order in which its examples came."""
    seen = []
    make_batches = lambda: change(
        eval_batches(
            Source(),
            batch_size=batch_size,
            image_size=64,
            geometry=geometry,
            **settings,
        )
    )
    evaluator = Evaluator(
        step, make_batches, set_name=set_name, may_be_empty=may_be_empty
    )
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
            found = plain.by_protocol[protocol][name]
            assert found == pytest.approx(value, rel=1e-6), name
    assert plain.by_protocol["reference"]["n"] == len(SIZES)


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
    assert part.by_protocol["reference"]["n"] == 2 + 3
    assert part.by_protocol["standard"]["pixel_f1_manipulated"] == pytest.approx(
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
    assert image_f1 == {plain.by_protocol["standard"]["image_f1"]}
    moved = plain.at_threshold(0.5, image_threshold=0.0)
    assert moved["reference"]["specificity"] == 0


def test_all_figures_fit_json(plain):
    everything = [plain.by_protocol, plain.rows, plain.loss, plain.by_kind()]
    json.dumps([*everything, plain.baselines()], allow_nan=False)
    authentic = plain.of_kinds([])
    json.dumps([authentic.by_protocol, authentic.baselines()], allow_nan=False)
    assert authentic.pixel_threshold is None and authentic.by_kind() == {}


def test_an_evaluation_is_read_back_from_its_folder(plain, tmp_path):
    odd = dataclasses.replace(
        plain, known=[known | {"name": "ä\udcff"} for known in plain.known]
    )
    odd.save(tmp_path)
    read = Evaluation.load(tmp_path)
    assert (read.known, read.loss) == (odd.known, odd.loss)
    assert read.by_protocol == plain.by_protocol
    assert read.baselines() == plain.baselines()
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


def test_a_score_that_is_no_number_is_told_with_its_image():
    def step(state, arrays):
        found = network(state, arrays)
        return found | {"score": found["score"] * jnp.nan}

    with pytest.raises(InputError, match=r"folder/0.png: the network.s score holds"):
        evaluate(step=step)


def test_losses_of_rows_are_averaged_exactly():
    def step(state, arrays):
        found = network(state, arrays)
        rows = 0.1 * arrays["image"][:, 0, 0, 0].astype(jnp.float32)
        return found | {"loss": {"loss": rows}}

    losses = {evaluate(n, step, geometry="resize")[0].loss["loss"] for n in (1, 4, 32)}
    assert len(losses) == 1


# Parts of an evaluation


@pytest.mark.parametrize("processes", [2, 3, 7])
def test_processes_score_every_image_exactly_once(plain, processes, tmp_path):
    for i in range(processes):
        share = plain.take(np.arange(i, len(SIZES), processes))
        # A process counts the examples of its own part.
        known = [one | {"index": place} for place, one in enumerate(share.known)]
        dataclasses.replace(
            share, known=known, loss={"loss": float(i)}, loss_rows=len(known)
        ).in_whole(i, processes).save(tmp_path / str(i))
    parts = [Evaluation.load(tmp_path / str(i)) for i in reversed(range(processes))]
    whole = Evaluation.merge(parts)
    assert [known["index"] for known in whole.known] == list(range(len(SIZES)))
    assert whole.rows == plain.rows and whole.by_protocol == plain.by_protocol
    np.testing.assert_array_equal(whole.histograms, plain.histograms)
    expected = np.mean([i % processes for i in range(len(SIZES))])
    assert whole.loss["loss"] == pytest.approx(expected)
    with pytest.raises(RuntimeError, match=r"folder/\d.png was scored twice"):
        Evaluation.merge([*parts, parts[0]])
    other = dataclasses.replace(parts[0], threshold=0.3)
    with pytest.raises(InputError, match="have threshold"):
        Evaluation.merge([other, *parts[1:]])


def test_a_process_without_examples_adds_nothing(plain):
    nothing, seen = evaluate(change=lambda batches: [], may_be_empty=True)
    assert nothing.known == [] and seen == []
    whole = Evaluation.merge([nothing, plain, nothing])
    assert whole.rows == plain.rows and whole.loss == plain.loss
    assert nothing.by_protocol["reference"]["n"] == 0


def in_set(evaluation, name):
    known = [one | {"set": name} for one in evaluation.known]
    return dataclasses.replace(evaluation, known=known)


def test_sets_are_scored_together_and_apart(plain):
    both = Evaluation.merge([in_set(plain, "b"), in_set(plain, "a")])
    assert both.set_names == ["a", "b"]
    scores = both.scores(resamples=0)
    assert scores["reference"]["n"] == 2 * len(SIZES)
    assert list(scores["sets"]) == ["a", "b"]
    for part in scores["sets"].values():
        for protocol in ("reference", "standard"):
            assert part[protocol] == plain.by_protocol[protocol]
    # The mean over twice the same images is their mean.
    for name, value in plain.by_protocol["standard"].items():
        assert scores["standard"][name] == pytest.approx(value), name
    assert "sets" not in plain.scores(resamples=0)


def test_scores_hold_what_the_report_shows(plain):
    settled = dataclasses.replace(plain, calibrated=(0.3, 0.6))
    scores = settled.scores(subsets=["splice+copymove"], videos=True, resamples=50)
    json.dumps(scores, allow_nan=False)
    assert scores["standard"] == plain.by_protocol["standard"]
    for protocol, found in scores["intervals"].items():
        assert found.keys() == metrics.METRICS[protocol].keys() - {
            "pixel_f1_permuted_manipulated"
        }
    low, high = scores["intervals"]["standard"]["pixel_f1_manipulated"]
    assert low < scores["standard"]["pixel_f1_manipulated"] < high

    calibrated = scores["validation_threshold"]
    assert (calibrated["threshold"], calibrated["image_threshold"]) == (0.3, 0.6)
    assert calibrated["standard"] == plain.at_threshold(0.3, 0.6)["standard"]
    assert calibrated["intervals"]["standard"]["pixel_f1_manipulated"] is not None
    assert plain.scores(resamples=0)["validation_threshold"] is None
    # Validation data without masks know a threshold of scores alone.
    labels = dataclasses.replace(plain, calibrated=(None, 0.6)).scores(resamples=0)
    calibrated = labels["validation_threshold"]
    assert (calibrated["threshold"], calibrated["image_threshold"]) == (None, 0.6)
    assert calibrated["standard"] == plain.at_threshold(None, 0.6)["standard"]
    assert "threshold 0.6, best on validation data" in report.score_table(labels)

    assert scores["kinds"]["splice"]["manipulated"] == 2
    assert "pixel_f1_manipulated" in scores["kinds"]["splice"]["intervals"]
    subset = scores["subsets"]["splice+copymove"]
    assert subset["manipulated"] == 3 and "centre_prior" in subset["baselines"]
    assert len(scores["threshold_curve"]["threshold"]) == 256
    assert scores["videos"]["frame"]["image_f1"] == scores["standard"]["image_f1"]
    again = settled.scores(subsets=["splice+copymove"], videos=True, resamples=50)
    assert json.dumps(again) == json.dumps(scores)
    assert "intervals" not in settled.scores(resamples=0)


def with_areas(shares, level=255):
    """Images of 1000 pixels of which a share is manipulated and found."""
    histograms = np.zeros((len(shares), 3, 256), np.int32)
    counts = np.round(1000 * np.asarray(shares)).astype(int)
    histograms[:, 2, level], histograms[:, 0, 0] = counts, 1000 - counts
    names = [{"name": f"{i}.png", "group": "", "kind": ""} for i in range(len(shares))]
    return Evaluation(
        known=[
            {**one, "source": "", "height": 10, "width": 100, "set": "", "index": i}
            for i, one in enumerate(names)
        ],
        histograms=histograms,
        inner_histograms=histograms[:, [0, 2]],
        centre_histograms=histograms,
        label=(counts > 0).astype(int),
        score=np.asarray(shares, float),
        has_mask=np.ones(len(shares), bool),
        loss={},
    )


def test_images_are_scored_by_the_share_that_is_manipulated():
    evaluation = with_areas([0, 0.005, 0.01, 0.049, 0.05, 0.2, 1.0])
    areas = evaluation.by_area()
    found = {name: part["manipulated"] for name, part in areas.items()}
    assert found == {"<1 %": 1, "1-5 %": 2, "5-20 %": 1, ">20 %": 2}
    assert all(part["image_auc"] == 1 for part in areas.values())  # with the authentic
    assert list(with_areas([0, 0.3]).by_area()) == [">20 %"]


def test_a_video_is_the_mean_of_its_frames_scores_and_all_their_pixels():
    frames = with_areas([0.1, 0.3, 0.2, 0.0, 0.0])
    names = ["a/005_010_1.png", "a/005_010_20.png", "a/7.png", "b/1.png", "b/02.png"]
    frames = dataclasses.replace(
        frames,
        known=[
            one | {"name": name, "group": name[0]}
            for one, name in zip(frames.known, names, strict=True)
        ],
    )
    videos = frames.of_videos()
    assert [known["name"] for known in videos.known] == ["a/005_010", "a/", "b/"]
    np.testing.assert_allclose(videos.score, [0.2, 0.2, 0])
    assert videos.label.tolist() == [1, 1, 0]
    assert videos.histograms.sum(axis=(1, 2)).tolist() == [2000, 1000, 2000]
    assert videos.histograms[0, 2, 255] == 400
    scores = frames.scores(videos=True, resamples=0)["videos"]
    assert scores["videos"] == 3
    assert (scores["frame"]["image_auc"], scores["video"]["image_auc"]) == (1, 1)
    assert scores["video"]["image_ece"] != scores["frame"]["image_ece"]


def test_images_of_one_group_are_drawn_together(plain):
    known = [one | {"group": "x"} for one in plain.known]
    alike = dataclasses.replace(plain, known=known)
    assert len(set(alike.groups)) == 1 and len(set(plain.groups)) == len(SIZES)
    # One group tells nothing of the spread between groups.
    found = alike.intervals(resamples=20)
    assert set(found["standard"].values()) == {None}
    unknown = dataclasses.replace(
        plain, known=[one | {"group": ""} for one in plain.known]
    )
    assert len(set(unknown.groups)) == len(SIZES)


# Comparisons


def test_an_evaluation_does_not_differ_from_itself(plain):
    found = compare(plain, plain.take(np.arange(len(SIZES))[::-1]), resamples=50)
    json.dumps(found, allow_nan=False)
    assert (found["images"], found["groups"]) == (len(SIZES), len(SIZES))
    for protocol in ("reference", "standard"):
        for name, entry in found[protocol].items():
            assert entry["first"] == pytest.approx(entry["second"]), name
            if entry["difference"] is not None:
                assert entry["difference"] == pytest.approx(0, abs=1e-12), name
    entry = found["standard"]["pixel_f1_manipulated"]
    assert entry["interval"] == pytest.approx([0, 0], abs=1e-12)


def test_other_images_labels_or_masks_are_not_compared(plain):
    with pytest.raises(InputError, match="7 and 6 images, and 1 are only in one .*6"):
        compare(plain, plain.take(np.arange(6)))
    other = dataclasses.replace(plain, label=1 - plain.label)
    with pytest.raises(InputError, match="7 images, such as folder/0.png, .* label"):
        compare(plain, other)
    histograms = plain.histograms.copy()
    histograms[2, 0, 0] += 1
    other = dataclasses.replace(plain, histograms=histograms)
    with pytest.raises(InputError, match="1 images, such as folder/2.png, .* mask"):
        compare(plain, other)
    # The mask of image 3 is not known, so it may be anything.
    histograms = plain.histograms.copy()
    histograms[3, 0, 0] += 1
    other = dataclasses.replace(plain, histograms=histograms, calibrated=(0.2, 0.2))
    assert "validation_threshold" not in compare(plain, other, resamples=5)
    mine = dataclasses.replace(plain, calibrated=(0.5, 0.5))
    assert compare(mine, other, resamples=5)["validation_threshold"]["standard"]


def test_an_image_listed_twice_is_compared_twice(plain):
    known = [one | {"name": "same.png"} for one in plain.known]
    twice = dataclasses.replace(plain, known=known)
    found = compare(twice, twice, resamples=5)
    assert found["standard"]["image_auc"]["difference"] == 0

"""Prediction: videos and their timelines, few programs, programs kept between runs."""

import csv
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from matplotlib.figure import Figure

from sdfl_jax.data import images, search, videos
from sdfl_jax.drawing import figures
from sdfl_jax.errors import InputError
from sdfl_jax.metrics.calibration import VERDICTS
from sdfl_jax.predict import __main__ as predict_command
from sdfl_jax.predict import output_folder, predictor, timeline
from sdfl_jax.steps import IMAGE_LEVEL_MASKS
from tests import tiny
from tests.fuzz import by_pillow

SIDE, RATE = 64, 10


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("run"), data__geometry="crop")


@pytest.fixture
def shapes(monkeypatch):
    """A network that answers an image's brightness; the shapes it was asked for."""
    asked = []

    def make(model, mesh, **settings):
        def step(variables, arrays):
            image = arrays["image"].astype(np.float32) / 255
            asked.append(image.shape)
            return {"mask_probs": image.mean(-1), "score": image.mean((1, 2, 3))}

        return step

    monkeypatch.setattr(predictor, "make_evaluate_step", make)
    return asked


def write_video(path: Path, pictures) -> Path:
    """A video of such frames, or of even grey where they are numbers; RATE a second."""
    codec = {".avi": "MJPG"}.get(path.suffix, "mp4v")
    writer = cv2.VideoWriter(
        str(path), cv2.VideoWriter_fourcc(*codec), RATE, (SIDE, SIDE)
    )
    for picture in pictures:
        writer.write(np.full((SIDE, SIDE, 3), picture, np.uint8))
    writer.release()
    return path


def run(workdir, out, *options, code=0, capsys):
    """The lines and the errors that the command prints."""
    if code:
        with pytest.raises(SystemExit) as stopped:
            predict_command.main(
                [f"--workdir={workdir}", f"--out={out}", *map(str, options)]
            )
        assert stopped.value.code == code
    else:
        predict_command.main(
            [f"--workdir={workdir}", f"--out={out}", *map(str, options)]
        )
    printed = capsys.readouterr()
    errors = [x for x in printed.err.splitlines() if "Error:" in x]
    return [json.loads(line) for line in printed.out.splitlines()], errors


def test_a_video_is_scored_frame_by_frame(workdir, shapes, tmp_path, capsys):
    bright = [20] * 10 + [220] * 5 + [20] * 5 + [220] * 2
    film = write_video(tmp_path / "film.mp4", bright)
    out = tmp_path / "out"
    *frames, video = run(workdir, out, film, capsys=capsys)[0]
    assert [line["frame"] for line in frames] == list(range(22))
    assert [line["manipulated"] for line in frames] == [b > 128 for b in bright]
    assert frames[3]["seconds"] == pytest.approx(0.3)
    mask = cv2.imread(str(out / "masks/film.mp4/frame_000012.png"), 0)
    assert mask.shape == (SIDE, SIDE) and np.abs(mask.astype(int) - 220).max() < 8
    assert (out / "overlays/film.mp4/frame_000021.png").exists()

    assert video["video"] == "film.mp4" and video["frames"] == 22
    assert video["manipulated_frames"] == 7 and not video["manipulated"]
    assert video["manipulated_seconds"] == [[1.0, 1.4], [2.0, 2.1]]
    mean = np.mean([line["score"] for line in frames])
    assert video["score"] == pytest.approx(mean, abs=1e-4)
    with open(video["timeline"]) as file:
        rows = list(csv.DictReader(file))
    assert [row["score"] for row in rows] == [str(line["score"]) for line in frames]
    assert cv2.imread(video["chart"]).shape[1] > 600


@pytest.mark.parametrize(
    "sampling, numbers",
    [
        ({"every_frames": 4}, [0, 4, 8, 12]),
        ({"every_seconds": 0.5}, [0, 5, 10]),
        ({"every_seconds": 0.25}, [0, 3, 5, 8, 10, 13]),
        ({"every_frames": 2, "every_seconds": 0.5}, [0, 6, 10]),
        ({"every_seconds": 100}, [0]),
    ],
)
def test_frames_may_be_left_out(tmp_path, sampling, numbers):
    path = write_video(tmp_path / "film.avi", range(0, 140, 10))
    found = list(videos.frames(path, **sampling))
    assert [frame.number for frame in found] == numbers
    for frame in found:  # and each is the frame it says it is
        assert np.abs(frame.image.astype(int) - 10 * frame.number).max() < 6


@pytest.mark.parametrize("ending", [".3gp", ".ts", ".MTS", ".mov", ".mkv"])
def test_films_of_phones_and_recorders_are_found_and_read(tmp_path, ending):
    path = write_video(tmp_path / f"film{ending.lower()}", range(0, 140, 10))
    path = path.rename(path.with_suffix(ending))
    assert search.find([tmp_path], videos.SUFFIXES) == [path]
    assert len(list(videos.frames(path))) == 14


def test_names_in_any_script_are_drawn_without_a_warning(tmp_path, recwarn):
    figure = Figure()
    figure.suptitle("照片 фото תמונה 😀 $1")
    figures.save(figure, tmp_path / "照片.png")
    assert figures.png(figure)[:4] == b"\x89PNG"
    assert not [w for w in recwarn if "Glyph" in str(w.message)]


def test_damaged_videos_are_one_line_each_and_the_rest_goes_on(
    workdir, shapes, tmp_path, capsys
):
    folder = tmp_path / "films"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (20, SIDE, SIDE, 3))
    whole = write_video(folder / "whole.avi", noise)
    (folder / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    (folder / "text.mp4").write_text("no video")
    tiny.write_images(folder, 1)
    (folder / "broken.png").write_text("no picture")
    lines, errors = run(workdir, tmp_path / "out", folder, code=1, capsys=capsys)
    assert len(errors) == 3
    assert sum("cut.avi: breaks off after" in e for e in errors) == 1
    assert sum("text.mp4: cannot be decoded as a video" in e for e in errors) == 1
    summaries = {x["video"]: x for x in lines if "frames" in x}
    assert summaries["whole.avi"]["frames"] == 20
    assert 0 < summaries["cut.avi"]["frames"] < 20
    assert sum(line.get("image") == "0.png" for line in lines) == 1


def test_videos_are_scored_though_no_photo_can_be_read(
    workdir, shapes, tmp_path, capsys
):
    broken = [tmp_path / "broken.png", tmp_path / "empty.jpg"]
    broken[0].write_text("no picture")
    broken[1].touch()
    film = write_video(tmp_path / "film.avi", [0, 0])
    options = (*broken, film)
    lines, errors = run(workdir, tmp_path / "out", *options, code=1, capsys=capsys)
    assert len(lines) == 3 and lines[-1]["frames"] == 2
    assert len(errors) == 2  # one for each file
    assert "broken.png: not an image" in errors[0] and "empty.jpg" in errors[1]


def test_photos_of_many_sizes_need_few_programs(workdir, shapes, tmp_path, capsys):
    rng = np.random.default_rng(0)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        height, width = rng.integers(130, 250, 2)
        image = np.zeros((height, width, 3), np.uint8)
        cv2.imwrite(str(folder / f"{i}.png"), image)
    lines, _ = run(workdir, tmp_path / "out", folder, capsys=capsys)
    assert len(lines) == 40
    assert len(set(shapes)) <= 4  # sides of 192 and 256


def test_a_line_holds_the_probability_of_each_class(workdir, tmp_path, capsys):
    tiny.write_images(tmp_path / "photos", 1)
    (line,), _ = run(
        workdir, tmp_path / "out", tmp_path / "photos/0.png", capsys=capsys
    )
    assert line["classes"]["manipulated"] == line["score"]
    assert sum(line["classes"].values()) == pytest.approx(1, abs=1e-4)


def test_stretches_join_neighbouring_frames():
    called = [1, 1, 0, 1, 0, 0, 1]
    rows = [{"seconds": i / 2, "manipulated": bool(c)} for i, c in enumerate(called)]
    assert timeline.stretches(rows) == [(0, 0.5), (1.5, 1.5), (3, 3)]
    assert timeline.stretches([]) == []


def test_prediction_asks_for_what_it_needs(workdir, tmp_path, capsys):
    for options, text in (
        ([], "Give --out=DIR and images"),
        ([f"--out={tmp_path}"], "Give --out=DIR and images"),
        ([f"--out={tmp_path}", "x.mp4"], "no such file"),
    ):
        with pytest.raises(SystemExit) as stopped:
            predict_command.main([f"--workdir={workdir}", *options])
        assert stopped.value.code == 2
        assert text in capsys.readouterr().err
    path = write_video(tmp_path / "film.avi", [0])
    with pytest.raises(InputError, match="every_frames=0"):
        next(videos.frames(path, every_frames=0))


def test_a_mask_that_no_network_gave_says_what_it_is(tmp_path):
    """A network of whole images has Grad-CAM for its masks, as evaluation names it."""
    tiny.write_images(tmp_path / "photos", 1)
    network = {"name": "classifier", "encoder": "tiny"}
    folder = tiny.write_run(
        tmp_path / "run", model=network, best_metric="image_auc", mask_losses=()
    )
    path = tmp_path / "photos" / "0.png"
    (line,) = output_folder.predict(
        lambda: predictor.Predictor(str(folder)), str(tmp_path / "out"), [str(path)]
    )
    assert line["mask_source"] == IMAGE_LEVEL_MASKS["grad_cam"][0]


def nan_for_dark_images(model, mesh, **settings):
    def step(variables, arrays):
        image = arrays["image"].astype(np.float32) / 255
        image = np.where(image.mean((1, 2, 3), keepdims=True) < 0.1, np.nan, image)
        return {"mask_probs": image.mean(-1), "score": image.mean((1, 2, 3))}

    return step


def test_an_answer_that_is_no_number_is_an_error_and_no_verdict(
    workdir, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(predictor, "make_evaluate_step", nan_for_dark_images)
    for name, value in {"bright": 200, "dark": 3, "mean": 90}.items():
        picture = np.full((SIDE, SIDE, 3), value, np.uint8)
        images.write_png(tmp_path / "in" / f"{name}.png", picture)
    options = (tmp_path / "in", "--batch_size=4")
    lines, errors = run(workdir, tmp_path / "out", *options, code=1, capsys=capsys)
    assert [line["image"] for line in lines] == ["bright.png", "mean.png"]
    assert len(errors) == 1 and "dark.png: the network's score holds" in errors[0]
    assert not (tmp_path / "out/masks/dark.png").exists()

    film = write_video(tmp_path / "film.mp4", [200, 3, 200])
    lines, errors = run(workdir, tmp_path / "out", film, code=1, capsys=capsys)
    assert [line["frame"] for line in lines[:-1]] == [0, 2]
    assert len(errors) == 1 and "frame_000001: the network's" in errors[0]


def test_two_images_keep_apart_and_output_is_not_scored(
    workdir, shapes, tmp_path, capsys
):
    for name, value in {"two.jpg": 20, "two.jpg.png": 220}.items():
        (tmp_path / name).write_bytes(
            by_pillow(np.full((SIDE, SIDE, 3), value, np.uint8), "PNG")
        )
    for _ in range(2):
        lines, _ = run(workdir, tmp_path / "out", tmp_path, capsys=capsys)
        assert [line["image"] for line in lines] == ["two.jpg", "two.jpg.png"]
        masks = [images.read_map(line["mask"]).mean() for line in lines]
        assert masks == pytest.approx([20, 220], abs=2)
    lines, _ = run(workdir, tmp_path, tmp_path, capsys=capsys)
    assert len(lines) == 2
    assert len(run(workdir, tmp_path, tmp_path, capsys=capsys)[0]) == 2


@pytest.mark.parametrize(
    "option",
    ["--workers=-1", "--batch_size=0", "--every_frames=0", "--every_seconds=-1"],
)
def test_numbers_that_mean_nothing_are_told_once(workdir, tmp_path, capsys, option):
    (tmp_path / "a.png").write_bytes(by_pillow(np.zeros((9, 9, 3), np.uint8), "PNG"))
    _, errors = run(workdir, tmp_path / "out", tmp_path, option, code=2, capsys=capsys)
    assert len(errors) == 1 and option in errors[0]


# --------------------------------------------------------------- the library


@pytest.fixture(scope="module")
def net(workdir):
    import sdfl_jax

    return sdfl_jax.load(workdir)


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    pixels = np.random.default_rng(0).integers(0, 256, (40, 72, 3), np.uint8)
    cv2.imwrite(str(path), pixels[..., ::-1])
    return path, pixels


def test_a_file_and_its_pixels_get_the_same_typed_answer(net, photo):
    path, pixels = photo
    of_file, of_pixels = net.predict(path), net.predict(pixels)
    assert of_file.mask_probs.shape == (40, 72)
    assert of_file.mask_probs.dtype == np.float32
    np.testing.assert_array_equal(of_file.mask_probs, of_pixels.mask_probs)
    assert of_file.score == of_pixels.score
    expected = of_file.mask_probs >= of_file.pixel_threshold
    np.testing.assert_array_equal(of_file.mask, expected)
    assert (of_file.name, of_pixels.name) == (str(path), "0")
    assert of_file.manipulated == (of_file.score >= of_file.threshold)
    assert of_file.verdict in VERDICTS


def test_a_stream_is_answered_while_it_goes_on(net, photo, tmp_path):
    path, pixels = photo
    drawn = 0

    def endless():
        nonlocal drawn
        while True:
            drawn += 1
            yield path if drawn % 2 else pixels

    answers = net.predict_many(endless(), batch_size=2)
    names = [next(answers).name for _ in range(6)]
    assert names == [str(path), "1", str(path), "3", str(path), "5"]
    assert drawn <= 40  # a few batches of four devices ahead


def test_files_that_cannot_be_read_do_not_end_a_stream(net, photo, tmp_path):
    (bad := tmp_path / "bad.png").write_bytes(b"no image")
    found = list(net.predict_many([bad, photo[0], bad]))
    assert sorted(a.name for a in found) == sorted([str(bad), str(photo[0]), str(bad)])
    assert str(bad) in found[0].error
    assert [type(answer).__name__ for answer in net.predict_many([bad])] == [
        "Unanswered"
    ]
    with pytest.raises(InputError, match="bad.png"):
        net.predict(bad)


@pytest.mark.parametrize(
    "array", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), [[0, 0, 0]]]
)
def test_another_array_is_refused_in_one_line(net, array):
    with pytest.raises(InputError, match=r"uint8 of \(height, width, 3\)"):
        net.predict(array)

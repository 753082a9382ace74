"""What evaluation takes: sets, lists, saved predictions; and how it may be told to."""

import csv
import json
import os
import shutil
import socket
import subprocess
import sys
from types import SimpleNamespace

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdfl_jax import report
from sdfl_jax.data import degrade, eval_sources, images
from sdfl_jax.data.build import __main__ as build_command
from sdfl_jax.devices import processes, sharding
from sdfl_jax.errors import InputError
from sdfl_jax.evaluate import __main__ as evaluate_command
from sdfl_jax.evaluate import scoring
from sdfl_jax.evaluate.options import Options
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.models.outputs import Outputs
from sdfl_jax.steps import make_evaluate_step
from tests import tiny
from tests.test_evaluate import one_error

SIZES = ((48, 40), (32, 32), (20, 60))


@pytest.fixture(autouse=True)
def no_report(monkeypatch):
    """The report has tests of its own, and takes longer than the rest."""
    for name in ("write_report", "roc_plot", "picture_sheet"):
        monkeypatch.setattr(report, name, lambda *_, **__: None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def workdir(folder):
    return tiny.write_run(folder / "run")


@pytest.fixture(scope="module")
def listed(folder):
    """Seven images; the mask of 3.png is of another size, 2.png is no image."""
    paths = tiny.write_images(folder / "listed", 7, seed=1, sizes=SIZES)
    mask = cv2.imread(str(folder / "listed/3_mask.png"), 0)
    cv2.imwrite(str(folder / "listed/3_mask.png"), cv2.resize(mask, (90, 70)))
    (folder / "listed/2.png").write_text("no picture")
    return paths


@pytest.fixture(scope="module")
def shards(folder, listed):
    build_command.main(
        [f"--paths_file={listed}", f"--out={folder / 'shards'}", "--workers=1"]
    )
    return str(folder / "shards")


def run(out, *arguments) -> dict:
    """Evaluates to the folder `out`; what `metrics.json` says."""
    evaluate_command.main([f"--out={out}", *(str(a) for a in arguments)])
    return json.loads((out / "metrics.json").read_text())


def table(out) -> list[dict]:
    with (out / "per_image.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def plain(workdir, listed, tmp_path_factory):
    out = tmp_path_factory.mktemp("plain") / "out"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("write_report", "roc_plot", "picture_sheet"):
            patch.setattr(report, name, lambda *_, **__: None)
        run(out, f"--workdir={workdir}", f"--paths_file={listed}")
    return out


def test_files_and_shards_of_one_list_score_alike(workdir, shards, plain, tmp_path):
    scores = run(tmp_path / "out", f"--workdir={workdir}", f"--data={shards}")
    of_files = json.loads((plain / "metrics.json").read_text())
    rows, others = table(tmp_path / "out"), table(plain)
    for row in (*rows, *others):
        row.pop("index")  # the shards never held the file that is no image
        row.pop("set")
    assert rows == others and len(rows) == 6
    assert scores["standard"] == of_files["standard"]
    assert scores["reference"] == of_files["reference"]
    assert scores["resized"] == of_files["resized"] == {"count": 1, "names": ["3.png"]}
    assert of_files["skipped"] == {"count": 1, "names": ["2.png"]}
    assert "not an image" in of_files["errors"]["names"][0] and "skipped" not in scores
    assert [part["examples"] for part in of_files["data"]] == [7]


def test_masks_of_another_size_are_left_out_or_refused(
    workdir, listed, shards, plain, tmp_path, capsys
):
    common = [f"--workdir={workdir}", f"--paths_file={listed}"]
    scores = run(tmp_path / "skip", *common, "--size_mismatch=skip")
    assert scores["mismatched"]["names"] == ["3.png"] and "resized" not in scores
    rows = {row["name"]: row for row in table(tmp_path / "skip")}
    assert rows["3.png"]["pixel_f1"] == "" != rows["1.png"]["pixel_f1"]
    before = {row["name"]: row["score"] for row in table(plain)}
    assert {name: row["score"] for name, row in rows.items()} == before

    for data in (common[1], f"--data={shards}"):
        error = one_error(
            capsys,
            evaluate_command.main,
            *(common[0], data, "--size_mismatch=error", f"--out={tmp_path / 'no'}"),
        )
        assert "3.png: its mask has another size" in error
    strict = one_error(
        capsys, evaluate_command.main, *common, "--strict", f"--out={tmp_path / 'no'}"
    )
    assert "2.png" in strict and not (tmp_path / "no").exists()


def test_sets_with_the_same_names_lie_side_by_side(workdir, folder, tmp_path):
    """Every example of every set once, and no map over another's."""
    other = tiny.write_shards(tmp_path / "other", 5, seed=2)
    first = tiny.write_shards(tmp_path / "first", 7, seed=1, sizes=SIZES)
    out = tmp_path / "out"
    scores = run(out, f"--workdir={workdir}", f"--data=b={other},a={first}")
    names = [(row["set"], row["name"], int(row["index"])) for row in table(out)]
    expected = [("a", f"{i}.png", i) for i in range(7)]
    assert names == expected + [("b", f"{i}.png", i) for i in range(5)]
    assert list(scores["sets"]) == ["a", "b"]
    assert scores["reference"]["n"] == 12 and scores["sets"]["b"]["reference"]["n"] == 5
    for name, count in (("a", 7), ("b", 5)):
        assert len(list((out / "masks" / name).iterdir())) == count
    alone = run(tmp_path / "alone", f"--workdir={workdir}", f"--data={first}")
    assert scores["sets"]["a"]["standard"] == alone["standard"]
    sizes = {part["name"]: part["examples"] for part in scores["data"]}
    assert sizes == {"a": 7, "b": 5}
    hashes = {part["manifest_sha256"] for part in scores["data"]}
    assert len(hashes) == 2 and all(len(digest) == 64 for digest in hashes)


@pytest.mark.parametrize(
    "geometry", ["resize", pytest.param("crop", marks=pytest.mark.slow)]
)
def test_devices_and_batches_change_no_bit(folder, tmp_path, monkeypatch, geometry):
    """The whole JSON, loss included, and every map."""
    data = tiny.write_shards(tmp_path / "data", 7, seed=1, sizes=SIZES)
    workdir = tiny.write_run(tmp_path / "run", data__geometry=geometry)
    found = set()
    for devices, batch in ((8, 32), (1, 1), (1, 32)):
        mesh = sharding.make_mesh(devices=jax.devices()[:devices])
        monkeypatch.setattr(sharding, "data_mesh", lambda mesh=mesh: mesh)
        out = tmp_path / "out"
        run(out, f"--workdir={workdir}", f"--data={data}", f"--batch_size={batch}")
        files = [out / "metrics.json", out / "per_image.csv"]
        files += sorted((out / "masks").iterdir())
        found.add(tuple(file.read_bytes() for file in files))
    assert len(found) == 1


def test_saved_maps_score_as_the_network_that_made_them(plain, listed, tmp_path):
    saved = tmp_path / "saved"
    shutil.copytree(plain / "masks", saved)
    rows = [{"name": row["name"], "score": row["score"]} for row in table(plain)]
    text = "name,score\n" + "\n".join(f"{r['name']},{r['score']}" for r in rows)
    (saved / "scores.csv").write_text(text + "\n")
    before = json.loads((plain / "metrics.json").read_text())
    common = (f"--predictions={saved}", f"--paths_file={listed}")
    scores = run(tmp_path / "out", *common)
    for protocol in ("standard", "reference"):
        assert scores[protocol] == before[protocol]
        assert scores["intervals"][protocol] == before["intervals"][protocol]
    assert scores["setting"]["score_source"] == "scores.csv"
    assert scores["setting"]["mask_source"] == "saved predictions"

    # Another program's: other endings, other sizes, one missing and one too many.
    (saved / "0.png").rename(saved / "unknown.png")
    half = cv2.resize(cv2.imread(str(saved / "1.png"), 0), None, fx=0.5, fy=0.5)
    cv2.imwrite(str(saved / "1.png"), half)
    (saved / "scores.csv").unlink()
    scores = run(tmp_path / "out", *common)
    assert scores["missing_predictions"] == {"count": 1, "names": ["0.png"]}
    assert scores["extra_predictions"] == {"count": 1, "names": ["unknown.png"]}
    assert scores["maps_resized"] == {"count": 1, "names": ["1.png"]}
    assert scores["reference"]["n"] == 5
    assert scores["setting"]["score_source"] == "maximum of the map"
    row = next(row for row in table(tmp_path / "out") if row["name"] == "4.png")
    top = cv2.imread(str(saved / "4.png"), 0).max()
    assert float(row["score"]) == pytest.approx(top / 255)


def test_predictions_are_found_by_name(tmp_path):
    from sdfl_jax.data.predictions import Predictions

    for name in ("a/x.png", "a/y.jpg.png", "a/z.png"):
        images.write_png(tmp_path / "deep" / name, np.zeros((2, 2), np.uint8))
    found = Predictions(tmp_path / "deep")
    assert found.find("a/x.jpg") == found.find("a/x.png") == "a/x.png"
    assert found.find("a/y.jpg") == "a/y.jpg.png"
    assert found.find("b/x.jpg") is None and found.find("x.jpg") is None
    images.write_png(tmp_path / "flat/x.png", np.full((2, 2), 51, np.uint8))
    (tmp_path / "flat/scores.csv").write_text("image,score\nx,0.25\n")
    found = Predictions(tmp_path / "flat")
    assert found.find("b/x.jpg") == "x.png"
    assert found.score("b/x.jpg", found.read("x.png")) == 0.25
    assert found.score("b/y.jpg", found.read("x.png")) is None
    (tmp_path / "flat/scores.csv").unlink()
    assert Predictions(tmp_path / "flat").score("x", found.read("x.png")) == 0.2


def test_predictions_that_cannot_be_meant_are_refused(listed, tmp_path, capsys):
    saved = tmp_path / "saved"
    error = lambda: one_error(
        capsys,
        evaluate_command.main,
        *(f"--predictions={saved}", f"--paths_file={listed}"),
        f"--out={tmp_path / 'out'}",
    )
    assert "no such folder" in error()
    saved.mkdir()
    assert "no PNG file" in error()
    images.write_png(saved / "other.png", np.zeros((32, 32), np.uint8))
    assert "fits none of 7 images" in error() and "other.png" in error()
    for name in ("1.png", "4.png"):
        images.write_png(saved / name, np.eye(32, dtype=np.uint8))
    assert "no map holds a value above 1" in error()
    (saved / "scores.csv").write_text("name,score\n1.png,7\n")
    assert "line 2: score '7'" in error()
    (saved / "scores.csv").write_text("1.png,0.7\n")
    assert "no columns name and score" in error()
    twins = tmp_path / "twins"
    tiny.write_images(twins, 2)
    shutil.copy(twins / "0.png", twins / "0.bmp")
    (twins / "paths.csv").write_text("image,mask,label\n0.png,,0\n0.bmp,,0\n")
    (saved / "scores.csv").unlink()
    images.write_png(saved / "0.png", np.full((32, 32), 9, np.uint8))
    listed = twins / "paths.csv"
    assert "0.png fits 2 images, 0.bmp and 0.png" in error()


def test_scoring_at_the_resolution_of_the_network(workdir, shards, plain, tmp_path):
    common = (f"--workdir={workdir}", f"--data={shards}")
    scores = run(tmp_path / "out", *common, "--scoring=network")
    assert scores["setting"]["scoring"] == "network"
    evaluation = Evaluation.load(tmp_path / "out")
    pixels = evaluation.histograms.sum(axis=(1, 2))
    assert set(pixels) == {tiny.SIDE**2}
    assert [row["score"] for row in table(tmp_path / "out")] == [
        row["score"] for row in table(plain)
    ]
    mask = cv2.imread(str(tmp_path / "out/masks/0.png"), 0)
    assert mask.shape == (tiny.SIDE, tiny.SIDE)


def test_tiles_of_any_size_at_native_resolution(workdir, shards, tmp_path):
    common = (f"--workdir={workdir}", f"--data={shards}")
    scores = run(tmp_path / "out", *common, "--tile=32", "--overlap=8", "--tta=flips")
    setting = scores["setting"]
    assert setting["tta"] == "flips"
    assert (setting["geometry"], setting["tile"], setting["overlap"]) == ("crop", 32, 8)
    first = table(tmp_path / "out")[0]
    mask = cv2.imread(str(tmp_path / "out/masks" / first["name"]), 0)
    assert mask.shape == (int(first["height"]), int(first["width"])) == SIZES[0]


@pytest.mark.parametrize("overlap", [0, 8, 31])
def test_tiles_blend_into_the_map_of_the_whole_image(overlap):
    """Where every tile says the same, so does the whole, whatever the overlap."""
    from sdfl_jax.data.batches import eval_batches
    from sdfl_jax.data.tiling import Assembler

    class Source:
        def __len__(self):
            return 2

        def __getitem__(self, index):
            rng = np.random.default_rng(index)
            image = rng.integers(0, 256, (150, 70 + index, 3), np.uint8)
            mask = np.zeros((*image.shape[:2], 1), np.uint8)
            known = {"label": 0, "has_mask": True, "name": str(index)}
            size = {"height": image.shape[0], "width": image.shape[1]}
            return {"image": image, "mask": mask} | known | size

    assembler, found = Assembler(), []
    for batch in eval_batches(
        Source(),
        batch_size=3,
        image_size=64,
        geometry="crop",
        max_side=64,
        overlap=overlap,
    ):
        assert batch.arrays["image"].shape[1:3] == (64, 64)
        probs = batch.arrays["image"][..., 0] / np.float32(255)
        found += assembler.add(batch, probs, np.zeros(3))
    for index, (_, probs, _) in enumerate(found):
        image = Source()[index]["image"]
        np.testing.assert_allclose(probs * 255, image[..., 0], atol=1e-3)
    assert len(found) == 2


class Slope:
    """Says what is brighter than its left neighbour: no mirror image of itself."""

    def apply(self, variables, image, *, train):
        logits = image[..., :1] - jnp.roll(image[..., :1], 1, axis=2)
        return Outputs(logits, label_logits=logits[:, :, 0].sum(axis=(1, 2)))


def test_flips_average_the_four_mirror_images():
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    step = make_evaluate_step(Slope(), mesh)
    image = np.random.default_rng(0).integers(0, 256, (2, 8, 6, 3), np.uint8)
    maps, scores = [], []
    for axes in ((), (1,), (2,), (1, 2)):
        found = step({}, {"image": np.flip(image, axes)})
        maps.append(np.flip(found["mask_probs"], axes))
        scores.append(found["score"])
    assert np.abs(maps[0] - maps[2]).max() > 0.1
    for one_by_one in (False, True):
        mean = make_evaluate_step(Slope(), mesh, flips=True, one_by_one=one_by_one)
        found = mean({}, {"image": image})
        np.testing.assert_allclose(found["mask_probs"], np.mean(maps, 0), atol=1e-6)
        np.testing.assert_allclose(found["score"], np.mean(scores, 0), atol=1e-6)


@pytest.mark.parametrize("devices", [1, 4])
def test_rows_that_fill_a_batch_up_are_not_computed(devices):
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    step = make_evaluate_step(Slope(), mesh, one_by_one=True)
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 6, 3), np.uint8)
    every = step({}, {"image": image})
    for count in (0, 3, 8):
        some = step({}, {"image": image, "valid": np.arange(8) < count})
        for name in ("mask_probs", "score"):
            found = np.asarray(some[name])
            assert np.array_equal(found[:count], every[name][:count])
            assert not found[count:].any()


def test_robustness_gives_a_curve_for_every_figure(
    workdir, shards, tmp_path, monkeypatch
):
    strengths = {"jpeg": ("quality", (100, 50)), "resize": ("factor", (0.5, 2.0))}
    monkeypatch.setattr(degrade, "STRENGTHS", strengths)
    common = (f"--workdir={workdir}", f"--data={shards}")
    scores = run(tmp_path / "out", *common, "--robustness")
    assert list(scores["robustness"]) == ["jpeg", "resize"]
    for kind, (unit, at) in strengths.items():
        curve = scores["robustness"][kind]
        assert (curve["unit"], curve["strength"]) == (unit, list(at))
        assert set(curve) == {"unit", "strength", *scores["standard"]}
        assert all(len(curve[name]) == 2 for name in scores["standard"])
    before = scores["standard"]["pixel_auc_manipulated"]
    assert scores["robustness"]["jpeg"]["pixel_auc_manipulated"][1] != before
    # What was saved is of the images as they are.
    assert Evaluation.load(tmp_path / "out").by_protocol["standard"] == pytest.approx(
        {k: v for k, v in scores["standard"].items()}
    )


def test_comparing_two_outputs(workdir, shards, plain, tmp_path, capsys):
    other = tiny.write_run(tmp_path / "run", seed=1)
    run(tmp_path / "out", f"--workdir={other}", f"--data={shards}")
    capsys.readouterr()
    evaluate_command.main(["--compare", str(plain), str(tmp_path / "out")])
    printed = capsys.readouterr().out
    assert "6 images" in printed and "pixel F1" in printed
    evaluate_command.main(["--compare", str(plain), str(plain)])
    line = next(x for x in capsys.readouterr().out.splitlines() if "| pixel F1 " in x)
    assert line.split("|")[4].strip() == "0.000"
    data = tiny.write_shards(tmp_path / "other", 5, seed=2)
    run(tmp_path / "other/out", f"--workdir={workdir}", f"--data={data}")
    error = one_error(
        capsys, evaluate_command.main, "--compare", plain, tmp_path / "other/out"
    )
    assert "only in one of them" in error
    assert "no evaluation.npz" in one_error(
        capsys, evaluate_command.main, "--compare", plain, tmp_path
    )


def test_options_that_do_not_fit_are_told_in_one_line(workdir, shards, capsys):
    def error(*arguments):
        return one_error(capsys, evaluate_command.main, "--out=out", *arguments)

    network, data = f"--workdir={workdir}", f"--data={shards}"
    assert "one of them" in error(data)
    assert "one of them" in error(network, "--predictions=x", data)
    assert "one of them" in error(network)
    assert "one of them" in error(network, data, "--paths_file=x")
    assert "multiple of 32" in error(network, data, "--tile=100")
    assert "half a tile" in error(network, data, "--tile=64", "--overlap=40")
    assert "--batch_size=0" in error(network, data, "--batch_size=0")
    assert "did you mean 'jpeg'" in error(network, data, "--robustness=jpg")
    assert "--tile" in error("--predictions=x", data, "--tile=64")
    assert "NAME=PATH" in error(network, f"--data=../x={shards}")
    assert "Two data sets" in error(network, f"--data=a={shards},a={shards}")
    assert "no such" in error(network, "--paths_file=/nowhere.csv")
    assert not os.path.exists("out")


# Sources


def test_names_of_sets(tmp_path):
    odd = tmp_path / "a=b,c"
    odd.mkdir()
    assert eval_sources.parse_sets(str(odd)) == {"a_b_c": str(odd)}
    assert eval_sources.parse_sets(f"odd={tmp_path}") == {"odd": str(tmp_path)}
    assert eval_sources.parse_sets("x/test") == {"test": "x/test"}
    assert eval_sources.parse_sets("A=x/test,B=y/test/") == {
        "A": "x/test",
        "B": "y/test/",
    }


def test_a_damaged_record_is_named_by_its_place_in_the_shards(monkeypatch, tmp_path):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    # There are no others here to hear of the error.
    monkeypatch.setattr(processes, "together", lambda act: act())
    taken = []

    def batches(source, set_name, keep_images):
        taken.extend(source[index]["name"] for index in range(len(source)))
        raise InputError("seen enough")

    scorer = SimpleNamespace(step=print, variables=None, batches=batches)
    sets = [eval_sources.DataSet("all", "", [b"no record"] * 8, "")]
    options = Options(out=str(tmp_path), workdir="run", data="all")
    with pytest.raises(InputError, match="seen enough"):
        scoring.score(scorer, sets, options)
    assert taken == ["record 1", "record 4", "record 7"]


@pytest.mark.parametrize("processes", [1, 2, 3, 9])
def test_processes_share_every_example_out_once(processes):
    parts = [eval_sources.Part(range(7), i, processes) for i in range(processes)]
    taken = [part[i] for part in parts for i in range(len(part))]
    assert sorted(taken) == list(range(7))


_PROCESS = """
import sys, jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 2)
from tests import tiny
from sdfl_jax.evaluate import __main__ as evaluate_command
evaluate_command.main(sys.argv[1:])
"""


@pytest.mark.slow
def test_two_processes_write_what_one_does(workdir, listed, shards, tmp_path):
    outputs = []
    for count in (1, 2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        out = tmp_path / str(count)
        arguments = [f"--workdir={workdir}", f"--data=x={shards}", f"--out={out}"]
        arguments += ["--robustness=resize"]
        job = {"COORDINATOR_ADDRESS": address, "PROCESS_COUNT": str(count)}
        running = [
            subprocess.Popen(
                [sys.executable, "-c", _PROCESS, *arguments],
                env=os.environ | job | {"PROCESS_INDEX": str(number)},
            )
            for number in range(count)
        ]
        assert [process.wait(300) for process in running] == [0] * count
        scores = json.loads((out / "metrics.json").read_text())
        outputs.append((scores, (out / "per_image.csv").read_text()))
        outputs[-1] += (sorted(p.name for p in (out / "masks").iterdir()),)
    assert outputs[0] == outputs[1]

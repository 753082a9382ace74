"""Tables over several evaluations: the study's, of repeated runs, across generators."""

import csv
import json
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from sdfl_jax import metrics
from sdfl_jax.data import records
from sdfl_jax.data.records import RecordSource, load_manifest
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.report import __main__ as command
from sdfl_jax.report import matrix, runs, study
from tests import evaluations, tiny


def out_of(capsys, *arguments) -> str:
    command.main([str(argument) for argument in arguments])
    return capsys.readouterr().out


def error_of(capsys, *arguments) -> str:
    with pytest.raises(SystemExit) as stopped:
        command.main([str(argument) for argument in arguments])
    assert stopped.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


# The study's tables


def test_the_study_s_table_pools_the_images_of_each_group(tmp_path, capsys):
    a = evaluations.write(tmp_path / "a", sets=("casia1", "columbia"), seed=1)
    b = evaluations.write(tmp_path / "b", sets=("faceforensics",), count=31, seed=2)
    other = evaluations.write(
        tmp_path / "c",
        sets=("coverage",),
        network={"name": "upernet", "encoder": "resnet50"},
        train="/data/faces/shards/train",
    )
    text = out_of(capsys, "table", a, b, other, f"--csv={tmp_path / 'table.csv'}")
    parts = [Evaluation.load(folder) for folder in (a, b)]

    def expected(parts):
        arrays = (
            np.concatenate([getattr(part, name) for part in parts])
            for name in ("histograms", "label", "score", "has_mask")
        )
        return metrics.from_histograms(*arrays)["reference"]

    lines = [line for line in text.splitlines() if line.startswith("|")]
    heads = [cell.strip() for cell in lines[0].strip("|").split("|")]
    assert heads == ["#", "network", "train", "shallow test", "deep test", "both"]
    first = [cell.strip() for cell in lines[2].strip("|").split("|")]
    assert first[:3] == ["1", "sdfl", "casia2"]
    for cell, of in zip(first[3:], (parts[:1], parts[1:], parts), strict=True):
        figures = expected(of)
        assert cell.split() == [
            f"{figures[key]:.2f}".removeprefix("0") for key in study.SHOWN
        ]
    second = [cell.strip() for cell in lines[3].strip("|").split("|")]
    assert second[1:3] == ["upernet (resnet50)", "faces"]
    assert second[4:] == ["-", "-"]
    with (tmp_path / "table.csv").open() as file:
        rows = {(row["network"], row["test"]): row for row in csv.DictReader(file)}
    both = rows["sdfl", "both"]
    assert both["n"] == "55" and both["folders"] == f"{a} {b}"
    for key in study.SHOWN:
        assert float(both[key]) == expected(parts)[key]


def test_two_runs_of_one_network_on_one_set_stay_apart(tmp_path):
    folders = [
        evaluations.write(tmp_path / str(seed), sets=("casia1",), seed=seed)
        for seed in (1, 2)
    ]
    assert [row.folders for row in study.rows(folders)] == [[str(f)] for f in folders]


def test_runs_of_one_experiment_share_a_line_with_an_interval(tmp_path, capsys):
    folders = [
        evaluations.write(
            tmp_path / str(seed), sets=("casia1", "ff", "deep"), seed=seed
        )
        for seed in (1, 2)
    ]
    text = out_of(capsys, "table", *folders, "--intervals")
    found = study.rows(folders)
    lines = {line["test"]: line for line in study.of_runs(found)}
    assert set(lines) == {"shallow", "ff", "deep", "both"}
    for test, line in lines.items():
        assert line["runs"] == 2
        for key in study.SHOWN:
            values = [study.scores_of(row)[test][key] for row in found]
            assert line[key]["mean"] == pytest.approx(statistics.mean(values))
            low, high = line[key]["interval"]
            assert low <= line[key]["mean"] <= high
    auc = lines["both"]["image_auc"]
    bounds = (auc["mean"], *auc["interval"])
    shown = [f"{value:.2f}".removeprefix("0") for value in bounds]
    assert "{} ({} to {})".format(*shown) in text


def test_training_data_is_named_by_its_sources_where_the_card_knows_them():
    card = {"data": {"train": {"sources": {"casia2": {}, "faceforensics": {}}}}}
    assert study.train_of({"model_card": card}) == "shallow + deep"
    card["data"]["train"]["sources"] = {"mine": {}}
    config = {"data": {"train": "/a/shards/mine/train"}}
    scores = {"model_card": card, "setting": {"config": config}}
    assert study.train_of(scores) == "mine"


@pytest.mark.parametrize(
    "name,group",
    [
        ("CASIA1", "shallow"),
        ("nist16_test", "shallow"),
        ("deep", "deep"),
        ("faceforensics-c23", "deep"),
        ("casia15", "casia15"),
    ],
)
def test_groups_know_the_study_s_data_sets(name, group):
    assert study.group_of(name) == group


# Repeated runs


def test_runs_are_summed_up_with_their_worst(tmp_path, capsys):
    folders = [evaluations.write(tmp_path / str(i), seed=i) for i in range(3)]
    scores = [json.loads((f / "metrics.json").read_text()) for f in folders]
    for protocol in ("standard", "reference"):
        rows = {row["key"]: row for row in runs.sum_up(folders, protocol)}
        for key, row in rows.items():
            values = [run[protocol][key] for run in scores]
            assert row["runs"] == 3
            assert row["mean"] == pytest.approx(statistics.mean(values))
            assert row["median"] == statistics.median(values)
            assert row["deviation"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
            if key in ("image_eer", "false_alarm_area_authentic", "image_ece"):
                assert row["worst"] == max(values)
            elif key in ("best_threshold", "pixel_threshold_oracle_dataset"):
                assert "worst" not in row
            else:
                assert row["worst"] == min(values)
    text = out_of(capsys, "runs", *folders, f"--csv={tmp_path / 'runs.csv'}")
    assert "worst" in text and "pixel F1" in text
    with (tmp_path / "runs.csv").open() as file:
        row = next(csv.DictReader(file))
    values = [run["standard"]["pixel_f1_manipulated"] for run in scores]
    assert float(row["worst"]) == min(values)


def test_a_figure_that_some_runs_lack_counts_those_that_have_it(tmp_path):
    folders = [evaluations.write(tmp_path / str(i), seed=i) for i in range(2)]
    path = folders[1] / "metrics.json"
    scores = json.loads(path.read_text())
    scores["standard"]["image_auc"] = None
    path.write_text(json.dumps(scores))
    rows = {row["key"]: row for row in runs.sum_up(folders)}
    assert rows["image_auc"]["runs"] == 1
    assert rows["image_auc"]["deviation"] is None
    assert rows["image_f1"]["runs"] == 2


def test_runs_on_other_data_are_refused(tmp_path, capsys):
    a = evaluations.write(tmp_path / "a")
    b = evaluations.write(tmp_path / "b", count=10)
    assert "another number of images" in error_of(capsys, "runs", a, b)
    c = evaluations.write(tmp_path / "c", sets=("other",))
    assert "another data set" in error_of(capsys, "runs", a, c)
    assert "no metrics.json" in error_of(capsys, "runs", tmp_path)
    assert "no metrics.json" in error_of(capsys, "table", tmp_path / "nowhere")
    (a / "evaluation.npz").unlink()
    assert "evaluation.npz" in error_of(capsys, "table", a)


# Across generators


def test_runs_are_collected_into_matrices_and_a_heat_map(tmp_path, capsys):
    a = evaluations.write(tmp_path / "a", sets=("lama", "ldm"), seed=1)
    b = evaluations.write(tmp_path / "b", sets=("lama",), seed=2, train="s/ldm/train")
    out = tmp_path / "out"
    text = out_of(capsys, "matrix", f"LaMa={a}", b, f"--out={out}")
    scores = [json.loads((f / "metrics.json").read_text()) for f in (a, b)]
    cells = matrix.collect([f"LaMa={a}", str(b)])
    for key in matrix.SHOWN:
        found = matrix.matrices(cells, [key])[key]
        sets = scores[0]["sets"]
        assert found == [
            [sets[name]["standard"][key] for name in ("lama", "ldm")],
            [scores[1]["standard"][key], None],
        ]
        assert f"{found[0][1]:.3f}" in text
    lines = [line for line in text.splitlines() if line.startswith("| ldm")]
    assert len(lines) == 2 and all(
        line.endswith("-     |") or "- |" in line for line in lines
    )
    assert cv2.imread(str(out / "matrix.png")).std() > 10
    with (out / "matrix.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["train"] for row in rows] == ["LaMa", "LaMa", "ldm", "ldm"]
    assert rows[3]["pixel_iou_manipulated"] == ""


def test_matrix_refuses_in_one_line(tmp_path, capsys):
    a = evaluations.write(tmp_path / "a")
    out = f"--out={tmp_path / 'out'}"
    assert "as another folder is" in error_of(capsys, "matrix", a, a, out)
    bad = "--metrics=pixel_f2"
    assert "did you mean" in error_of(capsys, "matrix", a, out, bad)
    assert "No folder given" in error_of(capsys, "matrix", out)
    assert "--config=FILE" in error_of(capsys, "matrix", "--run", out)
    flags = ("matrix", "--run", "--config=c.py", out)
    assert "NAME=TRAIN:VAL:TEST" in error_of(capsys, *flags, "--data=a=b:c")
    assert "no such folder" in error_of(capsys, *flags, "--data=a=/b:/c:/d")


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("generators")
    common = tiny.write_shards(folder / "test", 8, seed=9)
    trains = [tiny.write_shards(folder / name, 16, seed=ord(name)) for name in "ab"]
    return [
        matrix.parse_part(f"{name}={train}:{common}:{common}")
        for name, train in zip("ab", trains, strict=True)
    ]


class Pretender:
    """Stands for training and evaluation: notes what it is asked for, writes cells."""

    def __init__(self, fail_at: int | None = None):
        self.asked, self._fail_at = [], fail_at

    def __call__(self, arguments) -> int:
        module, *flags = arguments
        flags = dict(flag.removeprefix("--").split("=", 1) for flag in flags)
        self.asked.append((module, flags))
        if len(self.asked) == self._fail_at:
            return 1
        if module == "sdfl_jax.evaluate":
            config = (Path(flags["workdir"]) / "config.txt").read_text()
            name = flags["data"].partition("=")[0]
            evaluations.write(
                Path(flags["out"]), sets=(name,), train=config, resamples=0
            )
        else:
            workdir = Path(flags["workdir"])
            workdir.mkdir(parents=True, exist_ok=True)
            (workdir / "config.txt").write_text(flags["config.data.train"])
        return 0


def test_the_study_trains_each_row_scores_each_cell_and_goes_on(parts, tmp_path):
    broken = Pretender(fail_at=3)
    arguments = dict(config="c.py", overrides=["--config.seed=1"])
    with pytest.raises(InputError, match="Scoring a on b failed with exit status 1"):
        matrix.run(parts, tmp_path, command=broken, **arguments)
    whole = Pretender()
    cells = matrix.run(parts, tmp_path, command=whole, **arguments)
    assert {row: list(values) for row, values in cells.items()} == {
        "a": ["a", "b"],
        "b": ["a", "b"],
    }
    asked = [(m.split(".")[1], f.get("data", "").split("=")[0]) for m, f in whole.asked]
    # The cell of a on a was there already.
    assert asked == [
        ("main", ""),
        ("evaluate", "b"),
        ("main", ""),
        ("evaluate", "a"),
        ("evaluate", "b"),
    ]
    assert whole.asked[0][1]["config.data.train"] == parts[0].train
    assert whole.asked[0][1]["config.seed"] == "1"
    nothing = Pretender()
    matrix.run(parts, tmp_path, command=nothing, **arguments)
    assert nothing.asked == []
    with pytest.raises(InputError, match="give another --out"):
        swapped = [
            matrix.Part("a", parts[1].train, parts[1].val, parts[0].test),
            parts[1],
        ]
        matrix.run(swapped, tmp_path, command=nothing, **arguments)
    with pytest.raises(InputError, match="two or more parts"):
        matrix.run(parts[:1], tmp_path, command=nothing, **arguments)


def test_all_but_one_are_joined_without_a_copy(parts, tmp_path):
    folders = [part.train for part in parts]
    joined = records.join(folders, tmp_path / "joined")
    assert [p.name for p in (tmp_path / "joined").iterdir()] == ["manifest.json"]
    manifest = load_manifest(joined)
    assert manifest["examples"] == 32
    assert manifest["sources"] == {"tiny": {"0": 16, "1": 16}}
    source, singles = RecordSource(joined), [RecordSource(f) for f in folders]
    examples = [single[i] for single in singles for i in range(len(single))]
    assert [source[i] for i in range(len(source))] == examples


@pytest.mark.slow
def test_the_study_runs_in_earnest(parts, tmp_path):
    config = tmp_path / "config.py"
    config.write_text(
        "from sdfl_jax.config import defaults\n"
        "def get_config(arg=None):\n"
        "    config = defaults()\n"
        "    config.update({'total_steps': 2, 'batch_size': 4, 'image_size': 32})\n"
        "    config.model = {'name': 'unet', 'widths': (4, 8)}\n"
        "    return config\n"
    )
    flags = [f"--data={p.name}={p.train}:{p.val}:{p.test}" for p in parts]
    out = tmp_path / "out"
    arguments = ["matrix", "--run", f"--config={config}", f"--out={out}", *flags]
    arguments.append("--leave_one_out")
    command = [sys.executable, "-m", "sdfl_jax.report", *arguments]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "all but a" in first.stdout and (out / "matrix.png").exists()
    scores = json.loads((out / "cells/all_but_a/b/metrics.json").read_text())
    card = scores["model_card"]
    # Trained on all but a: on b alone, so its folder is taken as it is.
    assert card["data"]["train"]["path"] == parts[1].train
    assert (out / "cells/all_but_a/b/report.html").stat().st_size > 50_000
    shutil.rmtree(out / "cells/all_but_b/a")
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout == first.stdout

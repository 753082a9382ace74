"""Apache Beam does the workers' work, to the byte, and what goes wrong is one line."""

import contextlib
import functools
import importlib
import io
import shutil
import sys
from pathlib import Path

import pytest
from tqdm import tqdm

from sdfl_jax import stores
from sdfl_jax.data import engine, workers
from sdfl_jax.data.build.__main__ import main as build_command
from sdfl_jax.errors import InputError
from sdfl_jax.evaluate import scoring
from sdfl_jax.evaluate.__main__ import main as evaluate_command
from sdfl_jax.examine.case import Case, verify
from sdfl_jax.predict import output_folder
from sdfl_jax.predict.__main__ import main as predict_command
from tests import tiny
from tests.pictures import content, make_list
from tests.test_workers import TOOLS, crash, lost

pytest.importorskip("apache_beam")


@pytest.fixture
def no_pause(monkeypatch):
    monkeypatch.setattr(stores, "PAUSE", 0)


def each(function, items, beam, chunk=2):
    with tqdm(disable=True) as bar:
        how = {"lost": lost, "workers": beam, "chunk": chunk, "bar": bar}
        return list(workers.each(function, items, **how))


def build(folder, out: str, *options: str):
    given = [f"--paths_file={folder}/list.csv", f"--out={folder}/{out}", *options]
    build_command(given)


def test_a_build_by_beam_is_the_same_to_the_byte(tmp_path, monkeypatch):
    monkeypatch.setattr("sdfl_jax.data.build.builder.LINES_PER_SHARD", 5)
    make_list(tmp_path)
    (tmp_path / "4.png").write_bytes(b"no image")
    build(tmp_path, "here", "--workers=0")
    build(tmp_path, "beam", "--workers=0", "--engine=beam")
    assert content(tmp_path / "beam") == content(tmp_path / "here")
    assert "4.png" in (tmp_path / "beam" / "rejected.csv").read_text()


def test_an_item_that_crashes_is_named_and_the_rest_is_done():
    results = each(crash, range(6), engine.Beam(workers=1))
    assert results == [0, 1, 4, "3: its decoder crashes (SIGSEGV)", 16, 25]


def falter(item: int, folder: Path, times: int) -> int:
    """Notes each try; the first `times` of item 2 fail."""
    with open(folder / str(item), "a") as file:
        file.write(".")
    if item == 2 and len((folder / "2").read_text()) <= times:
        raise ConnectionError("the store does not answer")
    return item


def tried(folder) -> dict[str, int]:
    return {path.name: len(path.read_text()) for path in folder.glob("[0-9]*")}


def test_what_fails_for_a_while_is_tried_again(tmp_path, no_pause):
    function = functools.partial(falter, folder=tmp_path, times=2)
    assert each(function, range(4), engine.Beam(), chunk=1) == [0, 1, 2, 3]
    assert tried(tmp_path) == {"0": 1, "1": 1, "2": 3, "3": 1}


def test_a_run_that_failed_goes_on_and_does_nothing_twice(tmp_path, no_pause):
    beam = engine.Beam(f"--temp_location={tmp_path}/between")
    function = functools.partial(falter, folder=tmp_path, times=4)
    with pytest.raises(ConnectionError, match="does not answer"):
        each(function, range(4), beam, chunk=1)
    assert each(function, range(4), beam, chunk=1) == [0, 1, 2, 3]
    assert tried(tmp_path) == {"0": 1, "1": 1, "2": 5, "3": 1}
    left = [path for path in (tmp_path / "between").rglob("*") if path.is_file()]
    assert left == []


def test_tasks_and_results_may_lie_in_a_store(no_pause):
    store = "memory://between"
    assert each(abs, range(-3, 0), engine.Beam(f"--temp_location={store}")) == [3, 2, 1]


def predict(workdir, photos, out, *options: str) -> list[dict]:
    """The lines of a prediction, and that its files are there."""
    given = [f"--workdir={workdir}", f"--out={out}", "--batch_size=2", *options]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        with contextlib.suppress(SystemExit):
            predict_command([*given, str(photos)])
    return sorted(printed.getvalue().replace(str(out), "OUT").splitlines())


def files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_masks_by_beam_are_the_same(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(output_folder, "_PHOTOS", 2)
    workdir = tiny.write_run(tmp_path / "run", data__geometry="crop")
    tiny.write_images(tmp_path / "photos", 4)
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    here = predict(workdir, tmp_path / "photos", tmp_path / "here")
    errors = capfd.readouterr().err
    beam = predict(workdir, tmp_path / "photos", tmp_path / "beam", "--engine=beam")
    assert beam == here and len(here) == 6
    assert files(tmp_path / "beam") == files(tmp_path / "here")
    for told in (errors, capfd.readouterr().err):
        assert told.count("broken.png") == 1 and "1 of the files have no" in told


def test_an_evaluation_by_beam_is_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "_PART", 2)
    workdir = tiny.write_run(tmp_path / "run")
    listed = tiny.write_images(tmp_path / "photos", 5)
    (tmp_path / "photos" / "2.png").write_bytes(b"no image")
    how = {"here": [], "beam": ["--engine=beam"]}
    for out, options in how.items():
        given = [f"--workdir={workdir}", f"--paths_file={listed}", *options]
        evaluate_command([*given, f"--out={tmp_path / out}"])
    for name in ("metrics.json", "per_image.csv", "masks/3.png"):
        here, beam = ((tmp_path / out / name).read_bytes() for out in how)
        assert here == beam, name


def test_a_case_by_beam_holds_the_same(tmp_path):
    tiny.write_images(tmp_path / "photos", 2)
    found = []
    for out, count in {"here": 1, "beam": engine.Beam(workers=1)}.items():
        rows = list(
            Case(tmp_path / out).examine([str(tmp_path / "photos")], workers=count)
        )
        assert not verify(tmp_path / out)["problems"]
        assert all(row.pop("seconds") >= 0 for row in rows)
        found.append((rows, files(tmp_path / out).keys()))
    assert found[0] == found[1] and len(found[0][0]) == 3
    again = list(Case(tmp_path / "beam").examine([str(tmp_path / "photos")]))
    assert all(row["kept"] for row in again)


@pytest.mark.parametrize("tool", ["audit", "layouts", "forge"])
def test_other_tools_by_beam_write_the_same(tmp_path, tool):
    make_list(tmp_path)
    arguments, _ = TOOLS[tool]
    main = importlib.import_module(f"sdfl_jax.data.{tool}.__main__").main
    outs = []
    for out, options in {"here": [], "beam": ["--engine=beam"]}.items():
        given = [text.format(tmp_path).replace("/out", f"/{out}") for text in arguments]
        main([*given, "--workers=0", *options])
        outs.append(files(tmp_path / out))
        shutil.rmtree(tmp_path / out)
    assert outs[0] == outs[1] and outs[0]


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--engine=bema"], "no such engine; there are .* did you mean 'beam'?"),
        (["--engine_options=--runner=DirectRunner"], "they are for --engine=beam"),
        (
            ["--engine=beam", "--engine_options=--direct_num_workrs=2"],
            "has no --direct_num_workrs; did you mean 'direct_num_workers'?",
        ),
        (
            ["--engine=beam", "--engine_options=--direct_num_workers=two"],
            "argument --direct_num_workers: invalid int value: 'two'",
        ),
        (
            ["--engine=beam", "--engine_options=--runner=FlinkRunnr"],
            "--runner=FlinkRunnr: Unexpected pipeline runner",
        ),
        (["--engine=beam", "--engine_options=runner"], "'runner': --NAME=VALUE"),
        (["--engine=beam", "--engine_options='"], "No closing quotation"),
        (
            ["--engine=beam", "--engine_options=--runner=FlinkRunner"],
            "--runner=FlinkRunner needs --temp_location",
        ),
        (
            ["--engine=beam", "--engine_options=--temp_location=nowhere://x"],
            "nowhere://x.*: no such kind of store",
        ),
        (["--engine=beam", "--workers=-1"], "--workers=-1: 0 or more"),
    ],
)
def test_wrong_arguments_are_one_line(tmp_path, capsys, arguments, reason):
    make_list(tmp_path)
    with pytest.raises(SystemExit) as ended:
        build(tmp_path, "out", *arguments)
    error = capsys.readouterr().err.strip()
    assert ended.value.code == 2 and len(error.splitlines()) == 1
    with pytest.raises(InputError, match=reason):
        raise InputError(error)


def test_a_pipeline_that_fails_is_one_line(monkeypatch):
    monkeypatch.setattr(engine, "setup", None)  # so that no element is done
    with pytest.raises(workers.WorkersDie, match="the pipeline failed: .*") as error:
        each(abs, range(2), engine.Beam())
    assert len(str(error.value).splitlines()) == 1


def test_without_apache_beam_the_extra_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam.options", None)
    with pytest.raises(SystemExit):
        build(tmp_path, "out", "--engine=beam")
    error = capsys.readouterr().err
    assert "Apache Beam is not installed" in error and "sdfl-jax[beam]" in error

"""The studies: steps run once, in order and again when they must; sentences by rule."""

import csv
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import ml_collections as mlc
import numpy as np
import pytest

from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.configs import study_9_sdfl_both
from sdfl_jax.data import photographs
from sdfl_jax.data.build import __main__ as build_command
from sdfl_jax.data.forge.dataset import forge
from sdfl_jax.data.images import encode_png, read_image
from sdfl_jax.data.lists import SPLITS
from sdfl_jax.data.records import load_manifest
from sdfl_jax.drawing.figures import chart, save
from sdfl_jax.errors import InputError
from sdfl_jax.files import write_json
from sdfl_jax.report import Log
from studies import __main__ as command
from studies import data, findings, page
from studies.plan import FORMS, Plan
from studies.steps import Runner, Step, ordered
from tests import evaluations

ROOT = Path(__file__).parent.parent


class Ended:
    """Stands for a command that has ended already."""

    def __init__(self, status: int):
        self._status = status

    def poll(self) -> tuple[int, float]:
        return self._status, 0.0


class Pretender:
    """Stands for the commands: notes what it is asked for, and fills the folders."""

    def __init__(self, fails: str = ""):
        self.asked, self._fails = [], fails
        self._written = {}

    def __call__(self, module, flags, log, limit, core) -> "Ended":
        return Ended(self._does(module, flags, log))

    def _does(self, module, flags, log) -> int:
        told = dict(f.removeprefix("--").partition("=")[::2] for f in flags)
        out = Path(told.get("out") or told["workdir"])
        self.asked.append(out)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text("Error: as it was told to.\n")
        if self._fails and self._fails in str(out):
            return 2
        out.mkdir(parents=True, exist_ok=True)
        if module == "sdfl_jax.evaluate":
            sets = [part.partition("=")[0] for part in told["data"].split(",")]
            assert Path(told["workdir"]).is_dir()
            *_, run, seed = out.parts
            self._evaluate(out, sets, f"shards/{run}/train", len(run) + int(seed))
        if module == "sdfl_jax.main":
            steps = int(told["config.total_steps"])
            size = {"batch_size": 8, "image_size": 128, "total_steps": steps}
            write_json(out / "config.json", size)
            write_json(out / "summary.json", {"images_per_second": 16.0})
            (out / "parameters.txt").write_text("Total: 1,234 -- 4 bytes\n")
            log = Log(out)
            for step in range(1, steps + 1):
                log.write(step, {"loss": 1 / step, "val/loss": 0.5})
            log.close()
        if module == "sdfl_jax.data.explore":
            for name in ("classes", "intensity"):
                save(chart(1, 1), out / f"{name}.png")
        return 0

    def _evaluate(self, out: Path, sets: list[str], train: str, seed: int):
        """An evaluation; its metrics, which take time, are those of the first."""
        of = self._written.setdefault(tuple(sets), out)
        how = {"sets": sets, "count": 4, "seed": seed}
        if of == out:
            evaluations.write(out, resamples=9 * (len(sets) == 1), train=train, **how)
            return
        scores = json.loads((of / "metrics.json").read_text())
        scores["setting"]["config"]["data"]["train"] = train
        write_json(out / "metrics.json", scores)
        evaluations.evaluation(**how).save(out)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"abc")
    return folder


def plan_of(tmp_path, photos, command, seeds=1) -> Plan:
    smaller = {"kinds": ("splice", "swap"), "resamples": 9}
    form = dataclasses.replace(FORMS["quick"], seeds=seeds, **smaller)
    return Plan(form, Runner(tmp_path / "out", command), str(photos))


def studies_of(*names):
    return {name: command.study(name) for name in names}


def test_steps_run_after_what_they_need_once_and_go_on_after_a_failure(
    tmp_path, photos
):
    failing = Pretender("reports/nine/upernet_deep")
    plan = plan_of(tmp_path, photos, failing)
    wanted = ordered(command.study("nine").steps(plan))
    places = {step.out: place for place, step in enumerate(wanted)}
    for step in wanted:
        assert all(places[needed.out] < places[step.out] for needed in step.needs)
    assert len(places) == len(wanted)

    message = r"reports/nine/upernet_deep/0 failed \(.*txt\): Error: as it was told to"
    with pytest.raises(InputError, match=message):
        plan.runner.run(wanted)
    assert failing.asked == [step.out for step in wanted]
    going_on = Pretender()
    Runner(plan.folder, going_on).run(wanted)
    assert going_on.asked == [plan.folder / "reports/nine/upernet_deep/0"]
    nothing = Pretender()
    Runner(plan.folder, nothing).run(wanted)
    assert nothing.asked == []


def test_other_photographs_or_flags_run_what_rests_on_them_again(tmp_path, photos):
    first = Pretender()
    plan = plan_of(tmp_path, photos, first)
    plan.runner.run(ordered(command.study("exploration").steps(plan)))
    changed = dataclasses.replace(
        plan.form, kind_images={"train": 9, "val": 9, "test": 9}
    )
    again = Pretender()
    other = Plan(changed, Runner(plan.folder, again), str(photos))
    other.runner.run(ordered(command.study("exploration").steps(other)))
    assert again.asked == []  # no kind of its own is forged for it
    (photos / "b.jpg").write_bytes(b"more")
    other.runner.run(ordered(command.study("exploration").steps(other)))
    assert again.asked == first.asked


def test_a_result_of_other_flags_is_cleared_and_an_interrupted_one_kept(tmp_path):
    seen = []

    def told(module, flags, log, limit, core):
        out = tmp_path / "run"
        seen.append((out / "half").exists())
        out.mkdir(exist_ok=True)
        (out / "half").write_text("")
        return Ended(int(len(seen) == 1))

    runner = Runner(tmp_path, told)
    step = Step(tmp_path / "run", "module", ("--a=1",))
    with pytest.raises(InputError):
        runner.run([step])
    runner.run([step])
    runner.run([dataclasses.replace(step, flags=("--a=2",))])
    assert seen == [False, True, False]


def test_what_a_step_prints_goes_to_its_log_and_its_status_comes_back(tmp_path):
    log = tmp_path / "log.txt"
    code = (
        "from studies import steps; from pathlib import Path\n"
        f"log = Path({str(log)!r})\n"
        "run = lambda flag: steps.fork('sdfl_jax.cli', [flag], log).poll(wait=True)\n"
        "assert run('--version')[0] == 0\n"
        "assert 'sdfl ' in log.read_text()\n"
        "assert run('nonsense')[0] == 2\n"
        "assert log.read_text().startswith('Error: No verb')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0, done.stderr


def test_a_step_that_takes_too_long_is_stopped_and_told(tmp_path):
    (tmp_path / "endless.py").write_text("while True:\n    pass\n")
    (tmp_path / "saving.py").write_text(
        "import pathlib, signal\n"
        "ends = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: ends.append(1))\n"
        "while not ends:\n    pass\n"
        f"pathlib.Path({str(tmp_path / 'saved')!r}).touch()\n"
    )
    code = (
        "from studies import steps; from pathlib import Path\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "runner = steps.Runner(folder, limit=1)\n"
        "for module in ('endless', 'saving'):\n"
        "    try:\n"
        "        runner.run([steps.Step(folder / module, module)])\n"
        "    except steps.InputError as error:\n"
        "        print(error)\n"
    )
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    lines = told.stdout.splitlines()
    assert len(lines) == 2, told.stderr
    for module, line in zip(("endless", "saving"), lines, strict=True):
        assert line.startswith(f"{module} took more than 1 s of processor time")
    assert (tmp_path / "saved").exists()


class Slow:
    """Stands for commands that run until they are told to end."""

    def __init__(self):
        self.now, self.stopped, self.begun = {}, [], []

    def __call__(self, module, flags, log, limit, core):
        self.begun.append((module, core))
        Path(flags[0]).mkdir()
        self.now[module] = core
        return _SlowOne(self, module)


class _SlowOne:
    def __init__(self, of, name):
        self._of, self._name = of, name

    def poll(self, wait=False):
        if not wait and "impatient" in self._of.now and len(self._of.now) == 2:
            raise KeyboardInterrupt
        # The later one of two ends first.
        if not wait and list(self._of.now)[-1] != self._name:
            return None
        self._of.now.pop(self._name)
        return 0, 1.0

    def stop(self):
        self._of.stopped.append(self._name)


def diamond(folder: Path) -> list[Step]:
    """Two steps that need the first, and one that needs both."""
    first = _step(folder / "first")
    sides = [_step(folder / name, first) for name in ("left", "right")]
    return ordered([_step(folder / "last", *sides)])


def _step(out: Path, *needs: Step) -> Step:
    return Step(out, out.name, (str(out),), needs)


def test_steps_that_do_not_need_each_other_run_at_once_on_a_core_each(tmp_path):
    slow = Slow()
    runner = Runner(tmp_path, slow, cores=(4, 7))
    steps = diamond(tmp_path)
    runner.run(steps)
    assert slow.begun == [("first", 4), ("left", 7), ("right", 4), ("last", 4)]
    assert runner.done(steps) and not slow.stopped
    assert runner.seconds(steps, "processor") == [1.0] * 4


def test_an_interruption_stops_all_that_run(tmp_path):
    slow = Slow()
    runner = Runner(tmp_path, slow, cores=(0, 1))
    steps = [_step(tmp_path / name) for name in ("one", "impatient")]
    with pytest.raises(KeyboardInterrupt):
        runner.run(steps)
    assert slow.stopped == ["one", "impatient"] and not slow.now
    assert not runner.done(steps)


def test_time_is_counted_once_where_steps_ran_at_once(tmp_path):
    runner = Runner(tmp_path)
    spans = {"a": (100, 160), "b": (120, 150), "c": (140, 200), "d": (500, 530)}
    for name, (start, end) in spans.items():
        mark = {"key": "", "seconds": end - start, "processor": 1, "ended": end}
        write_json(tmp_path / ".done" / f"{name}.json", mark)
    steps = [Step(tmp_path / name, "module") for name in spans]
    assert runner.hours(steps) == pytest.approx(130 / 3600)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_step_is_asked_to_stop_when_its_runner_is_gone(tmp_path, number):
    """However the runner ended; a step then saves what it has."""
    (tmp_path / "saving.py").write_text(
        "import pathlib, signal, time\n"
        "ends = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: ends.append(1))\n"
        f"folder = pathlib.Path({str(tmp_path)!r})\n"
        "(folder / 'begun').touch()\n"
        "while not ends:\n    time.sleep(0.01)\n"
        "(folder / 'saved').touch()\n"
    )
    code = (
        "from studies import steps; from pathlib import Path\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "steps.Runner(folder).run([steps.Step(folder / 'saving', 'saving')])\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    _wait_for(tmp_path / "begun")
    run.send_signal(number)
    run.wait(60)
    _wait_for(tmp_path / "saved")


def _wait_for(path: Path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    ("expected", "interval", "said"),
    [
        ("higher", (0.01, 0.2), "holds"),
        ("higher", (-0.2, -0.01), "does not hold"),
        ("higher", (-0.1, 0.2), "cannot tell"),
        ("lower", (-0.2, -0.01), "holds"),
        ("lower", (0.01, 0.2), "does not hold"),
        ("not lower", (-0.02, 0.025), "holds"),
        ("not lower", (-0.2, -0.1), "does not hold"),
        ("not lower", (0.001, 0.02), "holds"),
        ("not lower", (-0.02, 0.2), "holds"),
        ("not lower", (-0.2, 0.2), "cannot tell"),
        ("higher", None, "cannot tell"),
    ],
)
def test_a_sentence_follows_from_the_interval(expected, interval, said):
    assert findings.judge(expected, interval) == said


@pytest.mark.parametrize("expected", ["not lower", "higher", "lower"])
@pytest.mark.parametrize("interval", [(-0.001, 0.001), (-0.2, -0.1), (0.03, 0.05)])
def test_where_nothing_was_learnt_nothing_can_be_told(expected, interval):
    assert findings.judge(expected, interval, above_chance=0.02) == "cannot tell"


@pytest.mark.parametrize(("scale", "said"), [(1.0, "holds"), (0.1, "cannot tell")])
def test_what_learnt_nothing_tells_nothing_of_transfer(
    tmp_path, scale, said, monkeypatch
):
    monkeypatch.setattr(findings, "judge", lambda *_: "holds")
    folder = evaluations.write(tmp_path / "run", sets=("old", "new"), scale=scale)
    runs, how = [folder], ("new", "image_f1", "lower")
    claim = findings.Claim("", ("a", "b"), runs, runs, *how, learnt=["old"])
    (row,) = findings.found([claim], resamples=9)
    assert row["here"] == said


@pytest.mark.parametrize(
    ("metric", "chance"),
    [
        ("image_auc", 0.5),
        ("pixel_auc_manipulated", 0.5),
        ("image_accuracy", 0.5),
        ("pixel_f1_manipulated", 0.0),
    ],
)
def test_chance_is_what_a_network_reaches_that_marks_nothing(
    tmp_path, metric, chance, monkeypatch
):
    evaluations.write(tmp_path / "run", count=4)
    asked = []
    judge = lambda expected, interval, above: asked.append(above) or "holds"
    monkeypatch.setattr(findings, "judge", judge)
    runs = [tmp_path / "run"]
    claim = findings.Claim("", ("a", "b"), runs, runs, "", metric, "not lower")
    (row,) = findings.found([claim], resamples=9)
    assert asked == [pytest.approx(row["first"] - chance)]


@pytest.mark.parametrize(
    ("seeds", "names"), [(1, command.STUDIES), (3, ("exploration", "nine"))]
)
def test_the_page_holds_tables_sentences_and_charts_of_every_study(
    tmp_path, photos, seeds, names, monkeypatch
):
    monkeypatch.setattr(checkpoint, "load", weights_of)
    plan = plan_of(tmp_path, photos, Pretender(), seeds)
    studies = studies_of(*names)
    plan.runner.run(
        ordered([s for study in studies.values() for s in study.steps(plan)])
    )
    left_out = [name for name in command.STUDIES if name not in names]
    written = page.write(plan, studies, command.STUDIES)
    text = written.read_text()
    said = f"Not run for this page: {', '.join(left_out)}."
    assert (said in text) == bool(left_out)
    assert "This is the quick form" in text
    for study in studies.values():
        assert f"## {study.TITLE}" in text
    said = "Fewer than three seeds stand behind this"
    assert (said in text) == (seeds < findings.SEEDS)
    assert str(tmp_path) not in text
    charts = [line.split("(")[1].split(")")[0] for line in text.split("\n![")[1:]]
    assert len(charts) > 2
    page.merge(written, tmp_path / "docs" / "studies.md", command.STUDIES)
    assert (tmp_path / "docs" / "studies.md").read_text() == text
    for name in charts:
        assert (tmp_path / "docs" / name).stat().st_size > 0
    if "finetuning" in names:
        cells = [line.split() for line in text.splitlines() if "| label_head " in line]
        assert cells[0][3::2] == ["6", "6", "0.500"]
    if "backbones" in names:
        # Five seconds at 16 images a second are ten steps of eight.
        lines = [line for line in text.splitlines() if "| resnet50_deep " in line]
        assert lines[0].split("|")[-2].strip() == "10"
    row = next(line for line in text.splitlines() if "| BayarConv helps" in line)
    first, second, difference = map(float, row.split("|")[6:9])
    assert difference == pytest.approx(second - first, abs=2e-3)


def test_a_training_is_run_again_when_its_config_changes(tmp_path, photos, monkeypatch):
    plan = plan_of(tmp_path, photos, Pretender())
    steps = lambda: ordered(command.study("nine").steps(plan))
    plan.runner.run(steps())
    assert plan.runner.done(steps())
    config = study_9_sdfl_both.get_config("small")
    config.optimizer.lr *= 2
    monkeypatch.setattr(study_9_sdfl_both, "get_config", lambda arg: config)
    again = Pretender()
    Runner(plan.folder, again).run(steps())
    run = "nine/sdfl_both/0"
    assert again.asked == [plan.folder / "runs" / run, plan.folder / "reports" / run]


def test_a_study_of_one_seed_says_so(tmp_path, photos):
    plan = plan_of(tmp_path, photos, Pretender(), seeds=3)
    plan.form = dataclasses.replace(plan.form, once=("exploration",))
    assert [len(plan.seeds(name)) for name in ("nine", "exploration")] == [3, 1]
    studies = studies_of("exploration")
    plan.runner.run(ordered(studies["exploration"].steps(plan)))
    said = "3 seeds (one for exploration); 9 resamples"
    assert said in page.write(plan, studies, command.STUDIES).read_text()


def test_a_page_keeps_what_it_holds_of_other_studies_in_the_same_form(tmp_path, photos):
    plan = plan_of(tmp_path, photos, Pretender())
    to = tmp_path / "docs" / "found.md"
    (to.parent / "studies").mkdir(parents=True)
    (to.parent / "studies" / "mine.txt").write_text("")
    pages = {}
    for name in ("nine", "exploration", "settings"):
        studies = studies_of(name)
        plan.runner.run(ordered(studies[name].steps(plan)))
        pages[name] = page.write(plan, studies, command.STUDIES).read_text()
        page.merge(plan.folder / "page" / "studies.md", to, command.STUDIES)
    text = to.read_text()
    places = [text.index(f"<!-- study: {name} -->") for name in pages]
    assert places[1] < places[0] < places[2]  # the order of the page
    for alone in pages.values():
        assert alone.split("<!-- study: ")[1].strip() in text
    assert "Not run for this page: finetuning, generators, faces, backbones." in text
    charts = lambda: {chart.name for chart in (to.parent / "studies").iterdir()}
    shown = set(re.findall(r"\(studies/(.*?)\)", text))
    assert charts() == shown | {"mine.txt"}

    # Of another form nothing stays.
    plan.form = dataclasses.replace(plan.form, name="small")
    written = page.write(plan, studies_of("settings"), command.STUDIES)
    page.merge(written, to, command.STUDIES)
    assert to.read_text() == written.read_text()
    shown = set(re.findall(r"\(studies/(.*?)\)", to.read_text()))
    assert charts() == shown | {"mine.txt"}


def weights_of(run):
    """A network whose label head alone moves when it is fine-tuned."""
    head = np.full((2, 3), 0.5 * (run.parent.name == "after"))
    params = {"encoder": {"kernel": np.ones(4)}, "label_head": {"out": head}}
    return checkpoint.Trained(mlc.ConfigDict(), None, {"params": params}, 1, {})


def test_commands_are_printed_and_none_is_run(tmp_path, photos, capsys):
    out = tmp_path / "out"
    command.main([str(out), f"--photos={photos}", "--quick", "--print", "--only=nine"])
    lines = capsys.readouterr().out.splitlines()
    trained = [line for line in lines if line.startswith("python -m sdfl_jax.main")]
    assert len(trained) == 9 and all(":small" in line for line in trained)
    assert all("--config.model.encoder=resnet10_narrow" in line for line in trained)
    assert not out.exists()
    command.main([str(out), "--full", "--print", "--only=nine"])
    lines = capsys.readouterr().out.splitlines()
    assert "# given: DIR/shards/shallow/train" in lines
    trained = [line for line in lines if line.startswith("python -m sdfl_jax.main")]
    assert len(trained) == 27 and not any(":small" in line for line in trained)


def test_a_network_of_several_kinds_trains_twice_as_long(tmp_path, photos, capsys):
    form = FORMS["quick"]
    told = [str(tmp_path), f"--photos={photos}", "--quick", "--print"]
    command.main([*told, "--only=generators"])
    lines = capsys.readouterr().out.splitlines()
    trained = [line for line in lines if line.startswith("python -m sdfl_jax.main")]
    assert len(trained) == 2 * len(form.kinds)
    for line in trained:
        steps = form.steps["generators"] * (1 + ("all_but_" in line))
        assert f"--config.total_steps={steps} " in line


def test_a_study_that_fails_is_left_out_of_the_page(
    tmp_path, photos, capsys, monkeypatch
):
    monkeypatch.setattr(command, "_import_what_steps_need", lambda: None)
    monkeypatch.setattr(command, "fork", Pretender("forged/deep"))
    told = [str(tmp_path / "out"), f"--photos={photos}", "--quick"]
    with pytest.raises(SystemExit):
        command.main([*told, "--only=exploration,faces"])
    assert "Error: forged/deep failed" in capsys.readouterr().err
    text = (tmp_path / "out" / "page" / "studies.md").read_text()
    assert f"## {command.study('faces').TITLE}" in text
    assert "exploration" in text.split("Not run for this page: ")[1].split(".")[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--only=nein"], "did you mean 'nine'?"),
        ([], "--photos=FOLDER"),
        (["--seeds=0"], "at least 1"),
        (["--photos=/nowhere/at/all"], "no such folder"),
        (["--full", "--only=nine"], "shards/shallow/train: no such folder"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path, capsys, arguments, said, monkeypatch):
    monkeypatch.setattr(command, "_import_what_steps_need", lambda: None)
    with pytest.raises(SystemExit) as stopped:
        command.main([str(tmp_path / "out"), *arguments])
    assert stopped.value.code == 2
    line = capsys.readouterr().err.splitlines()[-1]
    assert line.startswith("Error: ") and said in line


def test_photographs_are_dealt_once_and_rendered_images_have_no_mask(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(20):
        noise = rng.integers(0, 256, (40, 40, 3), np.uint8)
        (photos / f"{i}.png").write_bytes(encode_png(noise))
    data.deal(str(photos), str(tmp_path / "dealt"), size=32)
    dealt = {s: {p.name for p in (tmp_path / "dealt" / s).iterdir()} for s in SPLITS}
    assert [len(dealt[split]) for split in SPLITS] == [16, 2, 2]
    assert len(set.union(*dealt.values())) == 20

    forged, rendered = tmp_path / "forged", tmp_path / "rendered"
    forge(
        *(tmp_path / "dealt", forged),
        count=6,
        count_val=2,
        count_test=2,
        size=32,
        authentic=1.0,
        workers=0,
        progress=False,
    )
    data.main(["render", f"--forged={forged}", f"--out={rendered}"])
    for number, row in enumerate(read_csv(rendered / "paths_train.csv")):
        before = read_csv(forged / "paths_train.csv")[number]
        assert row["mask"] == "None" and row["label"] == str(number % 2)
        image, old = (
            read_image(folder / one["image"])
            for folder, one in ((rendered, row), (forged, before))
        )
        assert image.shape == old.shape
        assert (image != old).mean() > 0.5 if number % 2 else (image == old).all()
    for name in ("one", "other"):
        flags = [f"--paths_file={rendered}/paths_val.csv", f"--root={rendered}"]
        flags += [f"--out={tmp_path / name}", "--image_size=32", "--workers=0"]
        build_command.main(flags)
    both = tmp_path / "both"
    folders = [str(tmp_path / name) for name in ("one", "other")]
    data.main(["join", *folders, f"--out={both}"])
    assert load_manifest(both)["examples"] == 4


def read_csv(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_quick_form_makes_every_study(tmp_path):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photographs.main([f"--out={photos}"])
    run = [sys.executable, "-m", "studies", str(out), f"--photos={photos}", "--quick"]
    done = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (out / "page" / "studies.md").read_text()
    for name in command.STUDIES:
        assert f"## {command.study(name).TITLE}" in text
    again = subprocess.run(run, cwd=ROOT, capture_output=True, text=True)
    assert again.returncode == 0
    assert (out / "page" / "studies.md").read_text() == text

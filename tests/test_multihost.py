"""Two processes of four devices each, as one job, beside one process of eight."""

import concurrent.futures
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import threading
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

from sdfl_jax.checkpoints import checkpoint, saving
from sdfl_jax.data import images
from sdfl_jax.data.records import RecordSource, decode
from sdfl_jax.devices import processes, sharding
from sdfl_jax.errors import InputError
from sdfl_jax.evaluate import scoring
from sdfl_jax.evaluate.options import Options
from sdfl_jax.evaluate.scoring import evaluate
from sdfl_jax.report import Log
from sdfl_jax.state import TrainState
from sdfl_jax.training import validation as validation_module
from sdfl_jax.training.preemption import Preemption
from sdfl_jax.training.progress import Diverged, Profile, Progress
from sdfl_jax.training.validation import Validation
from tests import tiny, tiny_config  # noqa: F401  (its network, for reading back)
from tests.processes import Runs


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    runs = Runs(tmp_path_factory.mktemp("processes"), devices=8)
    yield runs
    runs.close()


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    # An odd number to validate on: the two processes have unequal parts.
    return [
        f"--config.data.train={tiny.write_shards(folder / 'train', 14)}",
        f"--config.data.val={tiny.write_shards(folder / 'val', 7, seed=1)}",
        "--config.total_steps=4",
        "--config.validate_every=2",
    ]


def train_alone(runs, workdir: Path, shards: list[str]):
    run = runs.start(f"--workdir={workdir}", *shards)
    assert run.wait() == 0, run.output


def train_as_two(runs, workdir: Path, shards: list[str]):
    two = start_two(runs, workdir, shards)
    assert [run.wait() for run in two] == [0, 0], [run.output for run in two]
    return two


def start_two(runs, workdir: Path, shards: list[str]):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        runs.start(
            f"--workdir={workdir}",
            *shards,
            devices=4,
            COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            PROCESS_COUNT="2",
            PROCESS_INDEX=str(index),
        )
        for index in range(2)
    ]


@pytest.fixture(scope="module")
def alone(runs, shards, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("alone")
    train_alone(runs, workdir, shards)
    return workdir


@pytest.fixture(scope="module")
def as_two(runs, shards, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("two")
    return workdir, train_as_two(runs, workdir, shards)


def lines_of(workdir: Path) -> list[dict]:
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same_course(workdir: Path, other: Path):
    """The same losses and validation figures at the same steps, each told once."""
    lines, others = lines_of(workdir), lines_of(other)
    assert [x["step"] for x in lines] == [x["step"] for x in others]
    for line, expected in zip(lines, others, strict=True):
        for name in expected.keys() - {"wait_share"}:
            # A pixel may come to lie on the other side of the threshold.
            counted = name.startswith("val/") and not name.startswith("val/loss")
            atol = 0.02 if counted else 1e-6
            np.testing.assert_allclose(
                line[name], expected[name], rtol=1e-4, atol=atol, err_msg=name
            )


def assert_same_weights(workdir: Path, other: Path):
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
        checkpoint.load(workdir, "latest").variables,
        checkpoint.load(other, "latest").variables,
    )


def cut_back_to_step_2(workdir: Path, to: Path) -> Path:
    """The working directory as it was when step 2 had just been saved."""
    shutil.copytree(workdir, to)
    shutil.rmtree(to / "checkpoints" / "latest" / "4")
    shutil.rmtree(to / "checkpoints" / "best", ignore_errors=True)
    return to


def test_two_processes_train_as_one_does(alone, as_two):
    workdir, (first, second) = as_two
    assert_same_course(workdir, alone)
    assert_same_weights(workdir, alone)
    # One of them tells the story.
    assert "Parameters" in first.output and "Parameters" not in second.output
    assert re.search("data 8 x space 1", first.output)


def test_what_two_processes_saved_one_continues(runs, alone, as_two, shards, tmp_path):
    workdir = cut_back_to_step_2(as_two[0], tmp_path / "run")
    train_alone(runs, workdir, shards)
    assert_same_course(workdir, alone)
    assert_same_weights(workdir, alone)


def test_what_one_process_saved_two_continue(runs, alone, shards, tmp_path):
    workdir = cut_back_to_step_2(alone, tmp_path / "run")
    train_as_two(runs, workdir, shards)
    assert_same_course(workdir, alone)
    assert_same_weights(workdir, alone)


def test_what_the_first_process_refuses_ends_both_with_the_same_line(
    runs, alone, shards
):
    """The second once waited at a barrier for the first, which had ended."""
    two = start_two(runs, alone, [*shards, "--config.optimizer.lr=0.5"])
    assert [run.wait(120) for run in two] == [2, 2], [run.output for run in two]
    said = [
        [line for line in run.output.splitlines() if line.startswith("Error: ")]
        for run in two
    ]
    assert (
        said[0] == said[1]
        and "config.optimizer.lr: 0.001 when the run began" in said[0][0]
    )


def test_a_log_that_the_first_process_cannot_open_ends_both(runs, shards, tmp_path):
    """The second once waited in its first step, for as long as JAX lets it."""
    (tmp_path / "metrics.jsonl").mkdir()
    two = start_two(runs, tmp_path, shards)
    assert [run.wait(120) for run in two] == [1, 1], [run.output for run in two]
    assert all("metrics.jsonl" in run.output for run in two)
    assert "context initialization failed" not in two[1].output


def test_what_the_first_process_decides_or_raises_is_everyones():
    assert processes.first_decides(lambda: "here") == "here"

    def refuse():
        raise InputError("no such")

    with pytest.raises(InputError, match="no such"):
        processes.first_decides(refuse)
    with pytest.raises(ZeroDivisionError):
        processes.first_decides(lambda: 1 / 0)


# ----------------------------------------------- two processes, played by two threads


@pytest.fixture
def both(monkeypatch):
    """Calls a function in two threads that stand for the two processes of a job.

    Gives what came of each, a value or an error; one that waits for the other in vain
    ends the test with a BrokenBarrierError.
    """
    place = threading.local()
    barrier = threading.Barrier(2, timeout=60)
    given = [None, None]

    def allgather(value):
        given[place.index] = np.asarray(value)
        barrier.wait()
        found = np.stack(given)
        barrier.wait()
        return found

    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: getattr(place, "index", 0))
    monkeypatch.setattr(multihost_utils, "process_allgather", allgather)

    def run(act):
        def as_process(index):
            place.index = index
            try:
                return act(index)
            except Exception as error:
                return error

        with concurrent.futures.ThreadPoolExecutor(2) as threads:
            return list(threads.map(as_process, range(2)))

    return run


def refused(*_, **__):
    raise PermissionError(errno.EACCES, "denied", "x")


def assert_both_refused(ends):
    assert [type(end) for end in ends] == [PermissionError] * 2, ends


@pytest.mark.parametrize("where", [0, 1])
def test_what_one_of_several_raises_all_raise(both, where):
    def fail(error):
        def act(index):
            if index == where:
                raise error
            return index

        return both(lambda index: processes.together(lambda: act(index)))

    for error, kind in (
        (InputError("the folder is taken"), InputError),
        (PermissionError(13, "denied"), PermissionError),
        (Diverged("step 4", {"step": 4}), InputError),  # which does not pickle
    ):
        ends = fail(error)
        assert [str(end) for end in ends] == [str(error)] * 2
        assert isinstance(ends[1 - where], kind)
    ends = fail(KeyError("a"))
    assert str(ends[1 - where]) == f"Process {where} failed: KeyError: 'a'"
    assert isinstance(ends[where], KeyError)
    assert both(lambda index: processes.together(lambda: index)) == [0, 1]
    assert both(lambda index: processes.first_does(lambda: index)) == [0, None]
    assert both(lambda index: processes.first_decides(lambda: index)) == [0, 0]


@pytest.mark.parametrize("where", [0, 1])
def test_errors_within_steps_are_kept_until_all_meet(both, where):
    def act(index):
        held, steps = processes.Held(), []
        for step in range(4):
            with held.back():
                if index == where and step == 1:
                    refused()
            steps.append(step)
        try:
            held.meet()
        except PermissionError:
            return steps

    assert both(act) == [[0, 1, 2, 3]] * 2


def test_a_process_alone_keeps_no_error():
    with pytest.raises(PermissionError):
        with processes.Held().back():
            refused()


class FullLog(Log):
    """A log whose disk is full. The other processes have one that writes nothing."""

    def __init__(self, workdir):
        super().__init__(None)
        self.write = self.images = refused if workdir else lambda *_: None


def test_a_log_that_cannot_be_written_ends_all_at_the_next_save(both):
    scalars = {"loss": 1.0, "skipped_in_row": 0}

    def act(index):
        log = FullLog(None if index else "here")
        progress = Progress(
            log,
            processes.Held(),
            step=0,
            total_steps=9,
            batch_size=1,
            log_every=1,
            origin={},
        )
        for step in range(1, 4):
            progress.after_step(step, scalars, np.zeros(1, int))
        progress.flush()

    assert_both_refused(both(act))


def test_a_profile_that_cannot_be_written_ends_all(both, monkeypatch, tmp_path):
    def act(index):
        profile = Profile(str(tmp_path), 1)
        for step in range(4):
            profile.before_step()
            with profile.annotated(step):
                pass
            profile.after_step({})

    for name, other in (("start_trace", "stop_trace"), ("stop_trace", "start_trace")):
        monkeypatch.setattr(jax.profiler, name, refused)
        monkeypatch.setattr(jax.profiler, other, lambda *_, **__: None)
        assert_both_refused(both(act))


def test_a_validation_that_one_cannot_log_or_read_ends_all(both, shards, monkeypatch):
    data = shards[1].partition("=")[2]

    def validation(index):
        return Validation(
            None,
            lambda variables, arrays: {
                "mask_probs": arrays["mask"][..., 0] / np.float32(255),
                "score": arrays["label"],
                "loss": {},
            },
            sharding.data_mesh(),
            data,
            batch_size=4,
            image_size=32,
            geometry="resize",
            workers=0,
            every_steps=1,
            total_steps=1,
            best_metric="pixel_f1_manipulated",
            plateau=None,
        )

    made = [validation(0), None]
    monkeypatch.setattr(sharding, "local_copy", lambda tree, mesh: tree)
    state = types.SimpleNamespace(variables={})

    def run(log):
        def act(index):
            part = validation(index)
            part.run(1, state, log(index), Preemption())

        return both(act)

    assert made[0].due(1)
    assert_both_refused(run(lambda index: FullLog(None if index else "here")))
    source = validation_module.Prepared
    monkeypatch.setattr(source, "__getitem__", refused)
    assert_both_refused(run(lambda index: FullLog(None)))


def test_a_model_card_that_cannot_be_written_ends_all(both, monkeypatch, tmp_path):
    monkeypatch.setattr(saving.card, "write", refused)
    monkeypatch.setattr(saving.card, "with_scores", lambda card, *_: card)
    made = saving.Checkpoints.__new__(saving.Checkpoints)
    made._workdir, made._card, made._left_out = tmp_path, {"a": 1}, None
    saver = types.SimpleNamespace(save=lambda *_: pytest.fail("never gets here"))
    state = object.__new__(TrainState)
    object.__setattr__(state, "step", 1)
    assert_both_refused(both(lambda index: made._save(saver, state, {}, tell=True)))


@pytest.mark.parametrize("where", [0, 1])
def test_a_write_of_a_checkpoint_that_one_process_lost_ends_all(both, where):
    class Manager:
        directory = Path()

        def __init__(self, index):
            self.wait_until_finished = refused if index == where else lambda: None

    def act(index):
        saver = saving._Saver.__new__(saving._Saver)
        saver._step, saver._unhashed, saver.manager = 1, None, Manager(index)
        saver.save(None, {}, None)

    assert_both_refused(both(act))


def test_hashes_that_cannot_be_written_leave_nobody_at_orbax_barrier(
    both, monkeypatch, tmp_path
):
    (tmp_path / "1.orbax-checkpoint-tmp-7").mkdir()
    monkeypatch.setattr(saving.hashes, "write", refused)
    manager = types.SimpleNamespace(
        directory=tmp_path, wait_until_finished=lambda: None
    )

    def act(index):
        saver = saving._Saver.__new__(saving._Saver)
        saver._step, saver._unhashed, saver.manager = 1, None, manager
        if index == 0:
            saver._write_hashes()
        saver.save(None, {}, None)

    assert_both_refused(both(act))


@pytest.fixture
def evaluation(shards, tmp_path):
    """Options to score maps that were saved of the validation data."""
    data = shards[1].partition("=")[2]
    source = RecordSource(data)
    maps = tmp_path / "maps"
    for i in range(len(source)):
        example = decode(source[i])
        images.write_map(
            maps / images.png_name(example["name"]), example["mask"][..., 0]
        )
    return Options(
        out=str(tmp_path / "report"), predictions=str(maps), data=f"val={data}"
    )


def test_two_processes_evaluate_as_one(both, evaluation):
    first, second = both(lambda index: evaluate(evaluation))
    assert first["standard"]["pixel_f1_manipulated"] == 1 and second is None
    assert first["setting"]["examples"] == 7


@pytest.mark.parametrize(
    "place, name, where",
    [
        (scoring.report, "write_report", 0),  # the first one writes it
        (scoring, "write_json", 0),
        (scoring.Notes, "watch", 1),
        (scoring.Writer, "add", 1),
        (scoring.Writer, "__enter__", 1),
        (scoring.Writer, "__exit__", 1),
    ],
)
def test_an_error_of_one_process_ends_the_evaluation_of_all(
    both, evaluation, monkeypatch, place, name, where
):
    right = getattr(place, name)

    def wrong(*args, **kwargs):
        return (refused if jax.process_index() == where else right)(*args, **kwargs)

    monkeypatch.setattr(place, name, wrong)
    assert_both_refused(both(lambda index: evaluate(evaluation)))
    assert not Path(evaluation.out).exists()


@pytest.mark.parametrize(
    "environment, said",
    [
        ({"PROCESS_COUNT": "2"}, "COORDINATOR_ADDRESS and PROCESS_INDEX not set"),
        (
            {
                "COORDINATOR_ADDRESS": "host:1",
                "PROCESS_COUNT": "2",
                "PROCESS_INDEX": "2",
            },
            "PROCESS_INDEX=2.*one less than the count",
        ),
        (
            {"COORDINATOR_ADDRESS": "host", "PROCESS_COUNT": "2", "PROCESS_INDEX": "1"},
            "takes HOST:PORT",
        ),
    ],
)
def test_a_job_that_is_described_wrongly_is_refused(environment, said):
    with pytest.raises(InputError, match=said):
        processes.join(environment)


def test_without_a_coordinator_a_process_is_alone():
    processes.join({})
    assert processes.gather({"a": 1}) == [{"a": 1}]
    assert processes.is_first()


def test_the_launcher_of_one_process_names_what_is_missing():
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in (processes.ADDRESS, processes.COUNT, processes.INDEX)
    }
    done = subprocess.run(
        ["bash", "launch/multihost.sh", "--config=x"],
        cwd=Path(__file__).parent.parent,
        env=environment | {processes.COUNT: "2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("Error: COORDINATOR_ADDRESS is not set")
    assert len(done.stderr.splitlines()) == 1

"""Two processes of four devices each, as one job, beside one process of eight."""

import json
import os
import re
import shutil
import socket
import subprocess
from pathlib import Path

import jax
import numpy as np
import pytest

from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.devices import processes
from sdfl_jax.errors import InputError
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


def test_what_the_first_process_decides_or_raises_is_everyones():
    assert processes.first_decides(lambda: "here") == "here"

    def refuse():
        raise InputError("no such")

    with pytest.raises(InputError, match="no such"):
        processes.first_decides(refuse)
    with pytest.raises(ZeroDivisionError):
        processes.first_decides(lambda: 1 / 0)


def test_the_others_hear_of_an_error_of_the_first(monkeypatch):
    """As the second of two processes, which gets what the first one sent."""
    monkeypatch.setattr(processes, "is_first", lambda: False)
    for sent, kind in (
        (InputError("the folder is taken"), InputError),
        (PermissionError(13, "denied"), PermissionError),
        ("The first process failed: KeyError: 1", RuntimeError),
    ):
        monkeypatch.setattr(processes, "gather", lambda _, s=sent: [(None, s), None])
        with pytest.raises(kind):
            processes.first_decides(lambda: pytest.fail("not for this process"))


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

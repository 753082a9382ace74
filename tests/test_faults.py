"""What happens to long runs: kills, preemption, damage, a full disk, divergence."""

import errno
import gzip
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from sdfl_jax.checkpoints import checkpoint, hashes
from sdfl_jax.checkpoints.saving import Checkpoints
from sdfl_jax.data import damaged, pipeline, records
from sdfl_jax.errors import InputError
from sdfl_jax.report import Log
from sdfl_jax.train import train
from sdfl_jax.training.preemption import Preemption
from tests import tiny, tiny_config
from tests.processes import REPOSITORY, Runs

STEPS = 12


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return (
        tiny.write_shards(folder / "train", 16),
        tiny.write_shards(folder / "val", 6, seed=1),
    )


@pytest.fixture(scope="module")
def start(shards, tmp_path_factory):
    """Starts a run in a process of its own: `start(workdir, *flags)`."""
    runs = Runs(tmp_path_factory.mktemp("runs"))
    train, val = shards

    def start(workdir, *flags, **environment):
        return runs.start(
            f"--config.data.train={train}",
            f"--config.data.val={val}",
            f"--workdir={workdir}",
            *flags,
            **environment,
        )

    yield start
    runs.close()


@pytest.fixture(scope="module")
def whole(start, tmp_path_factory):
    """The working directory of a run that nothing happened to."""
    workdir = tmp_path_factory.mktemp("whole")
    run = start(workdir)
    assert run.wait() == 0, run.output
    return workdir


def assert_same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


def assert_ended_as(whole, workdir):
    for which in ("latest", "best"):
        ours, theirs = (checkpoint.load(w, which) for w in (workdir, whole))
        assert hashes.damage(workdir / f"checkpoints/{which}/{ours.step}") is None
        assert ours.step == theirs.step
        assert ours.progress == theirs.progress
        assert_same(ours.variables, theirs.variables)


def is_saving(workdir: Path) -> bool:
    return any(workdir.glob("checkpoints/*/*.orbax-checkpoint-tmp*"))


def kill_and_continue(start, whole, folder: Path, kills: int, seed: int):
    """Kills runs at random moments, every third in a save, and lets the last finish."""
    rng = np.random.default_rng(seed)
    seconds = json.loads((whole / "summary.json").read_text())["seconds_of_this_start"]
    lives, killed, in_saves = 0, 0, 0
    workdir = folder / "0"
    while killed < kills:
        run = start(workdir)
        if killed % 3 == 0:
            time.sleep(rng.uniform(0, seconds / 4))
            run.until(lambda w=workdir: is_saving(w))
            time.sleep(rng.uniform(0, 0.03))
            in_saves += is_saving(workdir)
        else:
            time.sleep(rng.uniform(0, 2 * seconds))
        run.send(signal.SIGKILL)
        if run.wait() == 0:  # it was faster than that
            assert_ended_as(whole, workdir)
            lives += 1
            workdir = folder / str(lives)
        killed += run.status() == -signal.SIGKILL
    run = start(workdir)
    assert run.wait() == 0, run.output
    assert_ended_as(whole, workdir)
    return in_saves


def test_a_run_killed_at_any_moment_ends_as_the_uninterrupted_one(
    start, whole, tmp_path
):
    kill_and_continue(start, whole, tmp_path, kills=3, seed=0)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_as_the_uninterrupted_one(
    start, whole, tmp_path
):
    assert kill_and_continue(start, whole, tmp_path, kills=20, seed=1) >= 2


def test_sigterm_saves_and_tells_how_to_go_on(start, whole, tmp_path):
    run = start(tmp_path)
    lines = tmp_path / "metrics.jsonl"
    run.until(lambda: lines.exists() and len(lines.read_text().splitlines()) > 2)
    run.send(signal.SIGTERM)
    assert run.wait() == 0, run.output
    step = checkpoint.load(tmp_path, "latest").step
    assert 0 < step < STEPS
    assert f"Stopped by SIGTERM after step {step}" in run.output
    command = next(x for x in run.output.splitlines() if x.startswith("To go on: "))
    assert command.startswith("To go on: python -m sdfl_jax.main --config=tests/")
    assert command.endswith(f"--workdir={tmp_path}")
    assert not (tmp_path / "summary.json").exists()

    again = start(tmp_path)
    assert again.wait() == 0, again.output
    assert_ended_as(whole, tmp_path)


@pytest.mark.slow
def test_processes_of_one_job_stop_after_the_same_step(start, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    runs = [
        start(
            tmp_path,
            "--config.total_steps=100000",
            COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
            PROCESS_COUNT="2",
            PROCESS_INDEX=str(index),
        )
        for index in (0, 1)
    ]
    lines = tmp_path / "metrics.jsonl"
    runs[0].until(lambda: lines.exists() and len(lines.read_text().splitlines()) > 2)
    runs[1].send(signal.SIGTERM)
    assert [run.wait() for run in runs] == [0, 0], [run.output for run in runs]
    step = checkpoint.load(tmp_path, "latest").step
    for run in runs:
        assert f"Stopped by SIGTERM after step {step}, which" in run.output


def test_a_second_process_is_refused_with_the_first_ones_host_and_id(start, tmp_path):
    first = start(tmp_path, "--config.total_steps=100000")
    first.until(lambda: (tmp_path / "metrics.jsonl").exists())
    second = start(tmp_path)
    assert second.wait() == 2
    told = f"in use by process {first.pid} on {socket.gethostname()}"
    assert told in second.output
    assert len(second.output.splitlines()) == 1, second.output
    first.send(signal.SIGKILL)
    first.wait()

    third = start(tmp_path, "--config.total_steps=100000")
    third.until(lambda: "ended without notice; going on" in third.output)
    assert third.status() is None
    third.send(signal.SIGKILL)


def test_a_full_disk_is_told_and_leaves_the_older_checkpoint(start, whole, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "none", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a small file system takes more rights than these")
    try:
        workdir = disk / "run"
        run = start(workdir)
        run.until((workdir / "checkpoints/latest/2").exists)
        run.send(signal.SIGSTOP)
        with (disk / "filling").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass
        run.send(signal.SIGCONT)
        assert run.wait() == 2, run.output
        (told,) = [x for x in run.output.splitlines() if x.startswith("Error: ")]
        assert "No space left" in told or "the disk is full" in told, told
        assert checkpoint.load(workdir, "latest").step >= 2

        (disk / "filling").unlink()
        again = start(workdir)
        assert again.wait() == 0, again.output
        assert_ended_as(whole, workdir)
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def test_events_that_cannot_be_written_end_the_log_with_the_disks_word(
    tmp_path, monkeypatch
):
    log = Log(tmp_path)
    log.write(1, {"loss": 0.5})

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tensorboardX.RecordWriter.write", full)
    with pytest.raises(OSError, match="No space left"):
        log.write(2, {"loss": 0.5})


def damage(folder: Path):
    """Overwrites bytes in the middle of the largest file of a checkpoint's item."""
    file = max(
        (x for x in folder.rglob("*") if x.is_file()), key=lambda x: x.stat().st_size
    )
    content = bytearray(file.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(x ^ 255 for x in content[middle : middle + 8])
    file.write_bytes(content)


def test_a_damaged_checkpoint_is_noticed_and_the_one_before_taken(
    start, whole, tmp_path, capsys
):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    damage(workdir / "checkpoints/latest/12/model")
    assert checkpoint.load(workdir, "latest").step == 10
    told = capsys.readouterr().err
    assert "12: model/" in told and "does not fit its hash" in told
    assert len(told.splitlines()) == 1
    with pytest.raises(InputError, match="No checkpoint '11'"):
        checkpoint.load(workdir, "11")
    assert checkpoint.load(workdir, "best").step == checkpoint.load(whole, "best").step

    run = start(workdir)
    assert run.wait() == 0, run.output
    assert "Going on from checkpoint 10" in run.output
    assert_ended_as(whole, workdir)


def test_a_damaged_best_checkpoint_is_refused_for_others_score_otherwise(
    whole, tmp_path
):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    (best,) = (workdir / "checkpoints/best").iterdir()
    damage(best / "model")
    with pytest.raises(InputError, match="'best'.*is damaged.*'latest': \\[10, 12\\]"):
        checkpoint.load(workdir)


def test_where_no_checkpoint_is_whole_a_run_does_not_start_anew(whole, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(whole, workdir)
    for step in (10, 12):
        damage(workdir / f"checkpoints/latest/{step}/training")
    with pytest.raises(InputError, match="no checkpoint is whole .12: training/"):
        Checkpoints(workdir, keep=2)
    with pytest.raises(InputError, match="'latest'.*is damaged"):
        checkpoint.load(workdir, "latest")


def dot_config(shards, **changes):
    config = tiny_config.get_config()
    config.data.train, config.data.val = shards
    config.update(changes)
    return config


def test_a_config_that_changed_is_shown_and_has_to_be_allowed(
    shards, whole, tmp_path, capsys
):
    shutil.copytree(whole, tmp_path, dirs_exist_ok=True)
    free = dot_config(shards, log_every=3, keep=4, save_every=7)
    assert int(train(free, str(tmp_path)).step) == STEPS

    longer = dot_config(shards, total_steps=STEPS + 2, seed=5)
    told = "config.seed: 0 when the run began, 5 now; config.total_steps: 12 when"
    with pytest.raises(InputError, match=told):
        train(longer, str(tmp_path))
    capsys.readouterr()
    state = train(longer, str(tmp_path), allow_config_change=True)
    assert int(state.step) == STEPS + 2
    assert "config.seed: 0 when the run began, 5 now" in capsys.readouterr().err

    averaged = dot_config(shards, total_steps=STEPS + 2, seed=5, ema=0.5)
    with pytest.raises(InputError, match="arrays of optimizer.*or ema differ"):
        train(averaged, str(tmp_path), allow_config_change=True)

    other = dot_config(shards, total_steps=STEPS + 2, seed=5)
    other.model.name = "sdfl"
    with pytest.raises(InputError, match="config.model.name: dot .*keeps its network"):
        train(other, str(tmp_path), allow_config_change=True)


def test_divergence_saves_what_reproduces_it(shards, tmp_path):
    config = dot_config(shards, total_steps=40, validate_every=50, save_every=50)
    config.optimizer.lr = 1e38
    with pytest.raises(InputError, match="in a row.*diverged.json names the examples"):
        train(config, str(tmp_path))
    trace = json.loads((tmp_path / "diverged.json").read_text())
    last = trace["step"]
    assert [x["step"] for x in trace["skipped"]] == list(range(last - 9, last + 1))
    assert all(len(x["index"]) == config.batch_size for x in trace["skipped"])
    assert trace["seed"] == 0
    # The weights from before the first of these steps, and the position after the last.
    assert checkpoint.load(tmp_path, "latest").step >= last


def with_damaged_record(shards: str, folder: Path, place: int) -> Path:
    """A copy of one-shard `shards` with bytes of one record overwritten."""
    shutil.copytree(shards, folder)
    (file,) = folder.glob("*.array_record")
    record = records.RecordSource(folder)[place]
    content = bytearray(file.read_bytes())
    at = content.index(record) + len(record) // 2
    content[at : at + 8] = bytes(x ^ 255 for x in content[at : at + 8])
    file.write_bytes(content)
    return folder


def test_a_damaged_record_is_replaced_counted_and_named(shards, tmp_path, capsys):
    folder = with_damaged_record(shards[0], tmp_path / "train", 5)
    options = dict(batch_size=8, image_size=tiny.SIDE, geometry="resize", seed=0)
    whole, harmed = (
        list(itertools.islice(pipeline.train_batches(f, **options), 4))
        for f in (shards[0], folder)
    )
    for batch, other in zip(whole, harmed, strict=True):
        same = other["damaged"] < 0
        assert set(other["damaged"].tolist()) <= {-1, 5}
        assert (batch["index"][~same] == 5).all()
        assert (other["index"][~same] == 7).all()  # the next manipulated one
        for name in batch.keys() - {"damaged"}:
            np.testing.assert_array_equal(batch[name][same], other[name][same])
    assert sum((batch["damaged"] == 5).sum() for batch in harmed) == 2  # once an epoch

    config = dot_config((str(folder), shards[1]))
    train(config, str(tmp_path / "run"))
    told = capsys.readouterr().err
    assert told.count("record 5 is damaged; the run goes on") == 1
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["damaged_records"] == [5]


def test_a_damaged_validation_record_is_left_out_and_named(shards, tmp_path, capsys):
    folder = with_damaged_record(shards[1], tmp_path / "val", 3)
    config = dot_config((shards[0], str(folder)), total_steps=6)
    train(config, str(tmp_path / "run"))
    assert "val: record 3 is damaged; the run goes on" in capsys.readouterr().err


@pytest.mark.parametrize(
    "examples, tolerated", [(6, 3), (16, 8), (999, 10), (1000, 10), (50_000, 50)]
)
def test_a_run_ends_once_more_records_are_damaged_than_accidents_explain(
    examples, tolerated, capsys
):
    seen = damaged.DamagedRecords("shards", examples)
    seen.see(np.arange(-1, tolerated))
    seen.see(np.arange(-1, tolerated))  # the same ones, an epoch later
    told = f"{tolerated + 1} of {examples} records are damaged, more than {tolerated}: "
    with pytest.raises(InputError, match=told):
        seen.see(np.array([tolerated]))
    assert capsys.readouterr().err.count("\n") == tolerated + 1  # each named once


def children(pid: int) -> list[int]:
    """Processes that `pid` started."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def is_grain_worker(pid: int) -> bool:
    return b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()


@pytest.mark.slow
def test_a_run_whose_worker_dies_ends_and_one_that_dies_leaves_no_worker(
    start, tmp_path
):
    flags = ["--config.data.workers=2", "--config.total_steps=100000"]
    run = start(tmp_path / "a", *flags)
    lines = tmp_path / "a" / "metrics.jsonl"
    run.until(lambda: lines.exists() and lines.read_text())
    workers = list(filter(is_grain_worker, children(run.pid)))
    assert workers, run.output
    os.kill(workers[0], signal.SIGKILL)
    assert run.wait(60) == 1, run.output
    assert "Traceback" in run.output
    assert "Worker process was terminated unexpectedly" in run.output

    run = start(tmp_path / "b", *flags)
    lines = tmp_path / "b" / "metrics.jsonl"
    run.until(lambda: lines.exists() and lines.read_text())
    workers = list(filter(is_grain_worker, children(run.pid)))
    assert len(workers) >= 2
    run.send(signal.SIGKILL)
    run.wait()
    end = time.monotonic() + 60
    while any(Path(f"/proc/{worker}").exists() for worker in workers):
        assert time.monotonic() < end, workers
        time.sleep(0.1)


@pytest.mark.slow
def test_a_run_with_workers_ends_without_a_word_on_what_they_shared(shards, tmp_path):
    train, val = shards
    flags = [f"--config.data.train={train}", f"--config.data.val={val}"]
    flags += ["--config.data.workers=1", f"--workdir={tmp_path}"]
    module = [sys.executable, "-m", "sdfl_jax.main", "--config=tests/tiny_config.py"]
    done = subprocess.run(
        [*module, *flags], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "resource_tracker" not in done.stderr


def test_a_profile_of_some_steps_on_request(shards, tmp_path):
    train(dot_config(shards, profile=2, total_steps=6), str(tmp_path))
    (trace,) = (tmp_path / "profile").glob("**/perfetto_trace.json.gz")
    content = gzip.decompress(trace.read_bytes())
    assert b"train_step" in content
    assert b"step_num" in content  # by which tools tell the steps apart
    assert list((tmp_path / "profile").glob("**/*.xplane.pb"))


def test_a_summary_ends_a_run(whole):
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["step"] == summary["steps_of_this_start"] == STEPS
    assert summary["images_per_second"] > 0
    assert summary["skipped_steps"] == 0 and summary["damaged_records"] == []
    best = checkpoint.load(whole, "best")
    assert summary["best_step"] == best.step
    assert Path(summary["best_checkpoint"]).is_dir()


def test_ctrl_c_ends_at_once_before_there_is_a_step_and_saves_after():
    before = signal.getsignal(signal.SIGINT)  # ignored in a shell's background
    with pytest.raises(KeyboardInterrupt), Preemption() as preemption:
        preemption.after(0)
        signal.raise_signal(signal.SIGINT)
    with Preemption() as preemption:
        assert not preemption.after(0) and not preemption.after(1)
        signal.raise_signal(signal.SIGINT)
        assert preemption.after(2) and preemption.by == "Ctrl-C"
        with pytest.raises(KeyboardInterrupt):  # the second time
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before

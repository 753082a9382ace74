"""Whole runs on a handful of images."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import sdfl_jax.train as train_module
from sdfl_jax import main
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.config import check
from sdfl_jax.errors import InputError
from sdfl_jax.evaluate.options import Options
from sdfl_jax.evaluate.scoring import evaluate
from sdfl_jax.train import train
from sdfl_jax.training import experiment, progress
from tests import tiny


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return (
        tiny.write_shards(folder / "train", 16),
        tiny.write_shards(folder / "val", 6, seed=1),
    )


@pytest.fixture(scope="module")
def run(shards, tmp_path_factory):
    """A finished run: its last state and its working directory."""
    workdir = tmp_path_factory.mktemp("run")
    return train(tiny.config(*shards), str(workdir)), workdir


def lines_of(workdir: Path) -> list[dict]:
    return [json.loads(x) for x in (workdir / "metrics.jsonl").read_text().splitlines()]


def assert_same(state_a, state_b):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(np.asarray(a), np.asarray(b)),
        state_a,
        state_b,
    )


def test_a_run_trains_validates_logs_and_saves(run):
    state, workdir = run
    assert int(state.step) == 4
    logged = lines_of(workdir)
    assert [x["step"] for x in logged if "loss" in x] == [1, 2, 3, 4]
    validated = [x for x in logged if "val/loss" in x]
    assert [x["step"] for x in validated] == [2, 4]
    assert 0 <= validated[-1]["val/pixel_f1_manipulated"] <= 1
    assert 0 <= validated[-1]["val/image_auc"] <= 1
    assert all(0 <= x["wait_share"] <= 1 for x in logged if "wait_share" in x)
    rates = [x["learning_rate"] for x in logged if "loss" in x]
    assert rates == pytest.approx(4 * [1e-3])
    assert list(workdir.glob("**/events.out.tfevents*"))
    assert "encoder" in (workdir / "parameters.txt").read_text()


def test_a_report_s_loss_is_that_of_the_validation(run, shards, tmp_path):
    _, workdir = run
    scores = evaluate(
        Options(
            out=str(tmp_path / "report"),
            workdir=str(workdir),
            checkpoint="latest",
            data=f"val={shards[1]}",
            batch_size=4,  # not what validation took
        )
    )
    logged = lines_of(workdir)[-1]
    assert logged["val/loss"] == pytest.approx(scores["loss"]["loss"], rel=1e-5)


def test_a_checkpoint_is_all_that_evaluation_needs(run):
    state, workdir = run
    latest = checkpoint.load(workdir, "latest")
    assert latest.step == 4
    assert_same(latest.variables, jax.device_get(state.variables))
    best = checkpoint.load(workdir, "best")
    assert best.step == best.progress["best"]["step"]
    assert 0 < best.progress["pixel_threshold"] < 1
    assert checkpoint.load(workdir, str(best.step)).step == best.step
    with pytest.raises(InputError, match=r"No checkpoint '77'.*'latest': \[2, 4\]"):
        checkpoint.load(workdir, "77")


def test_resumed_run_repeats_the_uninterrupted_one(run, shards, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    original = progress.Progress.after_step

    def die_at_3(self, step, *rest):
        if step == 3:
            raise Killed
        original(self, step, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, "after_step", die_at_3)
        with pytest.raises(Killed):
            train(tiny.config(*shards), str(tmp_path))
    resumed = train(tiny.config(*shards), str(tmp_path))

    assert_same(jax.device_get(resumed), jax.device_get(run[0]))
    keep = lambda x: {k: v for k, v in x.items() if k not in ("seconds", "wait_share")}
    assert [keep(x) for x in lines_of(tmp_path)] == [keep(x) for x in lines_of(run[1])]


def test_a_finished_run_has_nothing_left_to_do(run, shards):
    state, workdir = run
    before = lines_of(workdir)
    assert_same(jax.device_get(train(tiny.config(*shards), str(workdir))), state)
    assert lines_of(workdir) == before


def test_a_loss_that_is_not_finite_stops_the_run_and_harms_nothing(shards, tmp_path):
    config = tiny.config(
        *shards, total_steps=40, optimizer__lr=1e38, validate_every=50, save_every=50
    )
    with pytest.raises(InputError, match="not finite 10 times in a row"):
        train(config, str(tmp_path))


def test_validation_without_manipulated_images_says_what_it_needs(shards, tmp_path):
    val = tiny.write_shards(tmp_path / "val", 1)  # the first is authentic
    config = tiny.config(shards[0], val, total_steps=2)
    with pytest.raises(InputError, match="not defined on config.data.val"):
        train(config, str(tmp_path / "run"))


def test_training_without_manipulated_images_is_refused(shards, tmp_path):
    only = tiny.write_shards(tmp_path / "train", 1)
    with pytest.raises(InputError, match="no manipulated image to balance"):
        train(tiny.config(only, shards[1]), str(tmp_path / "run"))


def test_a_silent_copy_to_the_devices_in_the_loop_is_an_error(
    shards, tmp_path, monkeypatch
):
    """An array of NumPy in the step would be copied anew, unseen, every time."""
    monkeypatch.setattr("sdfl_jax.train.sharding.to_global", lambda batch, mesh: batch)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(tiny.config(*shards), str(tmp_path))


def test_whatever_ends_a_run_its_files_are_closed(shards, tmp_path, monkeypatch):
    class Ended(BaseException):
        pass

    def end(*_):
        raise Ended

    closed = []
    for name in ("Log", "Checkpoints", "Profile", "Progress"):
        kind = getattr(train_module, name)
        close = lambda self, name=name, old=kind.close: (closed.append(name), old(self))
        monkeypatch.setattr(kind, "close", close)
    monkeypatch.setattr(progress.Progress, "after_step", end)
    with pytest.raises(Ended):
        train(tiny.config(*shards), str(tmp_path))
    assert set(closed) == {"Log", "Checkpoints", "Profile", "Progress"}


def test_a_run_with_validations_compiles_each_step_once(shards, tmp_path, caplog):
    with jax.log_compiles():
        train(tiny.config(*shards, total_steps=6), str(tmp_path))
    compiled = [record.getMessage() for record in caplog.records]
    for name in ("jit(train_step)", "jit(evaluate_step)"):
        times = [x for x in compiled if x.startswith(f"Compiling {name} ")]
        assert len(times) == 1, (name, len(times))


def test_an_epoch_takes_every_example_once(shards, tmp_path):
    config = tiny.config(*shards, total_steps=0, total_epochs=3, validate_every=0)
    state = train(config, str(tmp_path))
    assert int(state.step) == 3 * 16 // 8
    validated = [x["step"] for x in lines_of(tmp_path) if "val/loss" in x]
    assert validated == [2, 4, 6]


def test_a_checkpoint_of_another_network_is_refused(run, shards):
    config = tiny.config(*shards, total_steps=6, model__width=16)
    with pytest.raises(InputError, match="config.model.width: 8 when the run began"):
        train(config, str(run[1]))


def test_weights_of_another_run_can_start_one(run, shards, tmp_path):
    config = tiny.config(
        *shards, total_steps=1, init_from=str(run[1]), optimizer__lr=1e-12
    )
    started = train(config, str(tmp_path))
    best = checkpoint.load(run[1], "best").variables["params"]
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), started.params, best
    )


def test_what_a_run_learnt_goes_before_an_encoder_s_file(run, shards):
    learnt = checkpoint.load(run[1], "best").variables["params"]
    afresh = jax.tree.map(jnp.zeros_like, learnt["encoder"])

    def load(path, variables, part):
        return variables | {"params": variables["params"] | {part: afresh}}

    def encoder(**changes):
        begun = {"init_from": str(run[1]), "init_encoders": {"encoder": "file.pth"}}
        config = check(tiny.config(*shards, **begun, **changes))
        model = experiment.build(config, 1).model
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(experiment.weights, "load_encoder", load)
            return experiment.first_variables(config, model)["params"]["encoder"]

    jax.tree.map(np.testing.assert_array_equal, encoder(), learnt["encoder"])
    kept = encoder(init_keep=("encoder/*",))
    jax.tree.map(np.testing.assert_array_equal, kept, afresh)
    # What checkpoints leave out is read from its file again.
    left_out = encoder(save_frozen=False)
    jax.tree.map(np.testing.assert_array_equal, left_out, afresh)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"batch_size": 12}, "not a multiple of the 8 devices; 16 is"),
        ({"data__train": "/nowhere"}, "/nowhere"),
        ({"init_from": "/nowhere"}, "/nowhere: no config.json there"),
    ],
)
def test_what_a_run_refuses(shards, tmp_path, changes, told):
    with pytest.raises(InputError, match=told) as error:
        train(tiny.config(*shards, total_steps=1, **changes), str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--config=configs/sdfl.py"], "--workdir is missing"),
        (["--config=configs/none.py", "--workdir=x"], "configs/none.py"),
        (
            ["--config=configs/sdfl.py", "--workdir=x", "--config.batch_siz=3"],
            "did you mean 'batch_size'",
        ),
        (
            ["--config=configs/sdfl.py", "--workdir=x", "--config.batch_size=big"],
            "batch_size",
        ),
        (["--config=configs/sdfl.py", "--workdir=x", "rest"], "Not understood: rest"),
    ],
)
def test_the_command_line_tells_mistakes_in_one_line(arguments, told):
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "sdfl_jax.main", *arguments],
        capture_output=True,
        text=True,
        cwd=Path(main.__file__).parent.parent,
    )
    assert done.returncode == 2
    assert told in done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr

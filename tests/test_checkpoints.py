"""States on disk: of either precision, read back in either."""

import shutil

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import optax
import pytest
from flax import traverse_util

from sdfl_jax import models, optim
from sdfl_jax.checkpoints import checkpoint, frozen, saving
from sdfl_jax.checkpoints.checkpoint import Trained
from sdfl_jax.checkpoints.saving import Checkpoints
from sdfl_jax.config import check
from sdfl_jax.errors import InputError
from sdfl_jax.state import init_state
from sdfl_jax.training.experiment import first_variables
from sdfl_jax.trees import patterns
from tests import tiny


def state_of(precision: str):
    variables = {"params": {"a": jnp.ones(2)}, "batch_stats": {}}
    return init_state(variables, optax.identity(), precision=precision)


@pytest.mark.parametrize("saved", ["float16", "float32"])
@pytest.mark.parametrize("wanted", ["float16", "float32"])
def test_a_run_goes_on_in_another_precision(saved, wanted, tmp_path):
    """float16 alone counts the good steps of its loss scale."""
    before = state_of(saved).replace(loss_scale=jnp.float32(64))
    if saved == "float16":
        before = before.replace(good_in_row=jnp.int32(7))
    checkpoints = Checkpoints(tmp_path, keep=1)
    checkpoints.save(before, {})
    checkpoints.close()
    after, _ = Checkpoints(tmp_path, keep=1).restore(state_of(wanted))
    assert float(after.loss_scale) == 64
    np.testing.assert_array_equal(after.params["a"], [1, 1])
    if wanted == "float32":
        assert after.good_in_row == {}
    else:
        assert int(after.good_in_row) == (7 if saved == "float16" else 0)


def test_a_threshold_of_zero_stays_zero_and_an_unknown_one_is_a_half():
    trained = Trained(mlc.ConfigDict(), None, {}, 1, {"pixel_threshold": 0.0})
    assert trained.thresholds == (0.0, 0.5)
    assert trained.calibrated == (0.0, None)


def test_reading_a_run_changes_nothing_of_it(tmp_path):
    """Once it was opened as for writing, with room for a million checkpoints."""
    run = tiny.write_run(tmp_path / "run")
    state = lambda: {
        p: (p.stat().st_mtime_ns, p.stat().st_size) for p in run.rglob("*")
    }
    before = state()
    assert before and checkpoint.load(run, "best").step == checkpoint.load(run).step
    assert state() == before


# ------------------------------------------------------- frozen parts, left out of it


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """A file of the encoder's weights."""
    folder = tmp_path_factory.mktemp("pretrained")
    trained = checkpoint.load(tiny.write_run(folder / "run", seed=7))
    encoder = {kind: tree["encoder"] for kind, tree in trained.variables.items()}
    arrays = traverse_util.flatten_dict(jax.device_get(encoder), sep="/")
    np.savez(folder / "encoder.npz", **arrays)
    return folder / "encoder.npz"


def saved_without_encoder(workdir, file, ema: bool):
    """A state after which everything that learns has moved, and its checkpoint."""
    freeze = ("encoder/*", "!*conv3*")
    config = check(tiny.config("none", "none", init_encoders={"encoder": str(file)}))
    model = models.build(**config.model)
    tx = optim.make_optimizer(
        config.optimizer.to_dict(), config.schedule.to_dict(), 4, freeze=freeze
    )
    state = init_state(first_variables(config, model), tx, ema=ema)
    move = lambda params: patterns.map_paths(
        lambda path, x: x if patterns.fits(path, freeze) else x + 1, params
    )
    state = state.replace(step=jnp.int32(1), params=move(state.params))
    if ema:
        state = state.replace(ema=move(move(state.params)))
    checkpoint.write_config(workdir, config)
    left_out = frozen.of_config(freeze, {"encoder": str(file), "noise_encoder": ""})
    checkpoints = Checkpoints(workdir, keep=1, left_out=left_out)
    checkpoints.save(state, {})
    checkpoints.save_best(state, {})
    checkpoints.close()
    return state


@pytest.mark.parametrize("ema", [False, True])
def test_what_is_frozen_is_read_from_its_file(pretrained, tmp_path, ema):
    state = saved_without_encoder(tmp_path, pretrained, ema)
    saved = saving._saved(saving._manager(tmp_path / "checkpoints/best"), 1, "model")
    assert set(saved["params"]["encoder"]) == {"conv3"}
    assert "encoder" not in saved["batch_stats"]

    fresh = jax.tree.map(jnp.zeros_like, state)
    found, progress = Checkpoints(tmp_path, keep=1).restore(fresh)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert progress["frozen"]["files"]["encoder"]["path"] == str(pretrained)
    trained = checkpoint.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, trained.variables, state.variables)


def test_a_file_that_is_missing_or_another_is_told_in_a_line(pretrained, tmp_path):
    file = tmp_path / "encoder.npz"
    shutil.copy(pretrained, file)
    saved_without_encoder(tmp_path / "run", file, ema=False)
    file.rename(tmp_path / "run" / "encoder.npz")
    checkpoint.load(tmp_path / "run")
    (tmp_path / "run" / "encoder.npz").unlink()
    with pytest.raises(InputError, match="encoder.npz with SHA-256 .* is missing"):
        checkpoint.load(tmp_path / "run")
    file.write_bytes(b"other")
    with pytest.raises(InputError, match="another file than the one") as caught:
        checkpoint.load(tmp_path / "run")
    assert "\n" not in str(caught.value)


def test_nothing_frozen_that_could_be_read_again_is_refused(pretrained):
    for freeze, path in (((), str(pretrained)), (("encoder/*",), "")):
        with pytest.raises(InputError, match=r"save_frozen=False.*give both"):
            frozen.of_config(freeze, {"encoder": path})

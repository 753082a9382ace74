"""States on disk: of either precision, read back in either."""

import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import optax
import pytest

from sdfl_jax.checkpoints.checkpoint import Checkpoints, Trained
from sdfl_jax.state import init_state


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

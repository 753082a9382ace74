"""One training step, on one device and on eight."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from sdfl_jax import losses, models, sharding
from sdfl_jax.state import init_state, init_variables
from sdfl_jax.steps import make_evaluate_step, make_train_step
from tests.tiny import SIDE

LOSS = dict(weights={"mask": 0.16, "label": 0.04, "edge": 0.0}, mask_losses=("dice",))


def make_model(**settings):
    return models.build(
        "sdfl",
        encoder="tiny",
        width=8,
        pyramid_width=8,
        bins=(2,),  # a 1x1 map of one image has no variance
        **settings,
    )


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    label = np.array([0, 1] * 4, np.float32)
    mask = 255 * (rng.random((8, SIDE, SIDE, 1)) < 0.3).astype(np.uint8)
    return {
        "image": rng.integers(0, 256, (8, SIDE, SIDE, 3), np.uint8),
        "mask": mask * label.astype(np.uint8)[:, None, None, None],
        "label": label,
        "has_mask": np.ones(8, np.float32),
    }


def take_step(batch, devices: int, tx=None, dice="batch", **settings):
    """The state after one step, the scalars, and the state before, on the host."""
    mesh = sharding.data_mesh(jax.devices()[:devices])
    model, tx = make_model(**settings), tx or optax.sgd(0.1)
    variables = jax.jit(lambda rng: init_variables(model, SIDE, rng))(
        jax.random.key(0, impl="rbg")
    )
    state = init_state(variables, tx)
    before = jax.device_get(state)
    step = make_train_step(model, tx, mesh, dice=dice, **LOSS)
    state, scalars = step(
        jax.device_put(state, sharding.everywhere(mesh)),
        sharding.to_global(batch, mesh),
    )
    return jax.device_get(state), jax.device_get(scalars), before


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b
    )


def test_eight_devices_agree_with_one(batch):
    state_1, scalars_1, _ = take_step(batch, devices=1)
    state_8, scalars_8, _ = take_step(batch, devices=8)
    assert_close(scalars_8, scalars_1)
    assert_close(state_8, state_1)


def test_the_8gpu_step_averages_eight_single_image_gradients(batch):
    """`configs/sdfl_8gpu.py`: batch norm and Dice see one image, as under DDP."""
    settings = dict(bn_group=1)
    state, scalars, before = take_step(batch, 8, dice="per_image", **settings)
    model = make_model(**settings)
    params = models.project(before.params)

    @jax.jit
    def single(params, image, mask, label):
        def loss_fn(params):
            outputs, updated = model.apply(
                {"params": params, "batch_stats": before.batch_stats},
                image[None] / 255,
                train=True,
                mutable=["batch_stats"],
            )
            example = {
                "mask": mask[None] / 255,
                "label": label[None],
                "has_mask": jnp.ones(1),
            }
            return losses.total(outputs, example, dice="batch", **LOSS)[0], updated

        (loss, updated), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
        return loss, grads, updated["batch_stats"]

    results = [
        single(
            params,
            batch["image"][i].astype(np.float32),
            batch["mask"][i].astype(np.float32),
            batch["label"][i],
        )
        for i in range(8)
    ]
    loss, grads, stats = jax.tree.map(lambda *x: np.mean(x, axis=0), *results)
    np.testing.assert_allclose(scalars["loss"], loss, rtol=1e-5)
    expected = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    assert_close(state.params, expected)
    assert_close(state.batch_stats, stats)


def test_a_step_moves_running_means_and_counter(batch):
    state, _, before = take_step(batch, devices=8)
    assert int(state.step) == 1
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), state.batch_stats, before.batch_stats
    )
    assert all(jax.tree.leaves(moved))


def test_the_bayar_kernel_is_stored_normalised_but_for_the_last_update(batch):
    state, _, _ = take_step(batch, devices=1, tx=optax.sgd(0.0))
    np.testing.assert_allclose(
        state.params["bayar_conv"]["kernel"].sum(axis=0), 1, rtol=1e-5
    )


def test_a_step_that_is_not_finite_changes_only_the_counters(batch):

    huge = batch | {"label": np.full(8, np.inf, np.float32)}
    state, scalars, before = take_step(huge, devices=1, tx=optax.adam(0.1))
    assert not np.isfinite(scalars["loss"])
    assert int(state.step) == 1 and int(state.skipped) == 1
    assert int(scalars["skipped_in_row"]) == 1
    for name in ("params", "batch_stats", "opt_state"):
        assert_close(getattr(state, name), getattr(before, name), rtol=0, atol=0)


def test_evaluation_scores_in_0_1_and_its_loss_skips_padding(batch):
    mesh = sharding.data_mesh()
    model = make_model()
    variables = jax.jit(lambda rng: init_variables(model, SIDE, rng))(
        jax.random.key(0, impl="rbg")
    )
    step = make_evaluate_step(model, mesh, dice="batch", **LOSS)
    valid = np.arange(8) < 5
    first = step(variables, sharding.to_global(batch | {"valid": valid}, mesh))
    other = {k: np.concatenate([v[:5], v[:3]]) for k, v in batch.items()}
    second = step(variables, sharding.to_global(other | {"valid": valid}, mesh))
    for name in first["loss"]:
        np.testing.assert_allclose(
            first["loss"][name], second["loss"][name], rtol=1e-5, err_msg=name
        )
    probs = np.asarray(first["mask_probs"])
    assert probs.shape == (8, SIDE, SIDE) and 0 <= probs.min() <= probs.max() <= 1
    assert not step(variables, {"image": batch["image"]})["loss"]

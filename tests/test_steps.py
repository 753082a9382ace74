"""One training step, on one device and on eight."""

import types

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import optax
import pytest

from sdfl_jax import config, losses, models, optim, steps
from sdfl_jax.devices import sharding
from sdfl_jax.errors import InputError
from sdfl_jax.state import init_state
from sdfl_jax.steps import make_evaluate_step, make_train_step
from tests.tiny import SIDE

LOSS = dict(weights={"mask": 0.16, "label": 0.04, "edge": 0.0}, mask_losses=("dice",))


def make_model(**settings):
    small = dict(
        encoder="tiny",
        noise_branch=False,
        width=8,
        pyramid_width=8,
        bins=(2,),  # a 1x1 map of one image has no variance
    )
    return models.build("sdfl", **small | settings)


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


def prepare(
    batch,
    *,
    data=1,
    space=1,
    tx=None,
    dice="batch",
    precision="float32",
    step_settings=(),
    **settings,
):
    """A step, its arguments on the mesh, and the state before, on the host."""
    mesh = sharding.make_mesh(data, space)
    tx, step_settings = tx or optax.sgd(0.1), dict(step_settings)
    variables = jax.jit(
        lambda rng: models.init_variables(make_model(**settings), SIDE, rng)
    )(jax.random.key(0, impl="rbg"))
    average = step_settings.get("ema", 0) > 0
    state = init_state(variables, tx, precision=precision, ema=average)
    before = jax.device_get(state)
    model = make_model(dtype=steps.DTYPES[precision], **settings)
    step = make_train_step(model, tx, mesh, dice=dice, **LOSS, **step_settings)
    shard_state = step_settings.get("shard_state", False)
    state = sharding.place(state, mesh, shard_state)
    return step, state, sharding.to_global(batch, mesh), before


def take_step(batch, **settings):
    """The state after one step, the scalars, and the state before, on the host."""
    step, state, batch, before = prepare(batch, **settings)
    state, scalars = step(state, batch)
    return jax.device_get(state), jax.device_get(scalars), before


def assert_close(a, b, rtol=1e-4, atol=1e-5):
    jax.tree.map(
        lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), a, b
    )


@pytest.fixture(scope="module")
def plain(batch):
    """One step on one device."""
    return take_step(batch)


@pytest.mark.parametrize("data, space", [(8, 1), (4, 2)])
def test_many_devices_agree_with_one(batch, plain, data, space):
    # sgd: the params move by the gradients themselves.
    state, scalars, _ = take_step(batch, data=data, space=space)
    assert_close(scalars, plain[1])
    assert_close(state, plain[0])


def bytes_held_and_moved(batch, devices: int) -> tuple[int, dict]:
    """By one device in a step: params with statistics, and what it exchanges."""
    # Wide enough that the sums of batch norm and losses are small beside the params.
    step, state, arrays, _ = prepare(batch, data=devices, width=64, pyramid_width=64)
    held = sharding.bytes_per_device(state.params)
    held += sharding.bytes_per_device(state.batch_stats)
    return held, sharding.collectives(step.lower(state, arrays).compile().as_text())


def test_a_step_sums_gradients_and_statistics_and_gathers_no_activations(batch):
    held, moved = bytes_held_and_moved(batch, devices=8)
    assert moved.keys() == {"all-reduce"}
    assert 0.9 * held < moved["all-reduce"] < 1.1 * held


@pytest.mark.slow
def test_more_devices_with_as_many_images_each_exchange_no_more(batch):
    moved = {}
    for devices in (1, 2, 4, 8):
        part = {name: array[:devices] for name, array in batch.items()}
        _, moved[devices] = bytes_held_and_moved(part, devices)
    assert not moved[1]
    assert moved[2] == moved[4] == moved[8]


def test_a_split_state_takes_less_memory_and_the_same_step(batch, plain):
    step, state, arrays, before = prepare(
        batch,
        data=8,
        tx=optax.sgd(0.1, momentum=0.9),  # its first step is plain sgd's
        step_settings={"shard_state": True, "ema": 0.75},
    )
    layouts = jax.tree.map(lambda x: x.sharding, state)
    after, scalars = step(state, arrays)
    assert jax.tree.map(lambda x: x.sharding, after) == layouts
    assert_close(scalars, plain[1])
    assert_close(after.params, plain[0].params)
    params = before.params
    assert sharding.bytes_per_device(after.opt_state) < 0.6 * sum(
        leaf.nbytes for leaf in jax.tree.leaves(params)
    )  # of this small network's arrays few are worth splitting

    # Evaluation uses the average of the weights.
    average = jax.tree.map(
        lambda old, new: 0.75 * old + 0.25 * np.asarray(new), params, after.params
    )
    assert_close(after.ema, average)
    assert after.variables["params"] is after.ema
    assert_close(type(after).from_items(*after.items()), after, rtol=0, atol=0)


def test_accumulated_and_plain_steps_agree(batch):
    settings = dict(bn_group=4, dice="per_image")
    plain, scalars, _ = take_step(batch, **settings)
    two, scalars_2, _ = take_step(
        batch, data=4, step_settings={"accumulate_steps": 2}, **settings
    )
    assert_close(scalars_2, scalars, rtol=1e-5)
    assert_close(two.params, plain.params, rtol=1e-5, atol=1e-6)
    assert_close(two.batch_stats, plain.batch_stats, rtol=1e-5, atol=1e-6)


def test_half_precision_keeps_float32_params_and_nears_the_float32_step(batch, plain):
    for precision, tolerance in (("bfloat16", 0.03), ("float16", 0.01)):
        dynamic = {"dynamic_loss_scale": precision == "float16"}
        state, scalars, _ = take_step(batch, precision=precision, step_settings=dynamic)
        assert_close(scalars["loss"], plain[1]["loss"], rtol=tolerance)
        assert_close(scalars["grad_norm"], plain[1]["grad_norm"], rtol=0.1)
        assert {x.dtype for x in jax.tree.leaves(state.params)} == {np.dtype("f4")}
        assert {x.dtype for x in jax.tree.leaves(state.batch_stats)} == {np.dtype("f4")}


def test_an_overflow_halves_the_loss_scale_and_skips_the_step(batch):
    settings = dict(precision="float16", step_settings={"dynamic_loss_scale": True})
    step, state, arrays, before = prepare(batch, **settings)
    state = state.replace(loss_scale=jnp.float32(2.0**40))
    state = state.replace(good_in_row=jnp.int32(steps.LOSS_SCALE_PATIENCE - 1))
    after, scalars = step(state, arrays)
    assert float(after.loss_scale) == 2.0**39
    assert int(after.good_in_row) == 0
    assert int(scalars["skipped"]) == 1
    assert np.isfinite(scalars["loss"])
    assert_close(after.params, before.params, rtol=0, atol=0)


def test_the_loss_scale_grows_after_so_many_good_steps_in_a_row_alone(batch):
    """It once grew at every 2,000th step of the run, right after an overflow too."""
    settings = dict(precision="float16", step_settings={"dynamic_loss_scale": True})
    step, state, arrays, _ = prepare(batch, **settings)
    last = lambda: jnp.int32(steps.LOSS_SCALE_PATIENCE - 1)  # anew: it is donated
    # The step that a 2,000th one ends, a few good steps after an overflow.
    state = state.replace(
        step=last(), good_in_row=jnp.int32(3), loss_scale=jnp.float32(64)
    )
    state, _ = step(state, arrays)
    assert float(state.loss_scale) == 64 and int(state.good_in_row) == 4
    state, _ = step(state.replace(good_in_row=last()), arrays)
    assert float(state.loss_scale) == 128 and int(state.good_in_row) == 0


def test_a_step_tells_the_rate_that_it_applied(batch):
    fields = mlc.ConfigDict({"total_steps": 10, "optimizer": {"lr": 0.4}})
    fields.schedule = {"name": "constant", "warmup_steps": 4}
    checked = config.check(fields)
    tx = optim.make_optimizer(
        checked.optimizer.to_dict(), checked.schedule.to_dict(), 10
    )
    step, state, arrays, _ = prepare(batch, tx=tx)
    for rate in (0.1, 0.2):
        state, scalars = step(state, arrays)
        assert float(scalars["learning_rate"]) == pytest.approx(rate)


def test_precision_follows_the_device():
    device = lambda capability: types.SimpleNamespace(
        platform="gpu", compute_capability=capability
    )
    chosen = [
        steps.choose_precision("auto", device(c))[0] for c in ("6.1", "7.0", "9.0")
    ]
    assert chosen == ["float32", "float16", "bfloat16"]
    assert steps.choose_precision("auto")[0] == "float32"
    with pytest.raises(InputError, match="'float8'.*did you mean 'float"):
        steps.choose_precision("float8")


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    assert dict(sharding.make_mesh(space=2).shape) == {"data": 4, "space": 2}
    for data, space in ((16, 1), (-1, 3), (0, 1), (4, 4)):
        with pytest.raises(InputError, match="config.mesh"):
            sharding.make_mesh(data, space)


def test_the_8gpu_step_averages_eight_single_image_gradients(batch):
    """`configs/sdfl_8gpu.py`: batch norm and Dice see one image, as under DDP."""
    settings = dict(bn_group=1, noise_branch=True)
    state, scalars, before = take_step(batch, data=8, dice="per_image", **settings)
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
    state, _, before = take_step(batch, data=8)
    assert int(state.step) == 1
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), state.batch_stats, before.batch_stats
    )
    assert all(jax.tree.leaves(moved))


def test_the_bayar_kernel_is_stored_normalised_but_for_the_last_update(batch):
    state, _, _ = take_step(batch, tx=optax.sgd(0.0), noise_branch=True)
    np.testing.assert_allclose(
        state.params["bayar_conv"]["kernel"].sum(axis=0), 1, rtol=1e-5
    )


def test_a_step_that_is_not_finite_changes_only_the_counters(batch):

    huge = batch | {"label": np.full(8, np.inf, np.float32)}
    state, scalars, before = take_step(huge, tx=optax.adam(0.1))
    assert not np.isfinite(scalars["loss"])
    assert int(state.step) == 1 and int(state.skipped) == 1
    assert int(scalars["skipped_in_row"]) == 1
    for name in ("params", "batch_stats", "opt_state"):
        assert_close(getattr(state, name), getattr(before, name), rtol=0, atol=0)


def test_evaluation_scores_in_0_1_and_its_loss_skips_padding(batch):
    mesh = sharding.data_mesh()
    model = make_model()
    variables = jax.jit(lambda rng: models.init_variables(model, SIDE, rng))(
        jax.random.key(0, impl="rbg")
    )
    step = make_evaluate_step(model, mesh, dice="batch", **LOSS)
    valid = np.arange(8) < 5
    first = step(variables, sharding.to_global(batch | {"valid": valid}, mesh))
    other = {k: np.concatenate([v[:5], v[:3]]) for k, v in batch.items()}
    second = step(variables, sharding.to_global(other | {"valid": valid}, mesh))
    assert first["loss"].keys() == {"loss", "loss/mask", "loss/label"}
    for name in first["loss"]:
        one, other = (np.asarray(found["loss"][name]) for found in (first, second))
        np.testing.assert_allclose(one[:5], other[:5], rtol=1e-5, err_msg=name)
        assert one.shape == (8,) and not one[5:].any(), name
    probs = np.asarray(first["mask_probs"])
    assert probs.shape == (8, SIDE, SIDE) and 0 <= probs.min() <= probs.max() <= 1
    assert not step(variables, {"image": batch["image"]})["loss"]

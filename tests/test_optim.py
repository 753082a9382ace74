"""Optimizers and schedules: torch's numbers, literally."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import optax
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sdfl_jax import config, optim
from sdfl_jax.errors import InputError
from sdfl_jax.trees import patterns

SCHEDULE = json.loads((Path(__file__).parent / "golden/schedule.json").read_text())
CONSTANT = {"name": "constant"}


def make(optimizer, schedule, total_steps, **settings):
    """As a config that gives these settings has it made."""
    fields = {"total_steps": 1, "optimizer": optimizer, "schedule": schedule}
    checked = config.check(mlc.ConfigDict(fields))
    return optim.make_optimizer(
        checked.optimizer.to_dict(), checked.schedule.to_dict(), total_steps, **settings
    )


def gradient(params, step):
    return params * jnp.array([0.5, 1, 2]) + jnp.sin(step + jnp.arange(3.0))


def walk(optimizer, steps=6):
    """Where three parameters stand after some steps."""
    tx = make(optimizer, CONSTANT, steps)
    params = jnp.array([1.0, -2, 3])
    state = tx.init(params)
    for step in range(steps):
        updates, state = tx.update(gradient(params, step), state, params)
        params = optax.apply_updates(params, updates)
    return params


# torch 2.13 (CPU), same parameters, gradients and settings.
TORCH = {
    "adam": ({"lr": 0.1}, [0.5211375952, -1.406824708, 2.412094593]),
    "adam with weight decay": (
        {"name": "adam", "lr": 0.1, "weight_decay": 0.3},
        [0.4875302017, -1.401166677, 2.410558701],
    ),
    "adamw": ({"lr": 0.1}, [0.5167846084, -1.396341324, 2.395791769]),
    "adamw with all settings": (
        {
            "name": "adamw",
            "lr": 0.1,
            "b1": 0.8,
            "b2": 0.95,
            "eps": 1e-3,
            "weight_decay": 0.2,
        },
        [0.460077226, -1.200793028, 2.10660148],
    ),
    "rmsprop": ({"lr": 0.1}, [0.3622072339, 0.448497057, 0.5661864281]),
    "sgd": (
        {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1},
        [-0.1992911845, 0.6076006293, -1.928226113],
    ),
    "adam with clip": (
        {"name": "adam", "lr": 0.1, "clip": 0.5},
        [0.5237344503, -1.413585782, 2.402255536],
    ),
}


@pytest.mark.parametrize("case", TORCH)
def test_optimizers_walk_as_in_torch(case):
    settings, expected = TORCH[case]
    found = walk({"name": case} | settings)
    # 1 - b2^t is taken in float32, a share of 6e-5 off at the first step.
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_clip_bounds_the_norm_of_the_gradient():
    tx = make({"name": "sgd", "lr": 1.0, "clip": 5.0}, CONSTANT, 1)
    params = {"a": jnp.zeros(2), "b": jnp.zeros(1)}
    for scale, norm in ((1.0, 3.0), (100.0, 5.0)):
        grads = {"a": scale * jnp.array([1.0, 2]), "b": scale * jnp.array([2.0])}
        updates, _ = tx.update(grads, tx.init(params), params)
        assert float(optax.tree.norm(updates)) == pytest.approx(norm, rel=1e-6)


def rates(schedule, total_steps, lr=0.5):
    """The rate of every step, as applied."""
    tx = make({"name": "sgd", "lr": lr}, schedule, total_steps)
    params = jnp.zeros(())
    state = tx.init(params)
    found = []
    for _ in range(total_steps):
        updates, state = tx.update(jnp.ones(()), state, params)
        assert float(-updates) == pytest.approx(optim.learning_rate(state), abs=1e-9)
        found.append(float(-updates))
    return np.array(found)


@pytest.mark.parametrize("name", ["constant", "plateau", "cosine", "step"])
def test_warmup_rises_to_the_full_rate_and_wastes_no_step(name):
    found = rates({"name": name, "warmup_steps": 4}, 20)
    np.testing.assert_allclose(found[:4], [0.125, 0.25, 0.375, 0.5], rtol=1e-6)
    assert found[4] == pytest.approx(0.5)


def test_cosine_falls_from_the_full_rate_towards_zero():
    found = rates({"name": "cosine", "warmup_steps": 50}, 550)[50:]
    expected = 0.25 * (1 + np.cos(np.pi * np.arange(500) / 500))
    np.testing.assert_allclose(found, expected, atol=1e-7)


def test_poly_falls_as_a_power_of_what_is_left():
    found = rates({"name": "poly"}, 10)
    np.testing.assert_allclose(found, 0.5 * (1 - np.arange(10) / 10) ** 0.9, rtol=1e-5)


def test_step_lowers_the_rate_every_so_many_steps():
    found = rates({"name": "step", "every_steps": 3, "factor": 0.1}, 8)
    expected = 0.5 * np.repeat([1, 0.1, 0.01], 3)[:8]
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_rate_can_be_set_between_steps_without_a_new_compilation():
    mesh = Mesh(jax.devices()[:8], ("data",))
    everywhere = NamedSharding(mesh, PartitionSpec())
    tx = make({"lr": 1e-3}, {"name": "plateau"}, 10)
    params = jax.device_put(jnp.ones(4), everywhere)
    state = jax.device_put(tx.init(params), everywhere)
    step = jax.jit(tx.update, out_shardings=everywhere)
    before, state = step(params, state, params)
    changed = optim.set_learning_rate(state, 1e-4)
    assert optim.learning_rate(changed) == pytest.approx(1e-4)
    assert optim.learning_rate(state) == pytest.approx(1e-3)
    after, changed = step(params, changed, params)
    assert step._cache_size() == 1
    np.testing.assert_allclose(after, before / 10, rtol=1e-3)
    assert optim.learning_rate(changed) == pytest.approx(1e-4)


@pytest.mark.parametrize("case", SCHEDULE["cases"], ids=range(len(SCHEDULE["cases"])))
def test_plateau_repeats_the_reference_exactly_even_when_resumed(case):
    settings = {
        "factor": SCHEDULE["factor"],
        "patience": SCHEDULE["patience"],
        "early_stop": SCHEDULE["n_early"],
    }
    plateau = optim.Plateau(SCHEDULE["lr"], **settings)
    for line in case["trace"]:
        assert not plateau.stop
        assert plateau.lr == line["lr"]
        plateau.update(line["val_loss"])
        assert plateau.lr == line["next_lr"]
        assert plateau.epochs_since_best == line["epochs_since_best"]
        # Through JSON into a new one, after every epoch.
        state = json.loads(json.dumps(plateau.state_dict(), allow_nan=False))
        plateau = optim.Plateau(1.0, **settings)
        plateau.load_state_dict(state)
    assert plateau.stop and line["epoch"] == case["stopped_at"]


def test_plateau_bears_losses_that_are_not_numbers():
    plateau = optim.Plateau(1.0, factor=0.5, patience=1, early_stop=2)
    for loss in (np.nan, np.inf, np.nan):
        plateau.update(loss)
        json.dumps(plateau.state_dict(), allow_nan=False)
    assert plateau.lr == 0.5 and plateau.stop


def test_make_plateau_follows_the_settings():
    schedule = {"name": "plateau", "factor": 0.5, "patience": 0, "early_stop": 3}
    defaults = config.defaults().schedule.to_dict()
    plateau = optim.make_plateau(0.1, defaults | schedule)
    plateau.update(1.0)
    plateau.update(1.0)
    assert plateau.lr == 0.05
    assert optim.make_plateau(0.1, defaults | {"name": "cosine"}) is None


@pytest.mark.parametrize(
    ("optimizer", "schedule", "told"),
    [
        ({"name": "adan"}, {}, "did you mean 'adam'"),
        ({"name": "zzz"}, {}, r"there are \['adam', 'adamw', 'rmsprop', 'sgd'\]"),
        ({"wieght_decay": 1}, {}, "did you mean 'weight_decay'"),
        ({}, {"name": "cosin"}, "did you mean 'cosine'"),
        ({}, {"warm_steps": 5}, "did you mean 'warmup_steps'"),
        ({"lr": 0.0}, {}, "optimizer.lr is 0.0"),
        ({"lr": float("nan")}, {}, "optimizer.lr is nan"),
        ({"lr": "fast"}, {}, "optimizer.lr is 'fast'"),
        ({"b1": 1.0}, {}, "optimizer.b1 is 1.0"),
        ({"clip": -1}, {}, "optimizer.clip is -1"),
        ({}, {"factor": 1.0}, "schedule.factor is 1.0"),
        ({}, {"every_steps": 0}, "schedule.every_steps is 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(optimizer, schedule, told):
    complete = config.defaults()
    optimizer = complete.optimizer.to_dict() | {"weight_decay": 0.0} | optimizer
    with pytest.raises(InputError, match=told):
        optim.make_optimizer(optimizer, complete.schedule.to_dict() | schedule, 10)


def test_settings_that_are_missing_are_named():
    with pytest.raises(InputError, match=r"optimizer is given without \['weight_"):
        optim.make_optimizer({"name": "sgd", "lr": 0.1}, {}, 10)


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_without_a_weight_decay_each_optimizer_takes_its_own_of_torch(name):
    # sgd once decayed by adamw's 1e-2.
    for given in ({"name": name}, {"name": name, "weight_decay": None}):
        fields = mlc.ConfigDict({"total_steps": 1, "optimizer": given})
        decay = config.check(fields).optimizer.weight_decay
        assert decay == (1e-2 if name == "adamw" else 0.0)


PARAMS = {
    "encoder": {"conv": {"kernel": jnp.array([1.0, -2, 3])}},
    "mask_head": {"conv": {"kernel": jnp.array([1.0, -2, 3])}, "bias": jnp.ones(1)},
}


def update(optimizer, **settings):
    """The first update and the optimizer's state after it, with gradients of 1 to 3."""
    tx = make({"lr": 0.1} | optimizer, CONSTANT, 10, **settings)
    state = tx.init(PARAMS)
    grads = jax.tree.map(lambda x: jnp.arange(1.0, 1 + len(x)), PARAMS)
    return tx.update(grads, state, PARAMS)


@pytest.mark.parametrize("name", sorted(optim.OPTIMIZERS))
def test_a_multiplier_scales_the_rate_of_what_its_pattern_stands_for(name):
    plain, _ = update({"name": name})
    scaled, state = update(
        {"name": name}, lr_multipliers={"encoder/*": 0.5, "*/kernel": 0.5}
    )
    factors = {"encoder/conv/kernel": 0.25, "mask_head/conv/kernel": 0.5}
    patterns.map_paths(
        lambda path, a, b: np.testing.assert_allclose(
            a, factors.get(path, 1.0) * b, rtol=1e-6
        ),
        scaled,
        plain,
    )
    assert optim.learning_rate(state) == pytest.approx(0.1)


def test_what_is_frozen_has_no_update_no_decay_no_moments_and_no_share_in_the_norm():
    settings = {"name": "adamw", "weight_decay": 0.3, "clip": 0.1}
    updates, state = update(settings, freeze=["encoder/*"])
    assert not np.any(updates["encoder"]["conv"]["kernel"])
    assert np.all(updates["mask_head"]["conv"]["kernel"])
    sizes = [np.size(leaf) for leaf in jax.tree.leaves(state)]
    assert sizes.count(3) == 2  # one kernel's moments, not two
    sgd = {"name": "sgd", "clip": 1.0}
    updates, _ = update(sgd, freeze=["encoder/*"])
    assert float(optax.tree.norm(updates)) == pytest.approx(0.1, rel=1e-6)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"freeze": ["encodr/*"]}, "config.freeze: nothing .* 'encodr/\\*'; its parts"),
        (
            {"lr_multipliers": {"conv": 0.1}},
            r"config.lr_multipliers.*'conv'.*mask_head",
        ),
        ({"lr_multipliers": {"encoder/*": 0.0}}, "lr_multipliers.encoder/. is 0.0"),
    ],
)
def test_patterns_that_stand_for_nothing_are_refused(settings, told):
    with pytest.raises(InputError, match=told) as error:
        update({}, **settings)
    assert "\n" not in str(error.value)

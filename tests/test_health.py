"""A run that goes bad says so: at the validation, in the summary and in the card."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdfl_jax import models
from sdfl_jax.checkpoints import card
from sdfl_jax.models import init_variables
from sdfl_jax.train import train
from sdfl_jax.training import health
from tests import tiny

GOOD = {"loss": 0.4, "pixel_f1": 0.7}
ALIVE = {"bn": {"mean": np.zeros(4), "var": np.ones(4)}}


def signs(scalars=GOOD, statistics=ALIVE, **settings):
    return health.warnings(scalars, statistics, metric="pixel_f1", **settings)


def test_a_healthy_run_gives_no_sign():
    assert not signs(train_loss=0.3, running_loss=0.4)
    assert not signs(train_loss=0.001, running_loss=0.04)  # both are next to nothing
    assert not signs()


@pytest.mark.parametrize("pair", [(0.3, 17.6), (0.9, float("nan")), (2.0, 0.1)])
def test_statistics_that_disagree_are_named_with_their_layers(pair):
    layers = lambda: ["decoder/pyramid0/bn"]
    (line,) = signs(train_loss=pair[0], running_loss=pair[1], furthest_off=layers)
    assert "with the running ones" in line and "decoder/pyramid0/bn" in line


def test_other_signs_are_told_one_by_one():
    dead = {"decoder": {"bn0": ALIVE["bn"] | {"var": np.full(4, 2e-14)}} | ALIVE}
    (line,) = signs(statistics=dead)
    assert "decoder/bn0" in line and "decoder/bn " not in line
    (line,) = signs({"loss": 5.0, "pixel_f1": 0.1}, train_loss=0.3, running_loss=0.3)
    assert "validation loss is 5" in line
    for value in (0.0, 1.0):
        (line,) = signs(GOOD | {"pixel_f1": value})
        assert "pixel_f1 is exactly" in line


def test_the_layer_that_is_off_comes_first():
    rng = np.random.default_rng(0)
    model = models.build(**tiny.config("", "").model)
    image = rng.integers(0, 256, (4, tiny.SIDE, tiny.SIDE, 3), np.uint8)
    variables = init_variables(model, tiny.SIDE, jax.random.key(0))
    for _ in range(60):
        statistics = health._moved(model, variables, jnp.asarray(image))
        variables = variables | {"batch_stats": statistics}
    off = variables["batch_stats"]["decoder"]["finest_out"]["bn"]
    off["mean"] = off["mean"] + 100.0
    assert health.furthest_off(model, variables, image)[0] == "decoder/finest_out/bn"


def test_a_bad_run_repeats_it_in_summary_and_card(tmp_path, capsys):
    shards = tiny.write_shards(tmp_path / "data", 16)
    config = tiny.config(shards, shards, total_steps=2, validate_every=2)
    config.optimizer = {"lr": 30.0}
    train(config, str(tmp_path / "run"))
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["warnings"]
    assert f"WARNING: step 2: {summary['warnings'][0]}" in capsys.readouterr().err
    assert summary["warnings"][0] in (tmp_path / "run" / card.FILE).read_text()


@pytest.mark.slow
def test_the_demos_recipe_trained_ten_times_longer_gets_better(tmp_path):
    from configs import demo

    def run(steps):
        config = demo.get_config()
        config.data.train = tiny.write_shards(tmp_path / f"{steps}/train", 64)
        config.data.val = tiny.write_shards(tmp_path / f"{steps}/val", 32, seed=1)
        config.model.encoder, config.init_encoders.encoder = "tiny", ""
        config.model.bins, config.image_size = (1, 2), tiny.SIDE
        config.total_steps = config.validate_every = config.save_every = steps
        config.schedule.warmup_steps = 5
        train(config, str(tmp_path / f"{steps}/run"))
        summary = json.loads((tmp_path / f"{steps}/run/summary.json").read_text())
        assert not summary["warnings"]
        return summary["best_pixel_f1_manipulated"]

    assert run(600) > run(60)

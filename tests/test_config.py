"""Configs: what fits is taken, what does not is told with the nearest name."""

import functools
import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections as mlc
import pytest

from sdfl_jax import config as config_lib
from sdfl_jax import losses, models, optim
from sdfl_jax.errors import InputError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem[0] != "_")


def changed(**fields) -> mlc.ConfigDict:
    return mlc.ConfigDict({"total_steps": 1} | fields)


@functools.cache
def shapes_of(model: str):
    """What a network holds and returns, by its settings as JSON; nothing is computed.

    At 64x64, where the network has no size of its own: shapes of arrays are the same.
    """
    network = models.build(**json.loads(model))
    side = getattr(network, "image_size", 64)
    inputs = models.blank_inputs(network, side, count=2)
    init = lambda: network.init_with_output(jax.random.key(0), **inputs, train=False)
    return jax.eval_shape(init)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_fits_its_network_its_losses_and_its_optimizer(name):
    module = importlib.import_module(f"sdfl_jax.configs.{name}")
    config = config_lib.check(module.get_config())
    # The docstring is where its command stands.
    assert f"configs/{name}.py" in module.__doc__

    models.build(**config.model)
    settings = config.model.to_dict()
    for name in ("bn_group", "bn_momentum", "freeze_encoder_bn"):  # change no shape
        settings.pop(name, None)
    outputs, variables = shapes_of(json.dumps(settings, sort_keys=True))
    batch = {"mask": jnp.zeros((2, 64, 64, 1)), "label": jnp.zeros(2)}
    batch["has_mask"] = jnp.ones(2)
    settings = config_lib.loss_settings(config)
    loss, terms = jax.eval_shape(
        lambda outputs: losses.total(outputs, batch, **settings), outputs
    )
    # No weight is for something that the network does not have.
    assert {k for k, weight in config.loss_weights.items() if weight} <= terms.keys()
    assert loss.shape == ()

    tx = optim.make_optimizer(
        config.optimizer.to_dict(),
        config.schedule.to_dict(),
        1000,
        lr_multipliers=config.lr_multipliers.to_dict(),
        freeze=tuple(config.freeze),
    )
    jax.eval_shape(tx.init, variables["params"])
    parts = [part for part, path in config.init_encoders.items() if path]
    assert set(parts) <= variables["params"].keys()


@pytest.mark.slow
def test_lists_and_patterns_can_be_given_on_the_command_line():
    code = (
        "from sdfl_jax import main; from unittest import mock\n"
        "with mock.patch('sdfl_jax.train.train') as train:\n"
        "    main.main()\n"
        "config = train.call_args.args[0]\n"
        "assert config.freeze == ('encoder/*',), config.freeze\n"
        "assert config.mask_losses == ('dice', 'lovasz'), config.mask_losses\n"
    )
    flags = ["--config=configs/sdfl.py", "--workdir=x"]
    flags += ["--config.freeze=('encoder/*',)"]
    flags += ["--config.mask_losses=('dice','lovasz')"]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"btach_size": 4}, "did you mean 'batch_size'"),
        ({"data": {"trian": "x"}}, "config.data.trian; .*did you mean 'train'"),
        ({"batch_size": 2.5}, "batch_size=2.5: takes a whole number"),
        ({"optimizer": {"lr": "high"}}, "config.optimizer.lr='high': takes a number"),
        ({"optimizer": 3}, "config.optimizer=3: takes fields"),
        ({"data": {"flips": 1}}, "config.data.flips=1: takes True or False"),
        (
            {"lr_multipliers": {"encoder/*": "low"}},
            r"\['encoder/.'\]='low': takes a nu",
        ),
        ({"freeze": "encoder/*"}, "config.freeze='encoder/.': takes a list"),
        ({"batch_size": 0}, "config.batch_size=0: must be 1 or more"),
        ({"accumulate_steps": 0}, "config.accumulate_steps=0: must be 1 or more"),
        ({"ema": 1.0}, "config.ema=1.0: .* below 1"),
        ({"ema": -0.1}, "config.ema=-0.1: .* at least 0"),
        ({"data": {"workers": -1}}, "config.data.workers=-1: must be 0 or more"),
        ({"data": {"enlarge": 1.5}}, "config.data.enlarge=1.5: 0, or a factor"),
        ({"data": {"enlarge": 0.5, "geometry": "crop"}}, "config.data.enlarge=0.5: 0"),
        ({"profile": -1}, "config.profile=-1: must be 0 or more"),
        ({"validate_every": -5}, "config.validate_every=-5: must be 0 or more"),
        ({"best_metric": "image_acu"}, "'image_acu'; .*did you mean 'image_auc'"),
        ({"best_metric": "best_threshold"}, "No config.best_metric"),
        ({"total_epochs": 2}, "exactly one"),
        ({"total_steps": 0}, "exactly one"),
        ({"data": {"geometry": "stretch"}}, "'stretch': takes 'resize'"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(fields, told):
    with pytest.raises(InputError, match=told) as error:
        config_lib.check(changed(**fields))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"widht": 32}, "no setting 'widht'; .*did you mean 'width'"),
        ({"width": "wide"}, "'starter', width='wide': takes a whole number"),
        ({"width": True}, "width=True: takes a whole number"),
        ({"attention": 1}, "attention=1: takes True or False"),
        ({"encoder": 3}, "encoder=3: takes text"),
        ({"bn_momentum": "low"}, "bn_momentum='low': takes a number"),
    ],
)
def test_a_networks_setting_that_does_not_fit_is_told_in_one_line(settings, told):
    with pytest.raises(InputError, match=told) as error:
        models.build("starter", **settings)
    assert "\n" not in str(error.value)


def test_missing_fields_take_defaults_and_whole_numbers_serve_as_rates():
    checked = config_lib.check(changed(optimizer={"lr": 1}))
    assert checked.optimizer.lr == 1
    assert checked.optimizer.name == config_lib.defaults().optimizer.name


def test_a_config_made_of_the_defaults_takes_the_optimizers_own_weight_decay():
    config = config_lib.of_network("sdfl")
    config.total_steps = 1
    assert config_lib.check(config).optimizer.weight_decay == 1e-2
    config.optimizer.weight_decay = 0.3
    assert config_lib.check(config).optimizer.weight_decay == 0.3
    assert config_lib.check(config_lib.check(config)).optimizer.weight_decay == 0.3


def test_arguments_after_the_colon():
    fields = dict(image_size=512, smoke=False, lr=0.1)
    assert config_lib.parse_arg("image_size=256,smoke", **fields) == dict(
        image_size=256, smoke=True, lr=0.1
    )
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        config_lib.parse_arg("smok", **fields)
    with pytest.raises(InputError, match="image_size=big: takes a whole number"):
        config_lib.parse_arg("image_size=big", **fields)


def test_a_field_is_understood_by_its_former_name_and_a_line_says_so(capsys):
    checked = config_lib.check(changed(best_figure="image_eer"))
    assert checked.best_metric == "image_eer" and "best_figure" not in checked
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "config.best_figure is called config.best_metric now; taken as that."
    ]
    # A run of then is gone on with: its config is the same one.
    saved = checked.to_dict()
    saved["best_figure"] = saved.pop("best_metric")
    assert config_lib.check_change(saved, checked, allow=False) == []


@pytest.mark.slow
def test_the_command_line_understands_a_field_by_its_former_name():
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "sdfl_jax.main",
            "--config=configs/sdfl.py",
            "--config.best_figure=nothing",
            "--dry_run",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    first, second = done.stderr.splitlines()
    assert first.startswith("config.best_figure is called config.best_metric now")
    assert second.startswith("Error: No config.best_metric 'nothing'")

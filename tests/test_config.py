"""Configs: what fits is taken, what does not is told with the nearest name."""

import importlib
from pathlib import Path

import ml_collections as mlc
import pytest

from sdfl_jax import config as config_lib
from sdfl_jax import models
from sdfl_jax.errors import InputError

ROOT = Path(__file__).parent.parent
CONFIGS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem[0] != "_")


def changed(**fields) -> mlc.ConfigDict:
    return mlc.ConfigDict({"total_steps": 1} | fields)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_complete_and_builds_its_network(name):
    config = importlib.import_module(f"configs.{name}").get_config()
    checked = config_lib.check(config)
    assert checked.batch_size > 0
    models.build(**checked.model)


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"btach_size": 4}, "did you mean 'batch_size'"),
        ({"data": {"trian": "x"}}, "config.data.trian; .*did you mean 'train'"),
        ({"batch_size": 2.5}, "batch_size=2.5: takes a whole number"),
        ({"optimizer": {"lr": "high"}}, "config.optimizer.lr='high': takes a number"),
        ({"optimizer": 3}, "config.optimizer=3: takes fields"),
        ({"data": {"flips": 1}}, "config.data.flips=1: takes True or False"),
        ({"batch_size": 0}, "config.batch_size=0: must be above 0"),
        ({"total_epochs": 2}, "exactly one"),
        ({"total_steps": 0}, "exactly one"),
        ({"data": {"geometry": "stretch"}}, "'stretch': takes 'resize'"),
    ],
)
def test_what_does_not_fit_is_told_in_one_line(fields, told):
    with pytest.raises(InputError, match=told) as error:
        config_lib.check(changed(**fields))
    assert "\n" not in str(error.value)


def test_missing_fields_take_defaults_and_whole_numbers_serve_as_rates():
    checked = config_lib.check(changed(optimizer={"lr": 1}))
    assert checked.optimizer.lr == 1
    assert checked.optimizer.name == config_lib.defaults().optimizer.name


def test_arguments_after_the_colon():
    fields = dict(image_size=512, smoke=False, lr=0.1)
    assert config_lib.parse_arg("image_size=256,smoke", **fields) == dict(
        image_size=256, smoke=True, lr=0.1
    )
    with pytest.raises(InputError, match="did you mean 'smoke'"):
        config_lib.parse_arg("smok", **fields)
    with pytest.raises(InputError, match="image_size=big: takes a whole number"):
        config_lib.parse_arg("image_size=big", **fields)

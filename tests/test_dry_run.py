"""What a training step takes, told before it runs."""

import pytest

from sdfl_jax import main
from sdfl_jax.config import check
from sdfl_jax.training import dry_run, experiment
from tests import tiny_config


@pytest.fixture(scope="module")
def config():
    return check(tiny_config.get_config())


@pytest.fixture(scope="module")
def found(config):
    return dry_run.dry_run(config)


def test_parameters_work_and_traffic_are_those_of_the_network(found, config):
    conv, norm, head = 5 * 5 * 3 * 8, 16, 8 + 1
    assert found["parameters"] == conv + norm + head
    assert found["mesh"] == {"data": 8, "space": 1}
    # Forward and the kernel's gradient of the first layer (the image needs none), and
    # forward and two gradients of the second: the rest is a few operations a value.
    macs = config.image_size**2 * (2 * conv + 3 * 8) / 1e9
    assert macs < found["gmac_per_image"] < 1.5 * macs
    assert found["gmac_per_step"] == config.batch_size * found["gmac_per_image"]
    gradients = 4 * found["parameters"]
    assert gradients <= found["collectives"]["all-reduce"] < gradients + 400


def test_memory_grows_with_the_batch_as_estimated(found, config):
    parts = experiment.build(config, 1)
    memory = lambda size: dry_run.memory(dry_run.compile_step(parts, size))["total"]
    assert found["memory"]["total"] == memory(config.batch_size)
    constant, per_image = found["memory_elsewhere"].values()
    images = config.batch_size / 8  # on each of the mesh's devices
    assert constant + images * per_image == pytest.approx(found["memory"]["total"])
    (gigabytes, batch), *_ = found["largest_batch"].items()
    assert gigabytes == 16 and batch % 8 == 0
    assert memory(batch) == pytest.approx(16e9 * dry_run.USABLE, rel=0.05)


def test_it_needs_no_data_and_no_working_directory(monkeypatch, capsys):
    seen = []
    monkeypatch.setattr(dry_run, "dry_run", seen.append)
    arguments = ["main", "--config=tests/tiny_config.py", "--dry_run"]
    monkeypatch.setattr("sys.argv", arguments)
    main.main()
    assert len(seen) == 1


def test_settings_of_the_network_may_be_given_that_the_config_does_not_name(
    monkeypatch, capsys
):
    seen = []
    monkeypatch.setattr(dry_run, "dry_run", seen.append)
    flags = ["main", "--config=configs/starter.py", "--dry_run"]
    given = ["--config.model.attention=False", "--config.model.encoder=mit_b0"]
    given += ["--config.model.lora={'patterns': ('encoder/*',), 'rank': 8}"]
    monkeypatch.setattr("sys.argv", [*flags, *given])
    main.main()
    lora = {"patterns": ("encoder/*",), "rank": 8}
    model = {"name": "starter", "attention": False, "encoder": "mit_b0", "lora": lora}
    assert seen[0].model.to_dict() == model

    monkeypatch.setattr("sys.argv", [*flags, "--config.optimizer.lr.x=1"])
    with pytest.raises(SystemExit):
        main.main()
    error = capsys.readouterr().err
    assert error.startswith("Error: Unknown config field: ") and error.count("\n") == 1

"""From one data set to another: what starts afresh, what moves, what stays."""

import shutil

import jax
import numpy as np
import optax
import pytest
from flax import traverse_util

from sdfl_jax import models
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data.build import __main__ as build_command
from sdfl_jax.devices import sharding
from sdfl_jax.errors import InputError
from sdfl_jax.state import init_state
from sdfl_jax.steps import (
    make_evaluate_step,
    make_train_step,
    mask_source,
)
from sdfl_jax.train import train
from sdfl_jax.trees import patterns
from tests import tiny

LOSS = dict(weights={"mask": 0.16, "label": 0.04, "edge": 0.0})


def write_labels_only(folder, count, seed) -> str:
    """Shards of images whose masks nobody knows."""
    paths = tiny.write_images(folder / "images", count, seed)
    lines = paths.read_text().splitlines()
    fields = [line.split(",") for line in lines]
    paths.write_text(
        "\n".join([lines[0], *(",".join([f[0], "None", *f[2:]]) for f in fields[1:])])
    )
    build_command.main(
        [
            f"--paths_file={paths}",
            f"--root={folder / 'images'}",
            f"--out={folder / 'shards'}",
            f"--image_size={tiny.SIDE}",
            "--workers=1",
        ]
    )
    return str(folder / "shards")


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """A run on data with masks."""
    folder = tmp_path_factory.mktemp("first")
    shards = [
        tiny.write_shards(folder / name, 8, seed=seed)
        for seed, name in enumerate(("train", "val"))
    ]
    config = tiny.config(*shards, total_steps=1, validate_every=1)
    train(config, str(folder / "run"))
    return folder / "run"


@pytest.fixture(scope="module")
def labels_only(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    return [
        write_labels_only(folder / name, 8, seed)
        for seed, name in enumerate(("train", "val"), 5)
    ]


def finetune(first, labels_only, workdir, **changes):
    config = tiny.config(
        *labels_only,
        total_steps=2,
        init_from=str(first),
        best_metric="image_auc",
        **changes,
    )
    return train(config, str(workdir))


def moved(after, before) -> set[str]:
    """The paths of arrays that are not what they were, to the bit."""
    pairs = patterns.map_paths(
        lambda path, a, b: (
            path if np.asarray(a).tobytes() != np.asarray(b).tobytes() else ""
        ),
        after,
        before,
    )
    return set(jax.tree.leaves(pairs)) - {""}


def test_a_run_on_labels_alone_moves_what_it_should(first, labels_only, tmp_path):
    before = checkpoint.load(first).variables
    state = finetune(
        first,
        labels_only,
        tmp_path,
        freeze=("encoder/*",),
        lr_multipliers={"decoder/*": 0.1},
        loss_weights={"mask": 0.0, "label": 1.0},
        optimizer={"name": "sgd", "lr": 0.1, "weight_decay": 0.0},
    )
    state = jax.device_get(state)
    params = moved(state.params, before["params"])
    parts = {path.partition("/")[0] for path in params}
    # The label's loss reaches the pyramid, and nothing else.
    assert parts == {"label_head", "decoder"}
    decoder = {path.split("/")[1] for path in params if path.startswith("decoder/")}
    assert decoder == {"pyramid0", "pyramid_out"}
    assert {
        p for p in patterns.paths_of(before["params"]) if "label_head" in p
    } <= params
    # Its batch norms see the new data all the same, but for those that are frozen.
    stats = moved(state.batch_stats, before["batch_stats"])
    assert {path.partition("/")[0] for path in stats} == parts | {"mask_head"}

    # No figure takes the unknown masks for empty ones.
    progress = checkpoint.load(tmp_path).progress
    for metrics in progress["metrics"].values():
        assert metrics["image_auc"] is not None
        assert metrics.get("pixel_f1_manipulated") is None
    assert progress["pixel_threshold"] is None


def test_checkpoints_of_a_run_leave_its_frozen_encoder_out(
    first, labels_only, tmp_path
):
    variables = jax.device_get(checkpoint.load(first).variables)
    encoder = {kind: tree["encoder"] for kind, tree in variables.items()}
    arrays = traverse_util.flatten_dict(encoder, sep="/")
    np.savez(tmp_path / "encoder.npz", **arrays)
    settings = dict(
        freeze=("encoder/*",),
        save_frozen=False,
        init_encoders={"encoder": str(tmp_path / "encoder.npz")},
    )
    state = finetune(first, labels_only, tmp_path / "run", **settings)
    found = checkpoint.load(tmp_path / "run", "latest").variables
    assert not moved(found, jax.device_get(state.variables))
    (tmp_path / "encoder.npz").unlink()
    with pytest.raises(InputError, match="encoder.npz with SHA-256 .* is missing"):
        checkpoint.load(tmp_path / "run")


@pytest.mark.slow
def test_the_same_run_goes_on_after_an_interruption(first, labels_only, tmp_path):
    """The optimizer's state of frozen params is a hole, which must be read back."""
    settings = dict(freeze=("encoder/*",), lr_multipliers={"*/bias": 2.0})
    whole = finetune(first, labels_only, tmp_path / "a", **settings)
    finetune(first, labels_only, tmp_path / "b", **settings, save_every=1)
    latest = tmp_path / "b/checkpoints/latest"
    assert {p.name for p in latest.glob("[0-9]*")} == {"1", "2"}
    shutil.rmtree(latest / "2")
    resumed = finetune(first, labels_only, tmp_path / "b", **settings, save_every=1)
    assert not moved(jax.device_get(resumed.params), jax.device_get(whole.params))


@pytest.mark.slow
def test_parts_can_start_afresh(first, labels_only, tmp_path):
    """A head of another kind, and so of another shape, on weights of another run."""
    changes = dict(
        model__label_input="pyramid+mask",
        optimizer={"name": "sgd", "lr": 1e-12, "weight_decay": 0.0},
    )
    with pytest.raises(InputError, match=r"~ params/label_head/out/kernel"):
        finetune(first, labels_only, tmp_path, **changes)
    with pytest.raises(InputError, match="nothing .* called 'head/.'; its parts are"):
        finetune(first, labels_only, tmp_path, init_keep=("head/*",), **changes)
    state = finetune(
        first, labels_only, tmp_path, init_keep=("label_head/*",), **changes
    )
    before = checkpoint.load(first).variables["params"]
    for name, tree in jax.device_get(state.params).items():
        close = jax.tree.map(
            lambda a, b: a.shape == b.shape and np.allclose(a, b, atol=1e-6),
            tree,
            before[name],
        )
        assert all(jax.tree.leaves(close)) == (name != "label_head"), name


def test_patterns_that_stand_for_nothing_stop_a_run(first, labels_only, tmp_path):
    with pytest.raises(InputError, match="config.freeze: nothing .* 'encodr/.'"):
        finetune(first, labels_only, tmp_path, freeze=("encodr/*",))


# --------------------------------------------------------------- steps by themselves


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    side = tiny.SIDE
    return {
        "image": rng.integers(0, 256, (8, side, side, 3), np.uint8),
        "mask": np.zeros((8, side, side, 1), np.uint8),
        "label": np.array([0, 1] * 4, np.float32),
        "has_mask": np.array([1, 0] * 4, np.float32),
    }


def first_state(model, tx):
    variables = jax.jit(lambda rng: models.init_variables(model, tiny.SIDE, rng))(
        jax.random.key(0, impl="rbg")
    )
    return init_state(variables, tx)


@pytest.mark.slow
@pytest.mark.parametrize("freeze", [(), ("encoder/*", "bayar_conv/*"), ("*",)], ids=str)
def test_what_is_frozen_stays_to_the_bit(batch, freeze):
    model = models.build("sdfl", encoder="tiny", width=8, pyramid_width=8, bins=(2,))
    tx = optax.adamw(0.1)  # decays everything that it may
    state = first_state(model, tx)
    before = jax.device_get(state)
    mesh = sharding.data_mesh(jax.devices()[:1])
    step = make_train_step(model, tx, mesh, freeze=freeze, **LOSS)
    state, scalars = step(sharding.place(state, mesh), sharding.to_global(batch, mesh))
    state = jax.device_get(state)
    for after, old in (
        (state.params, before.params),
        (state.batch_stats, before.batch_stats),
    ):
        expected = {p for p in patterns.paths_of(old) if not patterns.fits(p, freeze)}
        changed = moved(after, old)
        assert changed == expected
    assert bool(scalars["grad_norm"] > 0) == (freeze != ("*",))


# ------------------------------------------------------------- image-level networks


@pytest.mark.parametrize(
    "name", ["grey", pytest.param("grad_cam", marks=pytest.mark.slow)]
)
def test_a_network_without_masks_is_given_a_named_baseline(batch, name):
    model = models.build("classifier", encoder="tiny")
    mesh = sharding.data_mesh(jax.devices()[:1])
    step = make_evaluate_step(model, mesh, image_level_mask=name, **LOSS)
    state = first_state(model, optax.sgd(0.1))
    found = jax.device_get(step(state.variables, batch))
    probs = found["mask_probs"]
    assert probs.shape == (8, tiny.SIDE, tiny.SIDE)
    assert 0 <= probs.min() < probs.max() <= 1
    assert found["loss"].keys() == {"loss", "loss/label"}
    if name == "grey":
        weights = np.array([0.2989, 0.5870, 0.1140])
        np.testing.assert_allclose(probs, batch["image"] / 255 @ weights, atol=1e-6)
    said = mask_source(model, name)
    assert said.startswith("baseline: ")
    assert mask_source(models.build("upernet", encoder="tiny"), name) == "network"


def test_a_network_must_say_truly_whether_it_gives_masks(batch, monkeypatch):
    model = models.build("classifier", encoder="tiny")
    state = first_state(model, optax.sgd(0.1))
    monkeypatch.setattr(type(model), "gives_mask", True)
    step = make_evaluate_step(model, sharding.data_mesh(jax.devices()[:1]))
    with pytest.raises(TypeError, match="Classifier: `gives_mask` says True"):
        step(state.variables, batch)


def test_a_baseline_that_there_is_not_is_refused():
    model = models.build("classifier", encoder="tiny")
    with pytest.raises(InputError, match="image_level_mask 'gray'.*did you mean 'gre"):
        make_evaluate_step(model, sharding.data_mesh(), image_level_mask="gray")

"""Weights there and back: names, layouts, files, working directories."""

import json
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdfl_jax import models, weights
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.errors import InputError
from sdfl_jax.evaluate import __main__ as evaluate_command
from sdfl_jax.export import subject
from sdfl_jax.predict import __main__ as predict_command
from sdfl_jax.train import train
from sdfl_jax.trees import matching
from sdfl_jax.weights import __main__ as command
from sdfl_jax.weights import foreign, torch_names
from tests import golden, tiny

# As the golden files of these networks have them.
REFERENCES = {"sdfl": "sdfl_a", "upernet": "upernet_a", "mvssnet": "mvssnet_a"}
PUBLISHED = {
    "resnet50": "resnet50_torchvision_a",
    "densenet121": "densenet121_torchvision_a",
    "xception": "xception_timm_a",
}
SMALL = dict(encoder="tiny", width=8, pyramid_width=8)


def shapes_of(name, **settings) -> dict:
    """The paths of a network's arrays and their shapes."""
    model = models.build(name, **settings)
    side = getattr(model, "image_size", 64)
    image = jnp.zeros((1, side, side, 3))
    tree = jax.eval_shape(lambda: model.init(jax.random.key(0), image, train=False))
    return {
        "/".join(key.key for key in path): leaf.shape
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def tree_of(arrays: dict) -> dict:
    tree = {"params": {}, "batch_stats": {}}
    for path, array in arrays.items():
        *parts, leaf = path.split("/")
        node = tree
        for part in parts:
            node = node.setdefault(part, {})
        node[leaf] = array
    return tree


def random_variables(name, **settings) -> dict:
    rng = np.random.default_rng(0)
    shapes = shapes_of(name, **settings)
    return tree_of(
        {path: rng.normal(size=s).astype(np.float32) for path, s in shapes.items()}
    )


def assert_bit_equal(found: dict, expected: dict):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("name", REFERENCES | PUBLISHED)
def test_every_array_comes_out_under_its_published_name_and_shape(name):
    """All of the file, used or not: what `load_state_dict(strict=True)` asks for."""
    settings = {"num_classes": 1000} if name in PUBLISHED else {}
    # Views of one zero: no network of this size is made.
    zeros = {
        path: np.broadcast_to(np.float32(0), shape)
        for path, shape in shapes_of(name, **settings).items()
    }
    exported = weights.to_torch(name, tree_of(zeros))
    _, about = golden.load((REFERENCES | PUBLISHED)[name])
    expected = {key: tuple(shape) for key, shape in about["params"]}
    assert {key: array.shape for key, array in exported.items()} == expected


# Of one family the smallest will do; published names cover the others' above.
ENCODERS = [
    pytest.param(name, marks=pytest.mark.slow)
    if name in ("resnet50", "resnet50_deep", "resnet101")
    else name
    for name in sorted(models.ENCODERS.keys() - {"tiny"})
]


@pytest.mark.parametrize("name", ["mvssnet", *ENCODERS])
def test_names_and_layouts_of_every_encoder_go_there_and_back(name):
    settings = {} if name in REFERENCES else {"encoder": name}
    model = models.build(name if name in REFERENCES else "sdfl", **settings)
    if name in REFERENCES:
        shapes = shapes_of(name)
    else:
        encoder, image = models.ENCODERS[name](), jnp.zeros((1, 64, 64, 3))
        init = lambda: encoder.init(jax.random.key(0), image, train=False)
        shapes = {
            "/".join([path[0].key, "encoder", *(key.key for key in path[1:])]): x.shape
            for path, x in jax.tree_util.tree_leaves_with_path(jax.eval_shape(init))
        }
    rng = np.random.default_rng(0)
    for path, shape in shapes.items():
        # As many axes, but short ones; no two alike.
        sizes = shape if path == "params/bayar_conv/kernel" else (2, 3, 4, 5)
        array = rng.normal(size=sizes[: len(shape)]).astype(np.float32)
        turned = foreign.to_torch_layout(path, array)
        name = torch_names.name_of(path, turned.ndim, model)
        assert "/" not in name, path
        assert torch_names.path_of(name, turned.ndim, model) == path
        np.testing.assert_array_equal(foreign.to_our_layout(path, turned), array)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("sdfl", SMALL),
        ("sdfl", SMALL | {"encoder": "resnet18"}),
        ("upernet", SMALL | {"label_input": "pyramid+mask"}),
        ("unet", {"widths": (4, 8, 8)}),
        ("simplenet", {"image_size": 50}),
        ("classifier", {"encoder": "tiny", "hidden": (6, 4)}),
    ],
    ids=str,
)
def test_exported_arrays_come_back_bit_equal(tmp_path, name, settings):
    variables = random_variables(name, **settings)
    path = tmp_path / "w.safetensors"
    weights.write_safetensors(path, weights.to_torch(name, variables, **settings))
    found = weights.from_torch(name, weights.read_weights(path), **settings)
    assert_bit_equal(found, variables)


@pytest.mark.slow
@pytest.mark.parametrize("name", REFERENCES)
def test_all_that_the_reference_uses_comes_back_bit_equal(name):
    """At full size, from a file of the reference's names."""
    _, about = golden.load(REFERENCES[name])
    state_dict = golden.state_dict(about)
    exported = weights.to_torch(name, weights.from_torch(name, state_dict))
    assert exported.keys() == state_dict.keys()
    for key, array in state_dict.items():
        if torch_names.path_of(key, array.ndim, models.build(name)) is None:
            assert key.endswith(("_iter", "_mean", "_var")) or not exported[key].any()
        elif not weights.BOOKKEEPING.search(key):
            np.testing.assert_array_equal(exported[key], array, err_msg=key)


def test_sums_of_the_references_batch_norm_agree_with_its_statistics():
    exported = weights.to_torch("sdfl", random_variables("sdfl", **SMALL))
    layer = "decoder.ppm_last_conv.1"
    for leaf in ("mean", "var"):
        sums, weight = (
            exported[f"{layer}._tmp_running_{leaf}"],
            exported[f"{layer}._running_iter"],
        )
        np.testing.assert_array_equal(
            sums / weight, exported[f"{layer}.running_{leaf}"]
        )
    assert not exported["decoder.fpn_out.1.0.0.weight"].any()


def test_layers_that_no_result_depends_on_are_named():
    exported = weights.to_torch("upernet", random_variables("upernet", **SMALL))
    wrapped = {f"module.{name}": a for name, a in exported.items()}
    assert weights.unused(wrapped, models.build("upernet")) == [
        "decoder.conv_fusion.0",
        "decoder.conv_fusion.1",
        "decoder.fpn_out.1.0.0",
        "decoder.fpn_out.1.0.1",
        "decoder.fpn_out.2.0.0",
        "decoder.fpn_out.2.0.1",
    ]


def test_pytorch_takes_the_export_strictly(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    # Torchvision's wheel imports on the CPU build of torch but for this.
    registrations = types.ModuleType("torchvision._meta_registrations")
    monkeypatch.setitem(sys.modules, registrations.__name__, registrations)
    torchvision = pytest.importorskip("torchvision")
    variables = random_variables("resnet50", num_classes=10)
    path = tmp_path / "w.safetensors"
    weights.write_safetensors(path, weights.to_torch("resnet50", variables))
    arrays = {k: torch.tensor(v) for k, v in weights.read_weights(path).items()}
    theirs = torchvision.models.resnet50(num_classes=10)
    theirs.load_state_dict(arrays, strict=True)
    back = {k: v.numpy() for k, v in theirs.state_dict().items()}
    assert_bit_equal(weights.from_torch("resnet50", back, num_classes=10), variables)


# --------------------------------------------------------------------- keeping parts


def test_parts_asked_for_by_pattern_stay_the_networks_own():
    variables = random_variables("upernet", **SMALL)
    state_dict = weights.to_torch("upernet", variables)
    state_dict["decoder.cls_head.2.weight"] = np.zeros((7, 8, 1, 1), np.float32)
    del state_dict["decoder.cls_head.0.0.weight"]
    with pytest.raises(InputError) as error:
        weights.from_torch("upernet", state_dict, **SMALL)
    assert [line.strip() for line in str(error.value).splitlines()[1:]] == [
        "1 missing:",
        "- params/label_head/block/conv/kernel",
        "1 of another shape:",
        "~ params/label_head/out/kernel: given (1, 1, 8, 7), network (1, 1, 8, 1)",
    ]
    found = weights.from_torch("upernet", state_dict, keep=["label_head/*"], **SMALL)
    for kind, tree in found.items():
        for part in tree.keys() - {"label_head"}:
            assert_bit_equal(tree[part], variables[kind][part])
    fresh = found["params"]["label_head"]
    assert 0 < np.std(fresh["block"]["conv"]["kernel"]) < 1  # drawn
    np.testing.assert_array_equal(fresh["block"]["bn"]["scale"], 1)
    np.testing.assert_array_equal(
        found["batch_stats"]["label_head"]["block"]["bn"]["var"], 1
    )
    with pytest.raises(
        InputError, match="keeping: nothing .* 'labl_head/.'; its parts"
    ):
        weights.from_torch("upernet", state_dict, keep=["labl_head/*"], **SMALL)


def test_merging_takes_all_but_what_is_kept():
    given = {
        "params": {"a": {"w": np.ones(2)}, "b": {"w": np.ones(3)}},
        "batch_stats": {},
    }
    fresh = {"params": {"a": {"w": np.zeros(2)}, "b": {"w": np.zeros(4)}}}
    fresh["batch_stats"] = {"b": {"mean": np.zeros(4)}}
    with pytest.raises(InputError) as error:
        matching.merge("X", given, fresh)
    assert "- batch_stats/b/mean" in str(error.value)
    assert "~ params/b/w: given (3,), network (4,)" in str(error.value)
    merged = matching.merge("X", given, fresh, ["b/*"])
    np.testing.assert_array_equal(merged["params"]["a"]["w"], 1)
    np.testing.assert_array_equal(merged["params"]["b"]["w"], np.zeros(4))
    assert merged["batch_stats"] == fresh["batch_stats"]


# ----------------------------------------------------------------------- the command

SET = [f"--set={key}={value}" for key, value in (SMALL | {"bins": (1,)}).items()]


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    """A weight file, and the working directory that the command made of it."""
    folder = tmp_path_factory.mktemp("imported")
    variables = random_variables("upernet", **SMALL, bins=(1,))
    positive = lambda path, x: np.abs(x) if path[-1].key == "var" else x
    variables = jax.tree_util.tree_map_with_path(positive, variables)
    path = folder / "reference.safetensors"
    weights.write_safetensors(path, weights.to_torch("upernet", variables))
    workdir = folder / "run"
    arguments = ["--model=upernet", f"--weights={path}", f"--workdir={workdir}"]
    command.main([*arguments, f"--image_size={tiny.SIDE}", *SET])
    return path, workdir, variables


def test_what_the_command_wrote_is_read_as_a_run_of_ours(imported):
    _, workdir, variables = imported
    trained = checkpoint.load(workdir)
    assert_bit_equal(jax.device_get(trained.variables), variables)
    assert trained.config.image_size == tiny.SIDE


def test_the_command_exports_what_it_read(imported, tmp_path, capsys):
    path, workdir, _ = imported
    again = tmp_path / "again.safetensors"
    command.main([f"--workdir={workdir}", f"--export={again}"])
    arrays = weights.read_weights(path)
    assert capsys.readouterr().out == f"{again}: {len(arrays)} arrays.\n"
    assert_bit_equal(weights.read_weights(again), arrays)


@pytest.mark.slow
def test_evaluate_predict_and_main_take_it_as_their_own(imported, tmp_path, capsys):
    _, workdir, variables = imported
    shards = tiny.write_shards(tmp_path / "data", 8)
    evaluate_command.main(
        [f"--workdir={workdir}", f"--data={shards}", f"--out={tmp_path / 'report'}"]
    )
    assert json.loads((tmp_path / "report/metrics.json").read_text())["standard"]
    capsys.readouterr()
    images = str(tmp_path / "data/images")
    predict_command.main(
        [f"--workdir={workdir}", f"--out={tmp_path / 'predicted'}", images]
    )
    said = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(said) == 12 and all(0 <= line["score"] <= 1 for line in said)
    config = tiny.config(
        shards,
        shards,
        total_steps=1,
        init_from=str(workdir),
        optimizer={"name": "sgd", "lr": 1e-12, "weight_decay": 0.0},
    )
    state = train(config, str(tmp_path / "run"))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
        jax.device_get(state.params),
        variables["params"],
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--workdir=x"], "Give --weights=FILE to read, --export=FILE"),
        (["--workdir=x", "--weights=w.pth"], "--model is missing; there are"),
        (["--workdir=x", "--weights=w.pth", "--model=sdlf"], "no weight file w.pth"),
        (["--workdir=x", "--export=w.npz"], "ends in .safetensors"),
        (["--workdir=nowhere", "--export=w.safetensors"], "no config.json there"),
    ],
)
def test_the_command_tells_mistakes_in_one_line(arguments, told, capsys):
    with pytest.raises(SystemExit) as error:
        command.main(arguments)
    assert error.value.code == 2
    said = capsys.readouterr().err
    assert told in said and len(said.splitlines()) == 1


def test_a_training_run_is_never_overwritten(imported, tmp_path, capsys):
    path, _, _ = imported
    (tmp_path / "config.json").write_text("{}")
    arguments = ["--model=upernet", f"--weights={path}", f"--workdir={tmp_path}"]
    with pytest.raises(SystemExit):
        command.main([*arguments, *SET])
    assert "holds something else" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["config.json"]


def test_a_network_whose_answers_are_no_numbers_is_not_written_for_others():
    variables = jax.tree.map(
        lambda x: jnp.full_like(x, jnp.nan), random_variables("sdfl", **SMALL)
    )
    model = models.build("sdfl", **SMALL)
    with pytest.raises(InputError, match="no numbers .*; nothing was written"):
        subject.of_model(model, variables, (1, 64, 64, 3), {"network": "sdfl"})


@pytest.mark.parametrize("bad", [0, 1])
def test_no_number_is_the_worst_difference(bad):
    images = [np.full((1, 8, 8, 3), value, np.uint8) for value in (0, 1)]
    one = {"score": np.ones(1, np.float32)}
    examples = [
        (name, {"image": image}, one)
        for name, image in zip(("black", "grey"), images, strict=True)
    ]
    inputs = {"image": jax.ShapeDtypeStruct((1, 8, 8, 3), np.uint8)}
    made = subject.Subject(None, lambda image: one, inputs, {"network": "x"}, examples)
    wrong = lambda given: np.nan if given["image"].any() == bad else 1.0
    assert made.difference(lambda given: one) == 0
    with pytest.raises(InputError, match="differs from JAX by inf"):
        made.difference(lambda given: {"score": np.array([wrong(given)])})

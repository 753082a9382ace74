"""Explanations: gradients against differences, Grad-CAM against PyTorch."""

import csv
import json

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from sdfl_jax import explain, models
from sdfl_jax.errors import InputError
from sdfl_jax.explain import __main__ as command
from sdfl_jax.explain import sheets
from sdfl_jax.models.layers import Conv
from sdfl_jax.models.watch import origin, shapes, watch
from tests import golden, tiny


class Stage(nn.Module):
    features: int

    @nn.compact
    def __call__(self, x):
        return nn.relu(Conv(self.features, 3, 2, use_bias=True, name="conv")(x))


class TwoStages(nn.Module):
    @nn.compact
    def __call__(self, x):
        x = Stage(6, name="stage0")(x)
        return [x, Stage(8, name="stage1")(x)]


class TwoClasses(nn.Module):
    """A network that is written down in PyTorch below."""

    one_logit: bool = False

    @nn.compact
    def __call__(self, image, *, train):
        *_, x = TwoStages(name="encoder")(image)
        logits = nn.Dense(2, name="fc")(jnp.mean(x, axis=(1, 2)))
        return models.Outputs(
            mask_logits=None,
            label_logits=logits[:, 1] - logits[:, 0],
            class_logits=None if self.one_logit else logits,
        )


def torch_explanations(weights: dict, image: jax.Array) -> dict[str, np.ndarray]:
    """Grad-CAM by hooks and input gradients, as PyTorch's users write them."""
    torch = pytest.importorskip("torch")
    relu, size = torch.nn.functional.relu, image.shape[1:3]
    w = {name: torch.from_numpy(a) for name, a in weights.items()}
    x = torch.from_numpy(np.array(image)).permute(0, 3, 1, 2).requires_grad_()
    conv = lambda x, name: torch.nn.functional.conv2d(
        x, w[f"{name}.weight"], w[f"{name}.bias"], stride=2, padding=1
    )
    first = relu(conv(x, "conv0"))
    last = relu(conv(first, "conv1"))
    logits = last.mean((2, 3)) @ w["fc.weight"].T + w["fc.bias"]
    found = {"logits": logits.detach().numpy()}
    for label in (0, 1):
        total = logits[:, label].sum()
        by_image, by_first, by_last = torch.autograd.grad(
            total, (x, first, last), retain_graph=True
        )
        found[f"saliency{label}"] = by_image.abs().amax(1).numpy()
        for name, maps, by_map in (
            ("level0", first, by_first),
            ("level1", last, by_last),
        ):
            cam = relu((by_map.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True))
            cam = torch.nn.functional.interpolate(cam, size, mode="bilinear")[:, 0]
            cam = cam / cam.amax((1, 2), keepdim=True).clamp_min(1e-12)
            found[f"{name}_cam{label}"] = cam.detach().numpy()
    return found


def two_classes() -> tuple[dict, dict, jax.Array]:
    """PyTorch's weights, the same as variables, and an image."""
    shapes = {
        "conv0.weight": (6, 3, 3, 3),
        "conv0.bias": (6,),
        "conv1.weight": (8, 6, 3, 3),
        "conv1.bias": (8,),
        "fc.weight": (2, 8),
        "fc.bias": (2,),
    }
    weights = golden.state_dict({"params": list(shapes.items())})
    conv = lambda name: {
        "kernel": weights[f"{name}.weight"].transpose(2, 3, 1, 0),
        "bias": weights[f"{name}.bias"],
    }
    fc = {"kernel": weights["fc.weight"].T, "bias": weights["fc.bias"]}
    encoder = {f"stage{i}": {"conv": conv(f"conv{i}")} for i in (0, 1)}
    image = np.random.default_rng(0).random((2, 20, 28, 3), np.float32)
    # Brighter at the left, so that an image has more than noise to tell.
    image = (image * np.linspace(1, 0.2, 28, dtype=np.float32)[:, None]).astype("f4")
    variables = {"params": {"encoder": encoder, "fc": fc}}
    return weights, jax.tree.map(jnp.asarray, variables), jnp.asarray(image)


@pytest.fixture(scope="module")
def network():
    """A small `sdfl` with both encoders, its variables and two images."""
    settings = tiny.config("", "").model.to_dict() | {"noise_branch": True}
    model = models.build(**settings)
    image = jax.random.uniform(jax.random.key(1), (2, 64, 64, 3))
    init = jax.jit(lambda rng: model.init(rng, image, train=False))
    return model, init(jax.random.key(0)), image


@pytest.mark.parametrize("live", [False, True], ids=["golden", "live"])
def test_grad_cam_and_saliency_equal_pytorch(live):
    weights, variables, image = two_classes()
    known = torch_explanations(weights, image) if live else golden.load("grad_cam")[0]
    model = TwoClasses()

    @jax.jit
    def ours(variables, image):
        outputs = model.apply(variables, image, train=False)
        given = (model, variables, image)
        found = {"logits": outputs.class_logits}
        for label in (0, 1):
            found[f"saliency{label}"] = explain.saliency(*given, label)
            found[f"level1_cam{label}"] = explain.grad_cam(*given, label=label)
            found[f"level0_cam{label}"] = explain.grad_cam(
                *given, "encoder/map0", label
            )
        return found

    found = ours(variables, image)
    assert set(found) == set(known)
    for name, array in known.items():
        golden.assert_close(found[name], array, 1e-5, name)


def test_saliency_equals_finite_differences(network):
    model, variables, image = network
    label = jnp.array([1, 0])
    score = jax.jit(
        lambda x: explain.class_score(model.apply(variables, x, train=False), label)
    )
    found = jax.jit(lambda x: explain.saliency(model, variables, x, label))(image)
    rng, step = np.random.default_rng(0), 2e-2
    for i in range(2):
        strongest = np.argsort(np.asarray(found[i]).ravel())[-400:]
        slopes = []
        for place in rng.choice(strongest, 12, replace=False):
            y, x = divmod(int(place), image.shape[2])
            by_channel = [
                score(image.at[i, y, x, channel].add(step))[i]
                - score(image.at[i, y, x, channel].add(-step))[i]
                for channel in range(3)
            ]
            slopes.append((np.abs(by_channel).max() / (2 * step), found[i, y, x]))
        differences, gradients = np.array(slopes).T
        # A step that crosses a kink of a ReLU goes astray; most do not.
        error = np.abs(differences - gradients) / gradients
        assert np.median(error) < 0.01 and np.quantile(error, 0.75) < 0.1


def test_integrated_gradients_add_up_to_the_difference_of_scores():
    _, variables, image = two_classes()
    model = TwoClasses()
    score = lambda x: model.apply(variables, x, train=False).class_logits[:, 1]
    for baseline in (None, jnp.full_like(image, 0.5)):
        found = jax.jit(
            lambda x, b=baseline: explain.integrated_gradients(
                model, variables, x, baseline=b, steps=256
            )
        )(image)
        start = jnp.zeros_like(image) if baseline is None else baseline
        difference = score(image) - score(start)
        assert np.all(np.abs(difference) > 1e-2)
        np.testing.assert_allclose(found.sum((1, 2, 3)), difference, rtol=5e-3)


def test_one_logit_explains_the_authentic_class_by_its_opposite():
    _, variables, image = two_classes()
    values = jax.jit(
        lambda x: [
            explain.integrated_gradients(TwoClasses(True), variables, x, label, steps=1)
            for label in (0, 1, jnp.array([0, 1]))
        ]
    )(image)
    assert np.any(values[0])
    np.testing.assert_array_equal(values[0], -values[1])
    np.testing.assert_array_equal(values[2][1], values[1][1])


def test_watching_changes_nothing_and_sees_noise_and_mask(network):
    model, variables, image = network
    keep = ["bayar_conv", "mask_head"]

    @jax.jit
    def both(image):
        plain = model.apply(variables, image, train=False)
        return plain, *watch(model, variables, image, keep)

    plain, outputs, maps = both(image)
    np.testing.assert_allclose(outputs.mask_logits, plain.mask_logits, atol=1e-6)
    there = shapes(model, variables, image.shape)
    assert {name: x.shape for name, x in maps.items()} == {n: there[n] for n in keep}
    small = jax.image.resize(maps["mask_head"], plain.mask_logits.shape, "bilinear")
    np.testing.assert_allclose(small, plain.mask_logits, rtol=1e-5, atol=1e-6)
    grey = models.layers.grey(image)
    kernel = variables["params"]["bayar_conv"]["kernel"]
    noise = models.bayar.constrained_conv(grey, models.bayar.normalise(kernel))
    np.testing.assert_allclose(maps["bayar_conv"], noise, atol=1e-6)


def test_a_perturbation_is_added_before_the_next_layer():
    _, variables, image = two_classes()
    model, perturbation = TwoClasses(), jnp.ones((2, 5, 7, 8))
    plain, maps = watch(model, variables, image, keep=["encoder/map1"])
    perturbed, after = watch(
        model,
        variables,
        image,
        keep=["encoder/map1"],
        perturbations={"encoder/map1": perturbation},
    )
    np.testing.assert_allclose(
        after["encoder/map1"], maps["encoder/map1"] + 1, rtol=1e-6
    )
    expected = variables["params"]["fc"]["kernel"].sum(axis=0)
    difference = perturbed.class_logits - plain.class_logits
    np.testing.assert_allclose(difference, [expected, expected], rtol=1e-4)


def test_a_stage_is_perturbed_where_the_next_one_sees_it():
    _, variables, image = two_classes()
    given = (TwoClasses(), variables, image.shape)
    assert origin(*given, "encoder/map0") == "encoder/stage0"
    assert origin(*given, "encoder/stage1/conv") == "encoder/stage1/conv"


def test_blocks_that_are_recomputed_are_seen_as_well():
    found = []
    for remat in (False, True):
        model = models.build(
            "upernet", encoder="resnet18", width=8, pyramid_width=8, remat=remat
        )
        image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
        key = jax.random.key(0)
        init = lambda rng, x, m=model: m.init(rng, x, train=False)
        variables = jax.eval_shape(init, key, image)
        given = (model, variables, image.shape)
        found.append((shapes(*given), origin(*given, "encoder/map1")))
    assert found[0] == found[1] and found[0][1] == "encoder/layer2_1"


def test_an_unknown_layer_is_refused_with_the_nearest(network):
    with pytest.raises(InputError, match="No layer .*did you mean 'encoder/map1'"):
        explain.grad_cam(*network, layer="encoder/mop1")


def test_the_default_layer_is_the_last_stage_of_the_encoder():
    assert explain.default_layer({"encoder/map0": (1, 8, 8, 4)}) == "encoder/map0"
    there = {
        "down": (1, 8, 8, 4),
        "bottom": (1, 4, 4, 8),
        "pooled": (1, 1, 1, 8),
        "up": (1, 8, 8, 4),
    }
    assert explain.default_layer(there) == "bottom"


def test_saved_maps_keep_signs_and_scales():
    plane = np.array([[0, 0.5], [1, -2]], np.float32)
    assert sheets.saved("integrated_gradients", plane).tolist() == [
        [128, 160],
        [192, 1],
    ]
    assert sheets.saved("grad_cam", plane).tolist() == [[0, 64], [128, 0]]
    assert sheets.saved("mask", plane).tolist() == [[0, 128], [255, 0]]
    assert not sheets.saved("saliency", np.zeros((2, 2))).any()


SIZES = ((40, 56), (70, 33))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny.write_run(tmp_path_factory.mktemp("run"), data__geometry="crop")


def test_the_command_explains_a_list_by_its_true_classes(workdir, tmp_path, capsys):
    paths = tiny.write_images(tmp_path / "photos", 4, sizes=SIZES)
    out = tmp_path / "out"
    options = [
        f"--workdir={workdir}",
        "--layers=image,encoder/map0",
        "--steps=2",
        "--max_side=64",
    ]
    command.main([*options, f"--out={out}", f"--paths_file={paths}"])
    lines = [json.loads(x) for x in capsys.readouterr().out.splitlines()]
    assert {x["image"]: x["label"] for x in lines} == {
        f"{i}.png": ("authentic", "manipulated")[i % 2] for i in range(4)
    }
    assert all(x["explained"] == x["label"] for x in lines)
    with (out / "explain.csv").open() as file:
        assert [row["image"] for row in csv.DictReader(file)] == [
            x["image"] for x in lines
        ]
    for method in command.METHODS:
        for i in range(4):
            plane = cv2.imread(str(out / method / f"{i}.png"), cv2.IMREAD_UNCHANGED)
            assert plane.shape == SIZES[i % 2] and plane.std() > 0
    files = {str(p.relative_to(out)) for p in out.rglob("*.png")}
    assert files >= {"mean_authentic.png", "mean_layers_manipulated.png"}
    assert files >= {f"{kind}/3.png" for kind in ("pictures", "layers")}


def test_networks_of_coefficients_are_explained_by_their_pixels(
    tmp_path, monkeypatch, capsys
):
    workdir = tiny.write_run_of_coefficients(tmp_path / "run", monkeypatch)
    tiny.write_images(tmp_path / "photos", 2, sizes=SIZES)
    words = [f"--workdir={workdir}", f"--out={tmp_path / 'out'}", "--layers=first"]
    command.main([*words, "--steps=2", str(tmp_path / "photos")])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len(lines) >= 2
    for line in lines:
        assert cv2.imread(line["picture"]) is not None
        assert cv2.imread(line["layers"]) is not None
    map_ = cv2.imread(str(tmp_path / "out" / "saliency" / "0.png"))
    assert map_.any()


def test_files_are_explained_by_the_class_they_are_called(workdir, tmp_path, capsys):
    tiny.write_images(tmp_path / "photos", 1, sizes=SIZES)
    (tmp_path / "photos" / "broken.png").write_text("no picture")
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stopped:
        command.main(
            [
                f"--workdir={workdir}",
                f"--out={out}",
                "--methods=saliency",
                str(tmp_path / "photos"),
            ]
        )
    assert stopped.value.code == 1
    printed = capsys.readouterr()
    (line,) = map(json.loads, printed.out.splitlines())
    assert line["label"] is None and line["explained"] == line["called"]
    assert line["called"] == ("manipulated" if line["score"] > 0.5 else "authentic")
    assert "broken.png" in printed.err and not (out / "grad_cam").exists()


def test_the_command_refuses_in_one_line(workdir, tmp_path, capsys):
    def error(*options):
        with pytest.raises(SystemExit) as stopped:
            command.main([f"--workdir={workdir}", f"--out={tmp_path}", *options])
        assert stopped.value.code == 2
        text = capsys.readouterr().err.strip()
        assert len(text.splitlines()) == 1, text
        return text

    photo = tmp_path / "0.png"
    tiny.write_images(tmp_path, 1)
    assert "one of them" in error()
    assert "one of them" in error(str(photo), "--data=shards")
    assert "did you mean 'encoder/map0'" in error(str(photo), "--layers=encoder/mop0")
    assert "No method 'salience'" in error(str(photo), "--methods=salience")
    assert "No layer 'x'" in error(str(photo), "--cam_layer=x")


def test_layers_are_listed(workdir, capsys):
    command.main([f"--workdir={workdir}", "--list_layers"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "image  32x32x3" and "encoder/map0  8x8x8" in lines

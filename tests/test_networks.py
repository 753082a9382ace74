"""The study's other networks and encoders, against golden values and by their words."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from sdfl_jax import models, weights
from sdfl_jax.errors import InputError
from sdfl_jax.models.classifier import of_classes
from sdfl_jax.models.encoders import convnext, densenet
from sdfl_jax.weights import torch_names
from tests import golden
from tests.test_models import apply_train, filled, loss_terms, shapes

# ------------------------------------------------------------------- MVSS-Net


class MvssNet:
    """The golden network: its weights by rule, and what it was seen to do."""

    def __init__(self):
        self.golden, self.about = golden.load("mvssnet_a")
        self.model = models.build("mvssnet", dropout=0.0)
        self.variables = weights.from_torch("mvssnet", golden.state_dict(self.about))

    def train(self):
        arrays = self.golden

        def loss(params, batch_stats, image):
            variables = {"params": params, "batch_stats": batch_stats}
            outputs, updated = apply_train(self.model, variables, image)
            # The reference feeds a probability to its with-logits loss.
            fed = outputs.replace(label_logits=outputs.label_loss_input)
            dice, bce = loss_terms(fed, arrays["mask"], arrays["label"])
            edge, _ = loss_terms(
                outputs.replace(mask_logits=outputs.edge_logits),
                arrays["edge"],
                arrays["label"],
            )
            total = 0.16 * dice + 0.04 * bce + 0.80 * edge
            return total, (outputs, dice, bce, edge, updated)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(
            self.variables["params"], self.variables["batch_stats"], arrays["image"]
        )

    def at(self, tree: dict, name: str):
        flat = traverse_util.flatten_dict(tree, sep="/")
        ndim = len(dict(self.about["params"])[name])
        return flat[torch_names.path_of(name, ndim, self.model)]


@pytest.fixture(scope="module")
def mvssnet():
    return MvssNet()


def check_maps(outputs, arrays, mode: str, tolerance: float):
    for name in ("mask_logits", "edge_logits"):
        expected = arrays[f"{mode}_{name}"]
        golden.assert_close(getattr(outputs, name), expected, tolerance, name)


def test_mvssnet_equals_the_reference_in_eval_mode(mvssnet):
    apply = jax.jit(lambda v, x: mvssnet.model.apply(v, x, train=False))
    outputs = apply(mvssnet.variables, mvssnet.golden["image"])
    check_maps(outputs, mvssnet.golden, "eval", 1e-4)
    highest = jax.nn.sigmoid(mvssnet.golden["eval_mask_logits"]).max((1, 2, 3))
    golden.assert_close(outputs.image_score(), highest, 1e-4)
    golden.assert_close(jax.nn.sigmoid(outputs.label_logits), highest, 1e-4)


@pytest.mark.slow
def test_mvssnet_equals_the_reference_in_train_mode(mvssnet):
    arrays = mvssnet.golden
    (loss, (outputs, dice, bce, edge, updated)), grads = mvssnet.train()
    check_maps(outputs, arrays, "train", 1e-3)
    golden.assert_close(loss, arrays["loss"], 1e-4)
    golden.assert_close(dice, arrays["loss_seg"], 1e-4)
    golden.assert_close(bce, arrays["loss_clf"], 1e-4)
    golden.assert_close(edge, arrays["loss_edge"], 1e-4)
    for name, expected in zip(
        mvssnet.about["grad_norm_names"], arrays["grad_norms"], strict=True
    ):
        # Zero but for rounding: a bias before a batch norm, or added to all of what a
        # softmax compares.
        if name.endswith((".conv2.bias", "pam.conv_c.bias")):
            continue
        norm = np.linalg.norm(mvssnet.at({"params": grads}, name))
        golden.assert_close(norm, expected, 1e-2, name)
    for name, expected in arrays.items():
        if name.startswith("bn_after_step/"):
            actual = mvssnet.at(updated, name.removeprefix("bn_after_step/"))
            golden.assert_close(actual, expected, 1e-4, name)


# -------------------------------------------------------- image-level networks


@pytest.mark.parametrize(
    ("name", "file"),
    [
        pytest.param(
            "densenet121", "densenet121_torchvision_a", marks=pytest.mark.slow
        ),
        pytest.param("resnet50", "resnet50_torchvision_a", marks=pytest.mark.slow),
        ("xception", "xception_timm_a"),
    ],
)
def test_classes_equal_another_implementation(name, file):
    arrays, about = golden.load(file)
    model = models.build(name, num_classes=1000)
    variables = weights.from_torch(name, golden.state_dict(about), num_classes=1000)
    outputs = jax.jit(lambda v, x: model.apply(v, x, train=False))(
        variables, arrays["image"]
    )
    golden.assert_close(outputs.class_logits, arrays["logits"], 1e-4)
    assert outputs.mask_logits is None


def count(name: str, **settings) -> int:
    return sum(
        leaf.size for leaf in jax.tree.leaves(shapes(name, **settings)["params"])
    )


def test_networks_have_as_many_parameters_as_published():
    assert count("xception", num_classes=1000) == 22_855_952
    assert count("xception") == 22_855_952 + 272_834
    _, about = golden.load("mvssnet_a")
    unused = sum(
        np.prod(shape)
        for name, shape in about["params"]
        if torch_names.path_of(name, len(shape), models.build("mvssnet")) is None
    )
    kernels = 2 * 9 * (256 + 512 + 1024 + 2048)  # Sobel's, kept with the statistics
    assert round((count("mvssnet") + unused + kernels) / 1e6, 1) == 146.9


@pytest.mark.parametrize("width", [0, 1])
def test_simplenet_reads_images_of_its_own_size(width):
    model = models.build("simplenet", image_size=64)
    image = jax.ShapeDtypeStruct((2, 64, 64 + width, 3), jnp.float32)
    init = lambda x: model.init_with_output(jax.random.key(0), x, train=False)
    if width:
        with pytest.raises(InputError, match="reads images of 64x64, not 64x65"):
            jax.eval_shape(init, image)
        return
    outputs, variables = jax.eval_shape(init, image)
    assert outputs.mask_logits is None and outputs.class_logits.shape == (2, 2)
    assert variables["params"]["dense1"]["kernel"].shape == (24 * 2 * 2, 1024)


def test_two_classes_give_the_label_by_their_difference():
    outputs = of_classes(jnp.array([[1.0, 3.0], [2.0, -1.0]]))
    np.testing.assert_array_equal(outputs.label_logits, [2.0, -3.0])
    np.testing.assert_allclose(
        outputs.image_score(), jax.nn.softmax(outputs.class_logits)[:, 1], rtol=1e-6
    )


def test_a_head_that_tells_one_class_is_refused():
    for name in ("simplenet", "densenet121"):
        with pytest.raises(InputError, match="num_classes=1: there are two or more"):
            models.build(name, num_classes=1)


# ----------------------------------------------------------------------- U-Net


def test_unet_drops_features_in_training_alone_and_takes_odd_sizes():
    model = models.build("unet", widths=(4, 8, 16))
    image = jax.random.uniform(jax.random.key(0), (2, 19, 22, 3))
    variables = jax.tree.map(jnp.asarray, filled(shapes("unet", widths=(4, 8, 16))))
    train = jax.jit(
        lambda key: model.apply(
            variables, image, train=True, mutable=["batch_stats"], rngs={"dropout": key}
        )[0]
    )
    first, second = (train(jax.random.key(i)).mask_logits for i in range(2))
    assert first.shape == (2, 19, 22, 1) and np.any(first != second)
    outputs = jax.jit(lambda x: model.apply(variables, x, train=False))(image)
    np.testing.assert_array_equal(
        outputs.label_logits, outputs.mask_logits.max((1, 2, 3))
    )


# -------------------------------------------------------------------- encoders

# Without those of test_models, and of a depth that changes nothing.
ENCODERS = set(models.ENCODERS) - {"resnet18", "resnet50_deep", "resnet101"}
ENCODERS -= {name for name in ENCODERS if "base" in name or "large" in name}
ENCODERS -= {"mit_b1", "mit_b3", "mit_b4", "mit_b5"}


@pytest.mark.parametrize(
    ("network", "name"),
    [("sdfl", "xception"), *(("upernet", name) for name in sorted(ENCODERS))],
)
def test_sdfl_and_upernet_run_with_every_encoder(network, name):
    model = models.build(network, encoder=name, width=8, pyramid_width=8)
    outputs, variables = jax.eval_shape(
        lambda: model.init_with_output(
            jax.random.key(0),
            jnp.zeros((2, 96, 64, 3)),
            train=False,
            capture_intermediates=lambda module, _: (
                module.name in ("encoder", "feature_pyramid")
            ),
        )
    )
    assert outputs.mask_logits.shape == (2, 96, 64, 1)
    assert outputs.label_logits.shape == (2,)
    seen = variables["intermediates"]
    (maps,) = seen.get("feature_pyramid", seen["encoder"])["__call__"]
    for x, stride in zip(maps, (4, 8, 16, 32), strict=True):
        expected = np.array([96, 64]) / stride
        if "patch14" in name:  # which covers the image padded to whole patches
            expected = np.array([98, 70]) / stride * 16 / 14
        assert np.all(np.abs(np.array(x.shape[1:3]) - expected) <= 1)


def test_convnext_equals_another_implementation():
    arrays, about = golden.load("convnext_tiny")
    settings = dict(encoder="convnext_tiny", width=8, pyramid_width=8)
    encoder = models.build("upernet", **settings).encoder
    fresh = filled(shapes("upernet", **settings))
    variables = weights.fit_encoder("by rule", golden.state_dict(about), fresh)
    mean, std = np.float32(encoder.mean), np.float32(encoder.std)
    image = arrays["image"].astype(np.float32) / 255
    image = (image - mean[None, None, None]) / std[None, None, None]
    maps = jax.jit(lambda p, x: encoder.apply({"params": p}, x, train=False))(
        variables["params"]["encoder"], image
    )
    for i, x in enumerate(maps):
        golden.assert_close(x[..., ::8], arrays[f"level{i}"], 1e-4, f"level{i}")


def test_timm_and_torchvision_names_of_convnext_mean_the_same_places():
    _, about = golden.load("convnext_tiny")
    places = [
        {
            torch_names.path_of(name, len(shape), models.ENCODERS["convnext_tiny"]())
            for name, shape in about[kind]
            if not name.startswith(("classifier.", "head."))
        }
        for kind in ("params", "timm_params")
    ]
    assert places[0] == places[1] and len(places[0]) == 178


def test_older_files_of_densenet_have_the_same_places():
    name = "features.denseblock3.denselayer24.{}.running_var"
    densenet = models.ENCODERS["densenet121"]()
    places = {
        torch_names.path_of(name.format(n), 1, densenet) for n in ("norm2", "norm.2")
    }
    assert places == {"batch_stats/block3_24/norm2/var"}


@pytest.mark.parametrize(
    "encoder",
    [
        functools.partial(convnext.ConvNeXt, stages=((1, 8),) * 4),
        functools.partial(densenet.DenseNet, blocks=(1, 1, 1, 2), growth=4, stem=8),
    ],
    ids=["convnext", "densenet"],
)
def test_a_step_trains_every_parameter_of_an_encoder(encoder, monkeypatch):
    monkeypatch.setitem(models.ENCODERS, "small", encoder)
    settings = dict(encoder="small", width=8, pyramid_width=8, bins=(1, 2))
    model = models.build("upernet", **settings)
    variables = filled(shapes("upernet", **settings))
    rng = np.random.default_rng(0)
    for leaf in jax.tree.leaves(variables["params"]["encoder"]):
        leaf += rng.normal(0, 0.05, leaf.shape).astype(np.float32)
    image = jnp.asarray(rng.random((2, 64, 64, 3), np.float32))

    @jax.jit
    def grads(params):
        def loss(params):
            outputs, _ = apply_train(model, variables | {"params": params}, image)
            dice, bce = loss_terms(outputs, image[..., :1] > 0.5, jnp.ones(2))
            return dice + bce

        return jax.grad(loss)(params)

    flat = traverse_util.flatten_dict(grads(variables["params"]), sep="/")
    assert all(np.all(np.isfinite(g)) for g in flat.values())
    assert [name for name, g in flat.items() if not np.any(g)] == []

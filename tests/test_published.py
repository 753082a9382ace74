"""The field's networks against the numbers of their published code."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from sdfl_jax import losses, models, weights
from sdfl_jax.models.encoders import vit
from sdfl_jax.models.layers import BatchNorm, LayerNorm, normalised
from sdfl_jax.models.mesorch import frequency_images
from sdfl_jax.models.segformer import AllMlpHead
from sdfl_jax.models.trufor import weighted_pooling
from sdfl_jax.weights import foreign, torch_names
from tests import golden


class Case:
    """A golden network or encoder, with its weights by rule."""

    def __init__(self, file: str, model, variables=None):
        arrays, self.about = golden.load(file)
        self.golden = {name: jnp.asarray(array) for name, array in arrays.items()}
        self.state_dict = golden.state_dict(self.about)
        self.model = model
        if variables is None:
            init = lambda: model.init(
                jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False
            )
            self.variables = fitted(self.state_dict, jax.eval_shape(init), model)
        else:
            self.variables = variables(self.state_dict)
        self.variables = jax.tree.map(jnp.asarray, self.variables)

    def norms(self, grads: dict, names: list[str]) -> np.ndarray:
        """The gradients' norms under PyTorch's names; some are a half of an array."""
        flat = traverse_util.flatten_dict({"params": grads}, sep="/")
        return np.array([np.linalg.norm(self._named(flat, name)) for name in names])

    def _named(self, flat, name):
        shape = dict(self.about["params"])[name]
        if (kind := name.split(".")[-2]) in ("key", "value"):
            place = torch_names.path_of(
                name.replace(f".{kind}.", ".kv."), len(shape), self.model
            )
            return np.split(np.asarray(flat[place]), 2, axis=-1)[kind == "value"]
        return flat[torch_names.path_of(name, len(shape), self.model)]

    def check(self, found, name: str, tolerance: float = 5e-5, part=lambda x: x):
        golden.assert_close(part(np.asarray(found)), self.golden[name], tolerance, name)

    def check_norms(self, grads, key: str = "grad", tolerance: float = 1e-2):
        names = self.about[f"{key}_norm_names"]
        found, expected = self.norms(grads, names), self.golden[f"{key}_norms"]
        error = np.abs(found - expected) / expected
        worst = int(np.argmax(error))
        assert error[worst] <= tolerance, (names[worst], error[worst])


def fitted(state_dict, template, encoder):
    template = {"params": template["params"], "batch_stats": {}}
    return foreign._fit("by rule", state_dict, template, encoder)


def captured(model, variables, image, **inputs):
    """The outputs and what every module returned, by its path.

    Operation by operation: to compile one program of hundreds of layers takes longer.
    """
    outputs, seen = model.apply(
        variables,
        image,
        **inputs,
        train=False,
        capture_intermediates=True,
        mutable="intermediates",
    )
    flat = traverse_util.flatten_dict(seen["intermediates"], sep="/")
    return outputs, {path.removesuffix("/__call__"): v[0] for path, v in flat.items()}


def first(map_, step: int = 1) -> np.ndarray:
    """Of the first image every `step`-th channel."""
    return np.asarray(map_)[0, ..., ::step]


# ------------------------------------------------------------------------ encoders


@pytest.mark.parametrize(
    "name", ["vit_small_patch16_dinov3", "vit_small_patch14_dinov2"]
)
def test_vit_equals_timm(name):
    encoder = models.ENCODERS[name](blocks=(1, 12))
    case = Case(f"{name}_timm_a", encoder)
    image = normalised(case.golden["image"], encoder)
    (_, features), seen = captured(encoder, case.variables, image)
    case.check(features, "features")
    case.check(first(seen["patch_embed"]), "patch_embed")
    for i in (1, 3, 6, 9, 12):
        case.check(first(seen[f"block{i - 1}"]), f"block{i}")
    case.check(first(seen["block0/proj"]), "block0_attn")
    # Tells the norm's epsilon, which features this large hide.
    norm = LayerNorm(epsilon=encoder.eps)
    probe = norm.apply(
        {"params": case.variables["params"]["norm"]}, 0.002 * case.golden["block12"]
    )
    case.check(probe, "norm_probe", 1e-4)
    alone = models.ENCODERS[name]()
    whole = jax.eval_shape(lambda: alone.apply(case.variables, image, train=False))
    assert whole.shape == features.shape


def test_rotary_table_equals_timm():
    arrays, _ = golden.load("vit_small_patch16_dinov3_timm_a")
    for found, name in zip(vit.rotary_table(4, 6, 64), ("sin", "cos"), strict=True):
        golden.assert_close(found, arrays[f"rope_{name}"], 1e-6)


def test_places_are_resized_as_timm_does():
    arrays, about = golden.load("vit_small_patch14_dinov2_timm_a")
    table = golden.state_dict(about)["pos_embed"]
    small = vit.resized_places(jnp.asarray(table), 37, 5, 7)[0]
    golden.assert_close(small, arrays["pos_embed_resampled"], 5e-5)
    large = vit.resized_places(jnp.asarray(table), 37, 40, 44)[0, :, :4]
    golden.assert_close(large, arrays["pos_embed_up"], 5e-5)


def test_vit_pads_to_whole_patches():
    encoder = models.ENCODERS["vit_small_patch14_dinov2"]()
    init = lambda: encoder.init_with_output(
        jax.random.key(0), jnp.zeros((1, 30, 43, 3)), train=False
    )
    assert jax.eval_shape(init)[0].shape == (1, 3, 4, 384)


@pytest.mark.parametrize(
    "encoder", ["vit_small_patch16_dinov3", "vit_small_patch14_dinov2", "mit_b0"]
)
def test_transformers_serve_image_level_networks(encoder):
    model = models.build("classifier", encoder=encoder)
    init = lambda: model.init_with_output(
        jax.random.key(0), jnp.zeros((2, 56, 56, 3)), train=False
    )
    outputs, _ = jax.eval_shape(init)
    assert outputs.label_logits.shape == (2,)
    assert outputs.class_logits.shape == (2, 2)


def test_mit_equals_nvlabs():
    encoder = models.ENCODERS["mit_b2"]()
    case = Case("mit_b2_a", encoder)
    image = normalised(case.golden["image"], encoder)
    maps, seen = captured(encoder, case.variables, image)
    for i, x in enumerate(maps, 1):
        case.check(x, f"stage{i}")
    case.check(first(seen["stage1/patch_norm"], 4), "patch_embed1")
    case.check(first(seen["stage1/block0/proj"], 4), "block1_0_attn")
    case.check(first(seen["stage1/block0"], 4), "block1_0")
    case.check(first(seen["stage4/block2"]), "block4_2")
    stage = case.variables["params"]["stage4"]
    for name, eps in (("norm", 1e-6), ("patch_norm", 1e-5)):
        probe = LayerNorm(epsilon=eps).apply(
            {"params": stage[name]}, 0.002 * case.golden["block4_2"]
        )
        case.check(probe, f"norm_probe_{eps:.0e}".replace("e-0", "e-"), 1e-4)


# ------------------------------------------------------------------------ networks


def bce(logits, mask):
    return jnp.mean(optax.sigmoid_binary_cross_entropy(logits, mask))


def trained(case, loss, name: str = "loss", **inputs):
    """Terms of the loss, outputs and gradients of one step in train mode.

    Their sum and the moved statistics are checked.
    """

    def whole(params):
        outputs, updated = case.model.apply(
            case.variables | {"params": params},
            case.golden["image"],
            **inputs,
            train=True,
            mutable=["batch_stats"],
        )
        terms = loss(outputs)
        return sum(terms), (terms, outputs, updated["batch_stats"])

    (total, (terms, outputs, stats)), grads = jax.jit(
        jax.value_and_grad(whole, has_aux=True)
    )(case.variables["params"])
    case.check(total, name, 1e-4)
    flat = traverse_util.flatten_dict({"batch_stats": stats}, sep="/")
    for name, expected in case.golden.items():
        theirs = name.removeprefix("bn_after_step/")
        # Of TruFor's phases the stored ones are the second's.
        if theirs != name and getattr(case.model, "phase", 2) == 2:
            place = torch_names.path_of(theirs, 1, case.model)
            golden.assert_close(flat[place], expected, 1e-4, name)
    return terms, outputs, grads


def check_training(case, loss, *, inputs=(), tolerance: float = 1e-2):
    """Loss, statistics and gradient norms of one step; returns the gradients."""
    _, _, grads = trained(case, loss, **dict(inputs))
    case.check_norms(grads, tolerance=tolerance)
    return grads


def network(name: str, file: str, **settings) -> Case:
    model = models.build(name, **settings)
    load = lambda arrays: weights.from_torch(name, arrays, **settings)
    return Case(file, model, load)


def test_segformer_equals_transformers():
    settings = dict(encoder="mit_b2", width=768, dropout=0.0, drop_path=0.0)
    case = network("segformer", "segformer_b2_a", **settings)
    outputs, seen = captured(case.model, case.variables, case.golden["image"])
    case.check(outputs.mask_logits, "eval_mask_logits")
    case.check(seen["head/out"], "eval_mask_logits_small")
    for i, step in enumerate((4, 4, 4, 1), 1):
        case.check(first(seen[f"encoder/stage{i}"], step), f"stage{i}")
    case.check(np.maximum(first(seen["head/bn"], 16), 0), "head_fused")

    _, outputs, grads = trained(
        case, lambda o: (bce(o.mask_logits, case.golden["mask"]),)
    )
    case.check(outputs.mask_logits, "train_mask_logits", 1e-3)
    case.check_norms(grads)
    kernel = grads["encoder"]["stage1"]["block0"]["sr"]["kernel"]
    case.check(np.transpose(kernel, (3, 2, 0, 1))[:8, :8], "grad_sr0", 5e-3)


@pytest.mark.slow
def test_adapted_vit_equals_its_authors():
    settings = dict(lora_rank=4, lora_alpha=8.0)
    case = network("vit_lora", "dinov3_lora_a", **settings)
    arrays = case.golden
    outputs, seen = captured(case.model, case.variables, arrays["image"])
    case.check(outputs.mask_logits, "eval_mask_logits")
    case.check(seen["head/out"], "eval_mask_logits_small")
    case.check(first(seen["encoder"]), "features")

    edges = losses.edge_band(arrays["mask"])
    np.testing.assert_array_equal(edges, arrays["edge_mask"])

    def loss(outputs):
        given = outputs.mask_logits, arrays["mask"], jnp.ones(2, bool)
        return losses.mask_bce(*given), 20 * losses.edge_bce(*given)

    terms, outputs, grads = trained(case, loss)
    case.check(terms[0], "loss_bce", 1e-4)
    case.check(terms[1], "loss_edge", 1e-4)
    case.check(outputs.mask_logits, "train_mask_logits", 1e-3)
    case.check_norms(grads)
    # 2e-5 as a program is compiled by default. With the optimisations off, as here,
    # sums round otherwise and one unit of a ReLU goes the other way.
    blocks = grads["encoder"]
    case.check(blocks["block0"]["qkv"]["lora_a"].T, "grad_lora_A0", 1e-2)
    case.check(blocks["block11"]["qkv"]["lora_b"].T, "grad_lora_B11", 1e-2)


# --------------------------------------------------------- CAT-Net, Mesorch, TruFor


@pytest.fixture(scope="module")
def catnet():
    return network("catnet", "catnet_a")


@pytest.mark.slow
def test_catnet_equals_its_authors(catnet):
    arrays = catnet.golden
    jpeg = {"dct": jnp.asarray(arrays["dct_coef"]), "qtable": arrays["qtable"]}
    outputs, seen = captured(catnet.model, catnet.variables, arrays["image"], **jpeg)
    small = seen["out"]
    catnet.check(small, "eval_logits", 1e-4)
    large = jax.image.resize(small, (2, 96, 120, 2), "bilinear")
    golden.assert_close(outputs.mask_logits, large[..., 1:] - large[..., :1], 1e-4)
    for path, name, step in (
        ("layer1_3", "rgb_layer1", 16),
        ("dc_layer2_3", "dc_layer2", 8),
    ):
        catnet.check(first(seen[path], step), name, 1e-4)
    for path, name, branch, step in (
        ("stage4_2", "rgb0", 0, 8),
        ("stage4_2", "rgb3", 3, 16),
        ("dc_stage4_1", "dc0", 0, 8),
        ("dc_stage4_1", "dc2", 2, 16),
        ("stage5_0", "stage5_0", 0, 4),
        ("stage5_0", "stage5_3", 3, 16),
    ):
        catnet.check(first(seen[path][branch], step), name, 1e-4)


@pytest.mark.slow
def test_catnet_trains_as_its_authors(catnet):
    arrays = catnet.golden
    jpeg = {"dct": jnp.asarray(arrays["dct_coef"]), "qtable": arrays["qtable"]}
    mask = jnp.asarray(arrays["mask"], jnp.float32)[..., None]
    check_training(
        catnet,
        lambda o: (losses.weighted_bce(o.mask_logits, mask, jnp.ones(2, bool)),),
        inputs=jpeg,
        tolerance=3e-2,
    )


@pytest.fixture(scope="module")
def mesorch():
    return network("mesorch", "mesorch_a", drop_path=0.0)


@pytest.mark.slow
def test_mesorch_equals_its_authors(mesorch):
    outputs, seen = captured(mesorch.model, mesorch.variables, mesorch.golden["image"])
    mesorch.check(outputs.mask_logits, "eval_mask_logits")
    mesorch.check(first(seen["convnext/down0_1"], 8), "conv_stem")
    mesorch.check(first(seen["convnext"][0], 8), "conv1")
    mesorch.check(first(seen["convnext"][3], 4), "conv4")
    mesorch.check(first(seen["segformer/stage1"], 8), "seg1")
    mesorch.check(first(seen["segformer/stage4"], 4), "seg4")
    mesorch.check(first(seen["up_c4"], 8), "up_c4")
    mesorch.check(first(seen["up_s2"], 8), "up_s2")
    mesorch.check(first(seen["gate"]), "gate")


def test_frequencies_are_parted_as_mesorch_does(mesorch):
    x = normalised(mesorch.golden["image"], mesorch.model.convnext)
    for found, name in zip(frequency_images(x), ("high", "low"), strict=True):
        mesorch.check(first(found)[::4], name)


@pytest.mark.slow
def test_mesorch_trains_as_its_authors(mesorch):
    grads = check_training(
        mesorch, lambda o: (bce(o.mask_logits, mesorch.golden["mask"]),)
    )
    kernel = np.transpose(grads["gate"]["conv2"]["kernel"], (3, 2, 0, 1))
    mesorch.check(kernel[:, :16], "grad_gate_conv2", 1e-3)
    kernel = np.transpose(grads["mask_c1"]["kernel"], (3, 2, 0, 1))
    mesorch.check(kernel, "grad_inverse0", 1e-3)


def trufor(**settings) -> Case:
    off = dict(dropout=0.0, score_dropout=0.0, drop_path=0.0)
    return network("trufor", "trufor_a", **off, **settings)


@pytest.mark.slow
def test_trufor_equals_its_authors():
    case = trufor()
    outputs, seen = captured(case.model, case.variables, case.golden["image"])
    anomaly = case.golden["eval_anomaly_logits"]
    golden.assert_close(outputs.mask_logits, anomaly[..., 1:] - anomaly[..., :1], 5e-5)
    case.check(seen["head/out"], "eval_anomaly_logits_small")
    case.check(outputs.confidence_logits, "eval_conf_logits")
    case.check(outputs.label_logits[:, None], "eval_score_logits", 2e-4)
    case.check(seen["noise_encoder"], "np")
    case.check(first(seen["encoder/stage1"], 8), "stage1_rgb")
    case.check(first(seen["encoder/noise_stage1"], 8), "stage1_x")
    case.check(first(seen["encoder/rectify1"][0], 8), "frm1_rgb")
    case.check(first(seen["encoder/rectify1"][1], 8), "frm1_x")
    cross = first(seen["encoder/fuse1/cross"][0], 8)
    case.check(cross.reshape(-1, cross.shape[-1]), "cross1_rgb")
    for i, step in enumerate((8, 8, 8, 1), 1):
        case.check(first(seen[f"encoder/fuse{i}"], step), f"fused{i}")
    pooled = weighted_pooling(
        outputs.confidence_logits.reshape(2, -1), jnp.zeros((2, 64 * 96))
    )
    case.check(pooled, "pool_conf")
    # The other epsilon, of IMDLBenCo's copy, in the confidence's batch norm.
    maps = [seen[f"encoder/fuse{i}"] for i in range(1, 5)]
    norm = functools.partial(BatchNorm, eps=1e-5)
    head = AllMlpHead(512, 1, drop_maps=True, fuse_bias=True, norm=norm)
    part = {k: v["confidence_head"] for k, v in case.variables.items()}
    other = jax.jit(lambda v, x: head.apply(v, x, train=False))(part, maps)
    case.check(other, "eval_conf_logits_small_eps1e-5")


@pytest.mark.slow
@pytest.mark.parametrize("phase", [2, 3])
def test_trufor_trains_as_its_authors(phase):
    case = trufor(phase=phase)
    mask = jnp.asarray(case.golden["mask"], jnp.float32)[..., None]
    keep = jnp.ones(2, bool)

    def loss(outputs):
        logits = outputs.mask_logits
        if phase == 2:
            ce = losses.weighted_bce(logits, mask, keep)
            return 0.3 * ce, 0.7 * losses.dice_exact(logits, mask, keep)
        confidence = losses.confidence_mse(
            outputs.confidence_logits, logits, mask, keep
        )
        label = (jnp.sum(mask > 0, axis=(1, 2, 3)) > 3).astype(jnp.float32)
        return confidence, 0.5 * losses.label_balanced_bce(
            outputs.label_logits, label, keep
        )

    terms, outputs, grads = trained(case, loss, f"ph{phase}_loss")
    if phase == 2:
        case.check(terms[0] / 0.3, "ph2_loss_ce", 1e-4)
        case.check(terms[1] / 0.7, "ph2_loss_dice", 1e-4)
    else:
        case.check(terms[0], "ph3_loss_conf", 1e-4)
        case.check(terms[1] / 0.5, "ph3_loss_det", 1e-4)
        case.check(outputs.confidence_logits, "ph3_conf_logits", 1e-3)
        case.check(outputs.label_logits[:, None], "ph3_score_logits", 1e-3)
    case.check_norms(grads, f"ph{phase}_grad")

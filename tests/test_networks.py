"""The study's other networks and encoders, against golden values and by their words."""

import jax
import numpy as np
import pytest
from flax import traverse_util

from sdfl_jax import models, torch_names, weights
from tests import golden
from tests.test_models import apply_train, loss_terms, shapes

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
            dice, bce = loss_terms(outputs, arrays["mask"], arrays["label"])
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
        return flat[torch_names.path_of(name, ndim, "mvssnet")]


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
        ("densenet121", "densenet121_torchvision_a"),
        ("resnet50", "resnet50_torchvision_a"),
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
    assert count("densenet121", num_classes=1000) == 7_978_856
    assert count("resnet50", num_classes=1000) == 25_557_032
    _, about = golden.load("mvssnet_a")
    unused = sum(
        np.prod(shape)
        for name, shape in about["params"]
        if name.startswith(weights.UNUSED_LAYERS)
    )
    kernels = 2 * 9 * (256 + 512 + 1024 + 2048)  # Sobel's, kept with the statistics
    assert round((count("mvssnet") + unused + kernels) / 1e6, 1) == 146.9

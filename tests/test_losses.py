"""Losses: equal to the reference's, and blind to padding and unknown masks."""

import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from sdfl_jax import losses
from sdfl_jax.errors import InputError

GOLDEN = Path(__file__).parent / "golden"
WEIGHTS = {"mask": 0.16, "label": 0.04, "edge": 0.0}
DICE = sorted(losses.DICE)
CASES = {f"dice {name}": {"dice": name} for name in DICE}
CASES |= {name: {"mask_losses": (name,)} for name in ("focal", "iou", "lovasz")}


def make(seed=0, b=4, side=5):
    """Outputs of a network and a batch, the first half of it manipulated."""
    rng = np.random.default_rng(seed)
    label = np.arange(b) < (b + 1) // 2
    mask = (rng.random((b, side, side, 1)) < 0.4) * label[:, None, None, None]
    outputs = types.SimpleNamespace(
        mask_logits=jnp.asarray(rng.normal(0, 3, (b, side, side, 1)), jnp.float32),
        label_logits=jnp.asarray(rng.normal(0, 3, b), jnp.float32),
    )
    batch = {
        "mask": jnp.asarray(mask, jnp.float32),
        "label": jnp.asarray(label, jnp.float32),
        "has_mask": jnp.ones(b),
    }
    return outputs, batch


def total(outputs, batch, **settings):
    settings = {"weights": WEIGHTS, "mask_losses": ("dice", "bce")} | settings
    return losses.total(outputs, batch, **settings)


def with_rows(outputs, batch, change):
    """The same pair with every array put through `change`."""
    return (
        types.SimpleNamespace(**{k: change(v) for k, v in vars(outputs).items()}),
        {k: change(v) for k, v in batch.items()},
    )


def test_losses_equal_the_reference():
    golden = np.load(GOLDEN / "sdfl_a.npz")
    outputs = types.SimpleNamespace(
        mask_logits=jnp.asarray(golden["train_mask_logits"]),
        label_logits=jnp.asarray(golden["train_label_logits"][:, 0]),
    )
    batch = {
        "mask": jnp.asarray(golden["mask"]),
        "label": jnp.asarray(golden["label"]),
        "has_mask": jnp.ones(2),
    }
    loss, terms = losses.total(outputs, batch, weights=WEIGHTS)
    assert float(terms["mask"]) == pytest.approx(float(golden["loss_seg"]), rel=1e-6)
    assert float(terms["label"]) == pytest.approx(float(golden["loss_clf"]), rel=1e-6)
    assert float(loss) == pytest.approx(float(golden["loss"]), rel=1e-6)


def test_each_dice_averages_over_what_it_says():
    outputs, batch = make()
    probs, mask = np.asarray(jax.nn.sigmoid(outputs.mask_logits)), batch["mask"]
    dice = lambda p, m: 1 - (2 * (p * m).sum() + 1) / ((p**2).sum() + (m**2).sum() + 1)
    each = [dice(p, m) for p, m in zip(probs, mask, strict=True)]
    expected = {
        "batch": dice(probs, mask),
        "per_image": np.mean(each),
        "manipulated": np.mean(each[:2]),
    }
    for name, value in expected.items():
        _, terms = total(outputs, batch, mask_losses=("dice",), dice=name)
        assert float(terms["mask"]) == pytest.approx(float(value), rel=1e-6), name


def test_dice_per_image_is_the_mean_over_processes_of_one_image_each():
    outputs, batch = make()
    alone = [
        total(*with_rows(outputs, batch, lambda v, i=i: v[i : i + 1]), dice="batch")[0]
        for i in range(4)
    ]
    together, _ = total(outputs, batch, dice="per_image")
    assert float(together) == pytest.approx(np.mean(alone), rel=1e-6)


def test_pixel_bce_is_the_mean_over_pixels_of_images_with_masks():
    outputs, batch = make()
    batch["has_mask"] = jnp.array([1, 0, 1, 1])
    kept = np.array([0, 2, 3])
    probs = np.asarray(jax.nn.sigmoid(outputs.mask_logits), np.float64)[kept]
    mask = np.asarray(batch["mask"])[kept]
    expected = -(mask * np.log(probs) + (1 - mask) * np.log1p(-probs)).mean()
    _, terms = total(outputs, batch, mask_losses=("bce",))
    assert float(terms["mask"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    rows=st.sampled_from([(1, 4), (3, 1)]),  # each shape is compiled
)
def test_padding_changes_nothing(case, seed, rows):
    b, padding = rows
    outputs, batch = make(seed, b)
    expected, _ = total(outputs, batch, **CASES[case])
    rng = np.random.default_rng(seed)
    # Rows of anything, NaN included, at the end.
    pad = lambda v: jnp.concatenate(
        [v, jnp.asarray(rng.choice([1.0, 9.0, np.nan], (padding, *v.shape[1:])))]
    )
    padded_outputs, padded = with_rows(outputs, batch, pad)
    padded["valid"] = jnp.arange(b + padding) < b
    found, _ = total(padded_outputs, padded, **CASES[case])
    assert float(found) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), row=st.integers(0, 3))
def test_an_image_without_mask_adds_nothing_to_the_mask_loss(case, seed, row):
    outputs, batch = make(seed)
    batch["has_mask"] = batch["has_mask"].at[row].set(0)
    kept = np.delete(np.arange(4), row)
    _, terms = total(outputs, batch, **CASES[case])
    _, without = total(*with_rows(outputs, batch, lambda v: v[kept]), **CASES[case])
    assert float(terms["mask"]) == pytest.approx(float(without["mask"]), rel=1e-5)

    def mask_term(logits):
        changed = types.SimpleNamespace(**vars(outputs) | {"mask_logits": logits})
        return total(changed, batch, **CASES[case])[1]["mask"]

    assert not np.any(jax.grad(mask_term)(outputs.mask_logits)[row])


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=10, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    scale=st.sampled_from([0.0, 1.0, 50.0, 1e4]),
    has_mask=st.lists(st.booleans(), min_size=4, max_size=4),
    valid=st.lists(st.booleans(), min_size=4, max_size=4),
)
def test_loss_and_gradients_are_finite(case, seed, scale, has_mask, valid):
    outputs, batch = make(seed)
    batch |= {"has_mask": jnp.array(has_mask, float), "valid": jnp.array(valid)}

    def loss(mask_logits, label_logits):
        outputs = types.SimpleNamespace(
            mask_logits=mask_logits, label_logits=label_logits
        )
        return total(outputs, batch, **CASES[case])[0]

    value, grads = jax.value_and_grad(loss, argnums=(0, 1))(
        scale * outputs.mask_logits, scale * outputs.label_logits
    )
    assert np.isfinite(value) and all(np.isfinite(g).all() for g in grads)
    assert value >= 0
    if not any(valid):
        assert value == 0


@pytest.mark.parametrize("dice", DICE)
def test_eight_devices_agree_with_one(dice):
    outputs, batch = make(b=8)
    batch["has_mask"] = batch["has_mask"].at[1].set(0)
    expected, _ = total(outputs, batch, dice=dice)
    mesh = Mesh(jax.devices()[:8], ("data",))
    split = NamedSharding(mesh, PartitionSpec("data"))
    arrays = jax.device_put((vars(outputs), batch), split)
    found, _ = jax.jit(
        lambda o, b: total(types.SimpleNamespace(**o), b, dice=dice),
    )(*arrays)
    assert float(found) == pytest.approx(float(expected), rel=1e-6)


def test_half_precision_logits_are_summed_in_single():
    outputs, batch = make(side=64)
    expected, _ = total(outputs, batch)
    halves = types.SimpleNamespace(
        **{k: v.astype(jnp.bfloat16) for k, v in vars(outputs).items()}
    )
    found, _ = total(halves, batch)
    assert found.dtype == jnp.float32
    assert float(found) == pytest.approx(float(expected), rel=1e-2)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"dice": "image"}, "No dice 'image'"),
        ({"mask_losses": ("dice", "tversky")}, "tversky.*'bce', 'focal', 'iou', 'lov"),
        ({"mask_losses": ()}, "mask_losses"),
        ({"mask_loss_weights": (1.0,)}, "give one for each"),
        ({"mask_loss_weights": (1.0, -1.0)}, "must not be negative"),
        ({"label_loss": "focla"}, "did you mean 'focal'"),
        ({"weights": WEIGHTS | {"edge": 0.8}}, "loss_weights.edge is 0.8"),
    ],
)
def test_settings_without_a_loss_are_refused(settings, told):
    with pytest.raises(InputError, match=told):
        total(*make(), **settings)


def test_focal_is_the_papers():
    """Literal: p of the true class .9 and .2, so (1 - p)² times its -log."""
    logits = jnp.log(jnp.array([0.9 / 0.1, 0.8 / 0.2]))
    expected = [0.1**2 * -np.log(0.9), 0.8**2 * -np.log(0.2)]
    keep, truth = jnp.ones(2, bool), jnp.array([1.0, 0.0])
    as_mask = lambda v: v.reshape(2, 1, 1, 1)
    found = losses.mask_focal(as_mask(logits), as_mask(truth), keep)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)
    found = losses.label_focal(logits, truth, keep)
    assert float(found) == pytest.approx(np.mean(expected), rel=1e-5)


def test_iou_is_the_mean_over_images():
    outputs, batch = make()
    probs, mask = np.asarray(jax.nn.sigmoid(outputs.mask_logits)), batch["mask"]
    each = [
        1 - ((p * m).sum() + 1) / ((p + m - p * m).sum() + 1)
        for p, m in zip(probs, mask, strict=True)
    ]
    _, terms = total(outputs, batch, mask_losses=("iou",))
    assert float(terms["mask"]) == pytest.approx(np.mean(each), rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(
    truth=st.lists(st.booleans(), min_size=6, max_size=6),
    wrong=st.lists(st.booleans(), min_size=6, max_size=6),
)
def test_lovasz_is_the_iou_loss_where_errors_are_0_or_1(truth, wrong):
    """What makes it an extension of the IoU: it agrees on the corners of the cube."""
    truth, wrong = np.array(truth), np.array(wrong)
    logits = np.where(wrong, 0.0, 2.0 * truth - 1)  # a hinge error of 1, or of 0
    union = (truth | wrong).sum()
    expected = wrong.sum() / union if union else 0.0
    found = losses.lovasz_per_image(
        jnp.asarray(logits, jnp.float32).reshape(1, 2, 3, 1),
        jnp.asarray(truth, jnp.float32).reshape(1, 2, 3, 1),
        jnp.ones(1, bool),
    )
    assert float(found) == pytest.approx(expected, abs=1e-6)


def test_mask_losses_are_weighted_one_by_one():
    outputs, batch = make()
    one = lambda name: float(total(outputs, batch, mask_losses=(name,))[1]["mask"])
    _, terms = total(outputs, batch, mask_loss_weights=(0.5, 3.0))
    expected = 0.5 * one("dice") + 3 * one("bce")
    assert float(terms["mask"]) == pytest.approx(expected, rel=1e-6)


def test_a_network_without_masks_has_no_mask_term():
    outputs, batch = make()
    outputs.mask_logits = None
    loss, terms = total(outputs, batch)
    assert terms.keys() == {"label"}
    assert float(loss) == pytest.approx(0.04 * float(terms["label"]))


# ----------------------------------------------------------------------- edges

EDGE_WEIGHTS = {"mask": 0.16, "label": 0.04, "edge": 0.8}


def with_edges(seed=0, b=4, side=8):
    outputs, batch = make(seed, b, side)
    rng = np.random.default_rng(seed)
    shape = (b, side // 4, side // 4, 1)
    outputs.edge_logits = jnp.asarray(rng.normal(0, 3, shape), jnp.float32)
    return outputs, batch


def test_edges_and_their_loss_are_the_references():
    golden = np.load(GOLDEN / "mvssnet_a.npz")
    edge = losses.nearest(losses.edge_of(jnp.asarray(golden["mask"])), 32, 32)
    np.testing.assert_array_equal(edge, golden["edge"])
    outputs = types.SimpleNamespace(
        mask_logits=jnp.asarray(golden["train_mask_logits"]),
        edge_logits=jnp.asarray(golden["train_edge_logits"]),
        # The reference feeds the maximum of the probabilities to its logit loss.
        label_logits=jnp.zeros(2),
        label_loss_input=jax.nn.sigmoid(golden["train_mask_logits"]).max((1, 2, 3)),
    )
    batch = {name: jnp.asarray(golden[name]) for name in ("mask", "label")}
    batch["has_mask"] = jnp.ones(2)
    loss, terms = losses.total(outputs, batch, weights=EDGE_WEIGHTS)
    for name, key in (("mask", "seg"), ("label", "clf"), ("edge", "edge")):
        expected = float(golden[f"loss_{key}"])
        assert float(terms[name]) == pytest.approx(expected, rel=1e-5), name
    assert float(loss) == pytest.approx(float(golden["loss"]), rel=1e-5)


def test_edges_are_those_of_opencv():
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    mask = cv2.resize(rng.random((7, 9)).astype(np.float32), (36, 28)) > 0.5
    mask = mask.astype(np.float32)
    window = np.ones((3, 3))
    expected = cv2.dilate(mask, window) - cv2.erode(mask, window)
    edge = losses.edge_of(jnp.asarray(mask)[None, ..., None])
    np.testing.assert_array_equal(edge[0, ..., 0], expected)
    small = losses.nearest(edge, 10, 11)[0, ..., 0]
    expected = cv2.resize(expected, (11, 10), interpolation=cv2.INTER_NEAREST)
    np.testing.assert_array_equal(small, expected)


def test_an_image_without_mask_adds_nothing_to_the_edge_loss():
    outputs, batch = with_edges()
    batch["has_mask"] = jnp.array([1, 0, 1, 1])

    def edge_term(logits):
        changed = types.SimpleNamespace(**vars(outputs) | {"edge_logits": logits})
        return total(changed, batch, weights=EDGE_WEIGHTS)[1]["edge"]

    gradient = np.asarray(jax.grad(edge_term)(outputs.edge_logits))
    assert not gradient[1].any() and gradient[0].any()

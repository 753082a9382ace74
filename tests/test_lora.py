"""Low-rank adapters: on any network, frozen around, and merged."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util

from sdfl_jax import models, optim, weights
from sdfl_jax.config import check, of_network
from sdfl_jax.errors import InputError
from sdfl_jax.models import freezing
from sdfl_jax.trees import patterns

SETTINGS = dict(num_classes=2, image_size=50)
LORA = dict(patterns=("dense[12]",), rank=2, alpha=6.0)


@pytest.fixture(scope="module")
def simplenet():
    plain = models.build("simplenet", **SETTINGS)
    adapted = models.build("simplenet", **SETTINGS, lora=LORA)
    image = jax.random.uniform(jax.random.key(0), (2, 50, 50, 3))
    variables = jax.jit(lambda: models.init_variables(adapted, 50, jax.random.key(1)))()
    return plain, adapted, variables, image


def test_fresh_adapters_change_no_result(simplenet):
    plain, adapted, variables, image = simplenet
    without = jax.tree.map(lambda x: x, variables["params"])
    for layer in without.values():
        layer.pop("lora_a", None), layer.pop("lora_b", None)
    assert "lora_a" not in variables["params"]["dense3"]
    expected = plain.apply({"params": without}, image, train=False)
    found = adapted.apply(variables, image, train=False)
    np.testing.assert_array_equal(found.class_logits, expected.class_logits)


def test_merged_adapters_give_the_same_result(simplenet):
    plain, adapted, variables, image = simplenet
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    rng = np.random.default_rng(0)
    for path, array in flat.items():
        if path.endswith("lora_b"):
            flat[path] = rng.normal(0, 0.1, array.shape).astype(np.float32)
    moved = variables | {"params": traverse_util.unflatten_dict(flat, sep="/")}
    merged = weights.merge_lora(moved, LORA["alpha"] / LORA["rank"])
    wanted = jax.eval_shape(lambda: models.init_variables(plain, 50, jax.random.key(1)))
    assert jax.tree.structure(merged) == jax.tree.structure(wanted)
    found = plain.apply(merged, image, train=False)
    expected = adapted.apply(moved, image, train=False)
    np.testing.assert_allclose(
        found.class_logits, expected.class_logits, rtol=1e-4, atol=1e-5
    )
    fresh = adapted.apply(variables, image, train=False)
    assert np.any(np.abs(found.class_logits - fresh.class_logits) > 1e-3)


def test_only_adapters_and_what_is_not_frozen_have_optimizer_state(simplenet):
    _, adapted, variables, image = simplenet
    freeze = ("dense?/*", "!*/lora_?")
    config = of_network("simplenet")
    config.total_steps = 1
    config = check(config)
    tx = optim.make_optimizer(
        config.optimizer.to_dict(), config.schedule.to_dict(), 1, freeze=freeze
    )
    state = tx.init(variables["params"])
    trained = sum(
        leaf.size
        for path, leaf in traverse_util.flatten_dict(
            variables["params"], sep="/"
        ).items()
        if not patterns.fits(path, freeze)
    )
    moments = sum(x.size for x in jax.tree.leaves(state) if x.ndim)
    assert moments == 2 * trained

    def loss(params):
        params = freezing.stop_gradients(params, freeze)
        outputs = adapted.apply({"params": params}, image, train=True)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(outputs.label_logits, 1.0))

    grads = jax.jit(jax.grad(loss))(variables["params"])
    assert np.any(grads["dense1"]["lora_b"]) and not np.any(grads["dense1"]["kernel"])


def test_the_adapted_vit_trains_its_adapters_and_head_alone():
    config = of_network("vit_lora", lora_rank=4)
    model = models.build(**config.model)
    shapes = jax.eval_shape(lambda: models.init_variables(model, 32, jax.random.key(0)))
    flat = traverse_util.flatten_dict(shapes["params"], sep="/")
    trained = [path for path in flat if not patterns.fits(path, config.freeze)]
    assert {path.split("/")[0] for path in trained} == {"encoder", "head"}
    adapters = [path for path in trained if path.startswith("encoder/")]
    assert len(adapters) == 24 and all("/lora_" in path for path in adapters)
    # As published: 0.07 M in the adapters of rank 4, 0.83 M in the head.
    count = lambda part: sum(flat[p].size for p in trained if p.startswith(part))
    assert round(count("encoder/") / 1e6, 2) == 0.07
    assert round(count("head/") / 1e6, 2) == 0.83


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"patterns": ("dens1",)}, "no dense layer .* is called 'dens1'"),
        ({"pattern": ("dense1",)}, "No setting lora.pattern"),
        ({"patterns": ("dense1",), "rank": 0}, "a rank of 1 or more"),
    ],
)
def test_adapters_that_fit_nothing_are_refused_in_one_line(settings, message):
    with pytest.raises(InputError, match=message) as caught:
        model = models.build("simplenet", **SETTINGS, lora=settings)
        jax.eval_shape(lambda: models.init_variables(model, 50, jax.random.key(0)))
    assert "\n" not in str(caught.value)


def test_a_network_with_adapters_of_its_own_takes_no_others():
    with pytest.raises(InputError, match="has adapters of its own"):
        models.build("vit_lora", lora=LORA)

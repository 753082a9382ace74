"""The kernel of `pyramid_pool`: interpreted, lowered for CUDA, on a split batch."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sdfl_jax.models import upernet
from sdfl_jax.ops import pooling_kernel, pyramid_pool
from tests import golden

BINS = (1, 2, 3, 6)
TOLERANCE = {jnp.float32: 1e-6, jnp.bfloat16: 1e-2, jnp.float16: 1e-3}

interpreted = functools.partial(
    pooling_kernel.pyramid_pool, interpret=True, channels=16
)
plain = functools.partial(pyramid_pool, implementation="xla")


def value_and_gradient(pool, bins):
    def run(features, gradients):
        cells, transpose = jax.vjp(lambda x: pool(x, bins), features)
        return cells, transpose(gradients)

    return run


def random_case(shape, bins, dtype, seed=0):
    rng = np.random.default_rng(seed)
    normal = lambda *shape: jnp.array(rng.normal(size=shape), dtype)
    B, _, _, C = shape
    return normal(*shape), tuple(normal(B, g, g, C) for g in bins)


def assert_same(found, expected, tolerance):
    found, expected = jax.tree.leaves(found), jax.tree.leaves(expected)
    for a, b in zip(found, expected, strict=True):
        assert a.dtype == b.dtype
        golden.assert_close(a.astype(jnp.float32), b.astype(jnp.float32), tolerance)


def check(shape, bins, dtype):
    case = random_case(shape, bins, dtype)
    found = jax.jit(value_and_gradient(interpreted, bins))(*case)
    expected = jax.jit(value_and_gradient(plain, bins))(*case)
    assert_same(found, expected, TOLERANCE[dtype])


@settings(max_examples=6, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (3, 9, 9, 40))),
    bins=st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple),
    dtype=st.sampled_from(list(TOLERANCE)),
)
@example(shape=(2, 7, 5, 37), bins=BINS, dtype=jnp.float32)
def test_kernel_equals_the_plain_form_in_value_and_gradient(shape, bins, dtype):
    check(shape, bins, dtype)


@pytest.mark.slow
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    shape=st.tuples(*(st.integers(1, n) for n in (4, 20, 20, 70))),
    bins=st.lists(st.integers(1, 7), min_size=1, max_size=4).map(tuple),
    dtype=st.sampled_from(list(TOLERANCE)),
)
def test_kernel_equals_the_plain_form_for_many_shapes(shape, bins, dtype):
    check(shape, bins, dtype)


def test_kernel_works_under_vmap():
    features, _ = random_case((6, 4, 5, 20), (), jnp.float32)
    loss = lambda pool: lambda x: sum(jnp.sum(c**2) for c in pool(x, (1, 2)))
    found = jax.jit(jax.vmap(jax.grad(loss(interpreted))))(
        features.reshape(2, 3, 4, 5, 20)
    )
    expected = jax.grad(loss(plain))(features)
    golden.assert_close(found.reshape(features.shape), expected, 1e-6)


def a_gpu_to_lower_for():
    """Newer JAX wants to know which; older takes the lowest that runs Triton."""
    if not hasattr(jax.sharding, "AbstractDevice"):
        return contextlib.nullcontext()
    gpu = jax.sharding.AbstractDevice("NVIDIA H100", 132, "gpu")
    mesh = jax.sharding.AbstractMesh((), (), abstract_device=gpu)
    return jax.sharding.use_abstract_mesh(mesh)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_value_and_gradient_lower_for_cuda_to_one_kernel_each(dtype):
    array = lambda *shape: jax.ShapeDtypeStruct(shape, dtype)
    arguments = array(2, 16, 11, 100), tuple(array(2, g, g, 100) for g in BINS)
    both = value_and_gradient(pooling_kernel.pyramid_pool, BINS)
    with a_gpu_to_lower_for():
        traced = jax.jit(both).trace(*arguments)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("stablehlo.custom_call @__gpu$xla.gpu.triton") == 2
    assert text.count("stablehlo.custom_call") == 2
    assert "stablehlo.dot" not in text


@pytest.mark.parametrize("pool", [interpreted, plain], ids=["pallas", "xla"])
def test_a_split_batch_stays_split(pool):
    bins = (1, 3)
    case = random_case((8, 4, 5, 3), bins, jnp.float32)
    split = NamedSharding(Mesh(np.array(jax.devices()), ("data",)), P("data"))
    both = jax.jit(value_and_gradient(pool, bins), in_shardings=split)
    compiled = both.lower(*case).compile()
    for exchange in ("all-gather", "all-reduce", "all-to-all", "collective-permute"):
        assert exchange not in compiled.as_text()
    found = both(*case)
    for array in jax.tree.leaves(found):
        assert array.sharding.is_equivalent_to(split, array.ndim)
    assert_same(found, value_and_gradient(plain, bins)(*case), 1e-6)


def test_a_map_split_in_height_is_pooled_whole():
    mesh = Mesh(np.array(jax.devices()).reshape(4, 2), ("data", "space"))
    split = NamedSharding(mesh, P("data", "space"))
    features, _ = random_case((4, 4, 5, 3), (), jnp.float32)
    for pool in (interpreted, plain):
        pooled = jax.jit(lambda x, pool=pool: pool(x, (2,)), in_shardings=split)
        assert_same(pooled(features), plain(features, (2,)), 1e-6)


@pytest.mark.slow
def test_a_training_step_takes_the_kernel_and_gathers_nothing(monkeypatch):
    from sdfl_jax.devices import sharding
    from sdfl_jax.models.encoders import ENCODERS
    from tests.tiny import TinyEncoder

    monkeypatch.setitem(ENCODERS, "tiny", TinyEncoder)
    decoder = upernet.Decoder(8, 8, (1, 2))
    mesh = sharding.data_mesh()
    rng = np.random.default_rng(0)
    maps = [
        jnp.array(rng.normal(size=(8, side, side, 8)), jnp.float32)
        for side in (16, 8, 4, 4)
    ]
    variables = decoder.init(jax.random.key(0), maps, train=False)

    def loss(params, maps):
        (finest, pyramid), _ = decoder.apply(
            {**variables, "params": params}, maps, train=True, mutable="batch_stats"
        )
        return jnp.mean(finest**2) + jnp.mean(pyramid**2)

    found = {}
    for name in ("xla", "pallas"):
        if name == "pallas":
            monkeypatch.setattr(
                upernet, "pyramid_pool", lambda x, bins, _: interpreted(x, bins)
            )
        step = jax.jit(
            jax.value_and_grad(lambda *args: loss(*args), argnums=(0, 1)),
            in_shardings=(sharding.everywhere(mesh), sharding.split(mesh)),
        )
        assert (
            "all-gather"
            not in step.lower(variables["params"], maps).compile().as_text()
        )
        found[name] = step(variables["params"], maps)
    assert_same(found["pallas"], found["xla"], 1e-3)


on_a_gpu = pytest.mark.skipif(
    bool(pooling_kernel.missing()),
    reason=f"{pooling_kernel.missing()}; on one: JAX_PLATFORMS=cuda python -m pytest "
    "tests/test_pooling_kernel.py -k gpu",
)


@on_a_gpu
@pytest.mark.parametrize("shape", [(2, 16, 16, 2048), (3, 17, 9, 333), (1, 5, 64, 70)])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_kernel_equals_the_plain_form_on_a_gpu(shape, dtype):
    case = random_case(shape, BINS, dtype)
    pallas = functools.partial(pyramid_pool, implementation="pallas")
    found = jax.jit(value_and_gradient(pallas, BINS))(*case)
    expected = jax.jit(value_and_gradient(plain, BINS))(*case)
    assert_same(found, expected, TOLERANCE[dtype])

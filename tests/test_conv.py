"""Every form of `conv2d` against XLA's own convolution."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from sdfl_jax.devices import sharding
from sdfl_jax.ops import conv, winograd
from sdfl_jax.ops.apart import apart
from sdfl_jax.ops.conv import conv2d

# Channels, features, groups: dense, pointwise from one, depthwise, groups, multiplier.
CHANNELS = [(3, 4, 1), (1, 3, 1), (4, 4, 4), (4, 6, 2), (2, 4, 2)]
TOLERANCE = {"float32": 1e-5, "bfloat16": 3e-2, "float16": 4e-3}


def xla(x, kernel, *, strides=1, padding="SAME", dilation=1, groups=1):
    if isinstance(padding, int):
        padding = ((padding, padding),) * 2
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
    )


def draw(shape, seed, dtype="float32"):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def value_and_gradients(function, x, kernel, **window):
    @jax.jit
    def run(x, kernel):
        out, pullback = jax.vjp(lambda x, k: function(x, k, **window), x, kernel)
        # Uneven, so that a gradient in the wrong place shows.
        return out, *pullback(
            jnp.cos(jnp.arange(out.size, dtype=out.dtype)).reshape(out.shape)
        )

    return run(x, kernel)


def assert_same(ours, theirs, dtype="float32"):
    for a, b in zip(ours, theirs, strict=True):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        scale = max(np.abs(b).max(initial=0), 1e-3)
        np.testing.assert_allclose(a / scale, b / scale, atol=TOLERANCE[dtype])


@pytest.fixture(params=["unfolded", "tapwise", "native", "winograd"])
def dense_form(request, monkeypatch):
    """Dense convolutions of any size take the form of this name."""
    few, many = 0, 2**40
    unfolded = many if request.param == "unfolded" else few
    monkeypatch.setattr(conv, "UNFOLDED_POSITIONS", unfolded)
    cached = many if request.param == "native" else few
    monkeypatch.setattr(conv, "CACHED_VALUES", cached)
    monkeypatch.setattr(conv, "FEW_FEATURES", 0)
    for least in ("CHANNELS", "POSITIONS", "WORK"):
        monkeypatch.setattr(
            winograd, least, few if request.param == "winograd" else many
        )
    monkeypatch.setattr(winograd, "_STRIP_VALUES", 0)
    monkeypatch.setattr(winograd, "_STRIP_TILES", 12)  # two strips of 7 rows
    return request.param


@pytest.mark.parametrize("padding", ["SAME", 1, ((0, 1), (2, 0)), ((4, 5), (2, 3))])
@pytest.mark.parametrize("strides", [1, 2])
@pytest.mark.parametrize("size", [1, 3])
def test_each_dense_form_has_xlas_values_and_gradients(
    dense_form, size, strides, padding
):
    x, kernel = draw((2, 7, 6, 3), 0), draw((size, size, 3, 4), 1)
    window = {"strides": strides, "padding": padding}
    assert_same(
        value_and_gradients(conv2d, x, kernel, **window),
        value_and_gradients(xla, x, kernel, **window),
    )


@settings(max_examples=25, deadline=None)
@given(
    image=st.tuples(st.integers(1, 2), st.integers(5, 9), st.integers(5, 9)),
    size=st.tuples(st.integers(1, 5), st.sampled_from([1, 3])),
    channels=st.sampled_from(CHANNELS),
    strides=st.integers(1, 3),
    dilation=st.integers(1, 2),
    padding=st.sampled_from(["SAME", 2, ((4, 5), (2, 3))]),
    dtype=st.sampled_from(list(TOLERANCE)),
    limits=st.sampled_from([(0, 0), (0, 2**40), (2**40, 0)]),
)
def test_any_window_has_xlas_values_and_gradients(
    image, size, channels, strides, dilation, padding, dtype, limits
):
    C, F, groups = channels
    x = draw((*image, C), 0, dtype)
    kernel = draw((*size, C // groups, F), 1, dtype)
    window = {"strides": strides, "padding": padding}
    window |= {"dilation": dilation, "groups": groups}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(conv, "UNFOLDED_POSITIONS", limits[0])
        patch.setattr(conv, "CACHED_VALUES", limits[1])
        patch.setattr(conv, "FEW_FEATURES", 0)
        ours = value_and_gradients(conv2d, x, kernel, **window)
    assert_same(ours, value_and_gradients(xla, x, kernel, **window), dtype)


def test_fewer_products_lose_no_more_than_float32_does():
    """What a decoder's last convolution asks for, beside the same in float64."""
    x, kernel = draw((1, 66, 66, 256), 0), draw((3, 3, 256, 128), 1)
    x = jax.nn.relu(x + 1)  # of one sign, as features are
    views = np.lib.stride_tricks.sliding_window_view(
        np.asarray(x, np.float64), (3, 3), axis=(1, 2)
    )
    exact = np.einsum("bhwcij,ijcf->bhwf", views, np.float64(kernel), optimize=True)
    lost = lambda y: np.abs(np.asarray(y) - exact).max() / np.abs(exact).std()
    fewer = winograd.convolve(x, kernel, ((0, 0), (0, 0)))
    assert lost(fewer) < 4 * lost(xla(x, kernel, padding="VALID")) < 1e-4


@pytest.mark.parametrize("window", [{}, {"strides": 2}, {"dilation": 2, "padding": 3}])
def test_large_depthwise_kernels_have_xlas_values_and_gradients(window):
    window = {"groups": 3, "padding": 3} | window
    x, kernel = draw((2, 13, 14, 3), 0), draw((7, 7, 1, 3), 1)
    assert_same(
        value_and_gradients(conv2d, x, kernel, **window),
        value_and_gradients(xla, x, kernel, **window),
    )


def test_depthwise_strides_pad_as_tensorflow_does():
    x, kernel = draw((2, 8, 8, 4), 0), draw((5, 5, 1, 4), 1)
    window = {"strides": 2, "padding": "SAME", "groups": 4}
    ours = value_and_gradients(conv2d, x, kernel, **window)
    assert ours[0].shape == (2, 4, 4, 4)
    assert_same(ours, value_and_gradients(xla, x, kernel, **window))


def test_vmap_and_second_gradients(dense_form):
    x, kernel = draw((3, 1, 6, 6, 2), 0), draw((3, 3, 2, 2), 1)

    def curvature(function):
        slope = jax.grad(lambda x, k: jnp.sum(function(x, k, padding=1) ** 3))
        return jax.vmap(jax.grad(lambda x: jnp.sum(slope(x, kernel) ** 2)))

    ours, theirs = curvature(conv2d)(x), curvature(xla)(x)
    assert_same([ours], [theirs])


@pytest.mark.parametrize("channels", CHANNELS[:3])
def test_a_split_batch_stays_split(dense_form, channels):
    C, F, groups = channels
    mesh = sharding.data_mesh()
    x, kernel = draw((16, 8, 8, C), 0), draw((3, 3, C // groups, F), 1)

    def run(x, kernel):
        return jax.value_and_grad(
            lambda x, k: jnp.sum(conv2d(x, k, groups=groups) ** 2), argnums=(0, 1)
        )(x, kernel)

    shardings = (sharding.split(mesh), sharding.everywhere(mesh))
    compiled = jax.jit(run, in_shardings=shardings).lower(x, kernel).compile()
    moved = set(re.findall(r"(all-\w+|collective-\w+)[-\w]*\(", compiled.as_text()))
    assert moved == {"all-reduce"}  # of the loss and of the kernel's gradient
    value, gradients = compiled(*jax.device_put((x, kernel), shardings))
    expected, theirs = jax.jit(
        jax.value_and_grad(
            lambda x, k: jnp.sum(xla(x, k, groups=groups) ** 2), argnums=(0, 1)
        )
    )(x, kernel)
    assert_same([value, *gradients], [expected, *theirs])


@pytest.mark.parametrize("channels", CHANNELS)
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_a_gpu_gets_one_convolution_each_way(channels, dtype):
    C, F, groups = channels
    x, kernel = draw((2, 8, 8, C), 0, dtype), draw((1, 1, C // groups, F), 1, dtype)

    def program(function, *arguments):
        traced = jax.jit(function).trace(*arguments)
        text = traced.lower(lowering_platforms=("cuda",)).as_text()
        return re.findall(r"stablehlo\.(convolution|dot_general|concatenate)", text)

    forward = lambda x, k: conv2d(x, k, groups=groups)
    assert program(forward, x, kernel) == ["convolution"]
    backward = lambda x, k, g: jax.vjp(forward, x, k)[1](g)
    assert program(backward, x, kernel, forward(x, kernel)) == ["convolution"] * 2


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize(("strides", "padding"), [(1, 0), (2, 0), (2, 1), (3, 1)])
@pytest.mark.parametrize("dtype", list(TOLERANCE))
def test_transposed_has_xlas_values_and_gradients(kernel, strides, padding, dtype):
    x, weights = draw((2, 5, 3, 4), 0, dtype), draw((kernel, kernel, 3, 4), 1, dtype)
    window = dict(strides=strides, padding=padding)
    theirs = value_and_gradients(conv._transposed, x, weights, **window)
    ours = value_and_gradients(conv.conv_transpose2d, x, weights, **window)
    assert_same(ours, theirs, dtype)
    # The adjoint of a convolution that reads H W O I as H W I O.
    back = lambda y: conv2d(y, weights, **window)
    if strides == 2 and dtype == "float32":
        np.testing.assert_allclose(
            jnp.vdot(back(ours[0]), x), jnp.vdot(ours[0], ours[0]), rtol=1e-4
        )


def test_a_gpu_gets_one_transposed_convolution():
    x, kernel = draw((2, 4, 4, 3), 0), draw((4, 4, 5, 3), 1)
    traced = jax.jit(lambda x, k: conv.conv_transpose2d(x, k, padding=1)).trace(
        x, kernel
    )
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert re.findall(r"stablehlo\.(convolution|dot_general)", text) == ["convolution"]


def test_a_network_of_many_blocks_is_a_program_as_long_as_its_blocks():
    """XLA would fuse all earlier blocks into every view a convolution takes."""

    def lines(blocks):
        def network(x, kernel):
            for _ in range(blocks):
                x = jax.nn.relu(x + conv2d(jax.nn.relu(x), kernel, padding=1))
            return x

        x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
        program = jax.jit(network).lower(x, kernel).compile()
        return program.as_text().count("\n")

    assert lines(16) < 2.2 * lines(8)


def test_an_array_apart_is_the_same_with_the_same_gradients():
    x = jnp.arange(24.0).reshape(2, 3, 4)
    weights = jnp.cos(x)
    loss = lambda x, f: jnp.sum(weights * f(x) ** 3)
    np.testing.assert_array_equal(jax.jit(apart)(x), x)
    for order in (jax.grad, lambda f: jax.grad(lambda x: jax.grad(f)(x).sum())):
        np.testing.assert_array_equal(
            jax.jit(order(lambda x: loss(x, apart)))(x),
            jax.jit(order(lambda x: loss(x, lambda x: x)))(x),
        )


@pytest.mark.parametrize("window", [{}, {"strides": 2}, {"dilation": 2}])
def test_gradients_within_a_loop_are_in_the_form_that_a_cpu_runs_fast(window):
    """XLA leaves what stands in a loop as it is: features last, H W I O."""
    x, kernel = draw((1, 64, 64, 5), 0), draw((3, 3, 5, 6), 1)

    def summed(x, kernel):
        both = jax.grad(lambda *a: jnp.sum(conv2d(*a, **window) ** 3), argnums=(0, 1))
        shares = jnp.arange(1.0, 4.0)
        add = lambda total, share: (
            jax.tree.map(jnp.add, total, both(share * x, kernel)),
            None,
        )
        return lax.scan(add, (jnp.zeros_like(x), jnp.zeros_like(kernel)), shares)[0]

    program = jax.jit(summed).lower(x, kernel).compile().as_text()
    forms = re.findall(r"dim_labels=(\S+?)[,\s]", program)
    assert len(forms) >= 3 and set(forms) == {"b01f_01io->b01f"}

"""Closed-form pooling against a CUDA kernel's numbers and against the integral."""

import logging
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from sdfl_jax.errors import InputError
from sdfl_jax.ops import pooling, pooling_kernel, prroi_pool, pyramid_pool
from tests import golden


@pytest.fixture
def case():
    names = ("features", "rois", "real_outputs", "gradients0", "gradients1")
    return {name: np.load(golden.FOLDER / "prroi" / f"{name}.npy") for name in names}


def bilinear(surface, y, x):
    """The surface through whole positions, zero beyond them, at one float64 point."""
    H, W = surface.shape[:2]
    hats = lambda at, size: np.maximum(0, 1 - np.abs(at - np.arange(size)))
    return np.einsum("h,w,hwc->c", hats(y, H), hats(x, W), surface)


def integrated(surface, y0, y1, x0, x1, cells, points=400):
    """Cell averages by the midpoint rule on points x points of each cell."""
    height, width = (y1 - y0) / cells, (x1 - x0) / cells
    middle = (np.arange(points) + 0.5) / points
    H, W = surface.shape[:2]
    hats = lambda at, size: np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))
    rows = [hats(y0 + (g + middle) * height, H).mean(0) for g in range(cells)]
    columns = [hats(x0 + (g + middle) * width, W).mean(0) for g in range(cells)]
    return np.einsum("gh,kw,hwc->gkc", rows, columns, surface)


def test_pooling_equals_the_cuda_kernel(case):
    features = jnp.array(case["features"].transpose(0, 2, 3, 1))
    rois = jnp.array(case["rois"])
    pooled = lambda features, rois: prroi_pool(features, rois, 2, 0.5)
    golden.assert_close(
        pooled(features, rois).transpose(0, 3, 1, 2), case["real_outputs"], 1e-6
    )
    by_features, by_rois = jax.jit(
        jax.grad(lambda *args: jnp.sum(pooled(*args)), argnums=(0, 1))
    )(features, rois)
    golden.assert_close(by_features.transpose(0, 3, 1, 2), case["gradients0"], 1e-6)
    golden.assert_close(by_rois, case["gradients1"], 1e-6)


@pytest.mark.parametrize("bins", [1, 2, 3, 6])
def test_pyramid_equals_the_integral_over_the_whole_map(bins):
    features = np.random.default_rng(0).normal(size=(2, 4, 7, 3)).astype(np.float32)
    (cells,) = pyramid_pool(jnp.array(features), (bins,))
    for image, pooled in zip(features.astype(np.float64), cells, strict=True):
        golden.assert_close(pooled, integrated(image, 0, 4, 0, 7, bins), 1e-4)


def test_pyramid_equals_boxes_over_the_whole_map():
    features = np.random.default_rng(0).normal(size=(2, 8, 6, 3)).astype(np.float32)
    rois = jnp.array([[0, 0, 0, 6, 8], [1, 0, 0, 6, 8]], jnp.float32)
    for bins, cells in zip(
        (1, 2, 3, 6), pyramid_pool(features, (1, 2, 3, 6)), strict=True
    ):
        assert cells.shape == (2, bins, bins, 3)
        golden.assert_close(prroi_pool(jnp.array(features), rois, bins), cells, 1e-6)


def test_boxes_at_any_place_equal_the_integral():
    features = np.random.default_rng(0).normal(size=(1, 6, 9, 2)).astype(np.float32)
    x0, y0, x1, y1 = 1.3, -2.2, 10.9, 4.7  # beyond the map above and at the right
    rois = jnp.array([[0, x0, y0, x1, y1]], jnp.float32)
    pooled = prroi_pool(jnp.array(features), rois, 3)[0]
    golden.assert_close(pooled, integrated(features[0], y0, y1, x0, x1, 3), 1e-4)


def test_the_surface_passes_through_the_features():
    features = np.random.default_rng(0).normal(size=(5, 6, 2))
    np.testing.assert_allclose(bilinear(features, 3, 2), features[3, 2])
    tiny = jnp.array([[0, 2 - 1e-2, 3 - 1e-2, 2 + 1e-2, 3 + 1e-2]], jnp.float32)
    pooled = prroi_pool(jnp.array(features[None], jnp.float32), tiny, 1)
    golden.assert_close(pooled[0, 0, 0], features[3, 2], 2e-2)


def test_a_box_without_area_gives_zeros_and_no_gradients():
    features = jnp.array(
        np.random.default_rng(0).normal(size=(1, 6, 9, 2)), jnp.float32
    )
    rois = jnp.array([[0, 2, 1, 2, 5], [0, 5, 1, 3, 5], [0, 1, 3, 4, 3]], jnp.float32)
    pooled = lambda features, rois: prroi_pool(features, rois, (2, 3))
    assert pooled(features, rois).shape == (3, 2, 3, 2)
    grads = jax.jit(jax.grad(lambda *args: jnp.sum(pooled(*args)), argnums=(0, 1)))
    for array in (pooled(features, rois), *grads(features, rois)):
        np.testing.assert_array_equal(array, 0)


def test_half_precision_is_summed_in_float32():
    features = np.random.default_rng(0).random((1, 64, 64, 1)).astype(np.float32)
    box = jnp.array([[0, 0, 0, 64, 64]], jnp.float32)
    for dtype in (jnp.bfloat16, jnp.float16):
        half = jnp.array(features, dtype)
        (exact,) = pyramid_pool(half.astype(jnp.float32), (1,))
        for cell in (*pyramid_pool(half, (1,)), prroi_pool(half, box, 1)):
            assert cell.dtype == dtype
            golden.assert_close(cell.astype(jnp.float32), exact, 4e-3)


@settings(max_examples=8, deadline=None, derandomize=True)
@given(
    bins=st.lists(st.integers(1, 7), min_size=1, max_size=3),
    H=st.integers(1, 12),
    W=st.integers(1, 12),
)
def test_grids_of_any_bins_equal_boxes_in_value_and_gradient(bins, H, W):
    rng = np.random.default_rng(H * W)
    features = jnp.array(rng.normal(size=(2, H, W, 3)), jnp.float32)
    rois = jnp.array([[0, 0, 0, W, H], [1, 0, 0, W, H]], jnp.float32)
    gradients = tuple(
        jnp.array(rng.normal(size=(2, g, g, 3)), jnp.float32) for g in bins
    )
    forms = (
        lambda x: pyramid_pool(x, bins, "xla"),
        lambda x: tuple(prroi_pool(x, rois, g) for g in bins),
    )
    found, expected = (
        jax.tree.leaves(jax.jit(value_and_gradient(form))(features, gradients))
        for form in forms
    )
    for a, b in zip(found, expected, strict=True):
        golden.assert_close(a, b, 1e-5)


def value_and_gradient(pool):
    def run(features, gradients):
        cells, transpose = jax.vjp(pool, features)
        return cells, transpose(gradients)

    return run


def test_gradients_have_gradients():
    rng = np.random.default_rng(0)
    features, other = jnp.array(rng.normal(size=(2, 1, 4, 5, 2)), jnp.float32)
    loss = lambda x: sum(jnp.sum(cells**2) for cells in pyramid_pool(x, (1, 2)))
    along = lambda x: jnp.vdot(jax.grad(loss)(x), other)
    # The loss is a quadratic form, so its second derivative is the form itself.
    golden.assert_close(jax.grad(along)(features), jax.grad(loss)(other), 1e-5)


def test_gradients_by_box_equal_differences_of_the_integral():
    features = np.random.default_rng(0).normal(size=(1, 6, 9, 2)).astype(np.float32)
    box = np.array([1.3, -2.2, 10.9, 4.7])

    def total(box):
        x0, y0, x1, y1 = box
        return integrated(features[0], y0, y1, x0, x1, 3, points=2000).sum()

    rois = jnp.array([[0, *box]], jnp.float32)
    pooled = lambda rois: jnp.sum(prroi_pool(jnp.array(features), rois, 3))
    steps = 1e-2 * np.eye(4)
    differences = [(total(box + d) - total(box - d)) / 2e-2 for d in steps]
    golden.assert_close(jax.grad(pooled)(rois)[0, 1:], differences, 1e-3)


def test_a_box_beyond_the_map_gives_zeros_and_no_gradients():
    features = jnp.ones((1, 6, 9, 2))
    rois = jnp.array([[0, 20, 1, 24, 5], [0, -9, -9, -4, -3]], jnp.float32)
    pooled = lambda *args: jnp.sum(prroi_pool(*args, 2))
    both = jax.jit(jax.value_and_grad(pooled, argnums=(0, 1)))
    value, grads = both(features, rois)
    for array in (value, *grads):
        np.testing.assert_array_equal(array, 0)


def test_boxes_work_under_vmap_and_on_a_split_batch():
    rng = np.random.default_rng(0)
    features = jnp.array(rng.normal(size=(8, 6, 5, 3)), jnp.float32)
    rois = jnp.array([[i, 0.5, 1, 3 + i / 4, 4] for i in range(8)], jnp.float32)
    expected = prroi_pool(features, rois, 2)
    each = jax.vmap(lambda x, roi: prroi_pool(x[None], roi[None].at[:, 0].set(0), 2)[0])
    golden.assert_close(each(features, rois), expected, 1e-6)
    mesh = Mesh(np.array(jax.devices()), ("data",))
    split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
    pooled = jax.jit(lambda *args: prroi_pool(*args, 2), in_shardings=(split, whole))
    golden.assert_close(pooled(features, rois), expected, 1e-6)


@pytest.mark.parametrize("pool", [pyramid_pool, prroi_pool])
def test_what_cannot_run_says_what_to_use_instead(pool):
    features = jnp.ones((1, 6, 9, 2))
    second = (1, 2) if pool is pyramid_pool else jnp.array([[0.0, 0, 0, 9, 6]])
    run = lambda name: (
        pool(features, second, implementation=name)
        if pool is pyramid_pool
        else pool(features, second, 2, implementation=name)
    )
    with pytest.raises(InputError, match="^No implementation 'palas'; there are"):
        run("palas")
    with pytest.raises(InputError, match="kernel.*use 'xla' or 'auto' instead"):
        run("pallas")
    for a, b in zip(run("auto"), run("xla"), strict=True):
        np.testing.assert_array_equal(a, b)


def test_bins_below_one_are_refused():
    with pytest.raises(InputError, match="bins="):
        pyramid_pool(jnp.ones((1, 4, 4, 1)), (2, 0))


def a_gpu(monkeypatch, capability):
    device = types.SimpleNamespace(
        platform="gpu", device_kind="some GPU", compute_capability=capability
    )
    monkeypatch.setattr(pooling_kernel, "_device", lambda: device)


def test_auto_takes_the_kernel_only_where_it_was_measured_to_win(monkeypatch):
    assert pooling.chosen("auto") == "xla"
    a_gpu(monkeypatch, "9.0")
    monkeypatch.setattr(pooling, "KERNEL_WINS", {})
    assert pooling.chosen("auto") == "xla"
    assert pooling.chosen("pallas") == "pallas"
    monkeypatch.setattr(pooling, "KERNEL_WINS", {"9.0": "measured"})
    assert pooling.chosen("auto") == "pallas"
    assert pooling.chosen("xla") == "xla"


def test_a_jax_without_pallas_triton_takes_xla(monkeypatch):
    monkeypatch.setattr(pooling_kernel, "plt", None)
    assert pooling.chosen("auto") == "xla"
    with pytest.raises(InputError, match="needs Pallas' Triton, and JAX .* has none"):
        pooling.chosen("pallas")


def test_a_gpu_below_8_0_takes_xla_whatever_was_measured(monkeypatch):
    monkeypatch.setattr(pooling, "KERNEL_WINS", {"7.0": "measured"})
    a_gpu(monkeypatch, "7.0")
    assert pooling.chosen("auto") == "xla"
    with pytest.raises(InputError, match="a some GPU has 7.0; use 'xla'"):
        pooling.chosen("pallas")


def test_the_choice_is_logged_once_with_its_reason(caplog):
    pooling._log_once.cache_clear()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            pyramid_pool(jnp.ones((1, 4, 4, 1)), (1,))
    assert [record.message for record in caplog.records] == [
        "Pooling with 'xla': the kernel needs an NVIDIA GPU of compute capability 8.0 "
        "or higher, and this is cpu (cpu)."
    ]

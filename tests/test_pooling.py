"""Closed-form pooling against a CUDA kernel's numbers and against the integral."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdfl_jax.ops import prroi_pool, pyramid_pool
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
    grads = jax.grad(lambda *args: jnp.sum(pooled(*args)), argnums=(0, 1))
    for array in (pooled(features, rois), *grads(features, rois)):
        np.testing.assert_array_equal(array, 0)


def test_half_precision_is_summed_in_float32():
    features = np.random.default_rng(0).random((1, 64, 64, 1)).astype(np.float32)
    half = jnp.array(features, jnp.bfloat16)
    (cell,) = pyramid_pool(half, (1,))
    (exact,) = pyramid_pool(half.astype(jnp.float32), (1,))
    assert cell.dtype == jnp.bfloat16
    golden.assert_close(cell.astype(jnp.float32), exact, 4e-3)

"""Images of several sizes on one canvas get the answers that they get by themselves."""

import functools
import math
import re

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sdfl_jax import models
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data import eval_sources, tiling
from sdfl_jax.data.batches import FileSource, eval_batches
from sdfl_jax.evaluate import scorers, scoring
from sdfl_jax.evaluate.options import Options
from sdfl_jax.explain import explainer
from sdfl_jax.models import ENCODERS, canvas, layers, starter
from sdfl_jax.models.encoders.efficientnet_lite import EfficientNetLite
from sdfl_jax.models.encoders.resnet import BasicBlock, ResNet
from sdfl_jax.predict import predictor
from tests import tiny

CANVAS = (128, 128)
SIZES = ((64, 96), (128, 64))

# As they are, of fewer blocks.
ENCODERS["small_resnet"] = functools.partial(
    ResNet, stages=(1, 1, 1, 1), block=BasicBlock
)
ENCODERS["small_efficientnet"] = functools.partial(
    EfficientNetLite,
    stages=((1, 3, 1, 1, 8), (2, 3, 2, 2, 8), (1, 5, 2, 2, 8), (1, 3, 2, 2, 8))
    + ((1, 5, 2, 2, 8),),
)
NETWORKS = {
    "starter": {"encoder": "small_efficientnet", "width": 16, "noise_width": 8},
    "unet": {"widths": (4, 8, 8)},
    "sdfl": {
        "encoder": "small_resnet",
        "width": 16,
        "pyramid_width": 8,
        "label_input": "pyramid+mask",
        "grid_norm": "group",
    },
    "classifier": {"encoder": "tiny"},
}


def drawn(name, **settings):
    """A network and weights whose biases and running statistics are not zero."""
    model = models.build(name, **settings)
    variables = jax.eval_shape(
        lambda: models.init_variables(model, 64, jax.random.key(0))
    )
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        values = rng.normal(size=leaf.shape).astype(np.float32)
        if path[-1].key == "var":
            return np.abs(values) + 1
        return values / np.sqrt(max(1, np.prod(leaf.shape[:-1]))) + (
            len(leaf.shape) < 2
        )

    return model, jax.tree_util.tree_map_with_path(draw, variables)


def on_canvas(images):
    """Each image in the corner of a canvas that holds other things beyond it."""
    rng = np.random.default_rng(1)
    whole = rng.random((len(images), *CANVAS, 3), np.float32)
    for row, image in zip(whole, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return whole, np.array([image.shape[:2] for image in images], np.int32)


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_on_a_canvas_gets_its_own_answer(name, monkeypatch):
    monkeypatch.setattr(starter, "_MOST_POSITIONS", 30)  # so that blocks differ
    model, variables = drawn(name, **NETWORKS[name])
    assert canvas.fits(model)
    rng = np.random.default_rng(2)
    images = [rng.random((*size, 3), np.float32) for size in SIZES]
    whole, extent = on_canvas(images)

    @jax.jit
    def together(variables, images, extent):
        with canvas.of(extent, CANVAS):
            return model.apply(variables, images, train=False)

    alone = jax.jit(functools.partial(model.apply, train=False))
    found = together(variables, whole, extent)
    height, width = SIZES[0]
    alone = jax.jit(functools.partial(model.apply, train=False))
    expected = alone(variables, images[0][None])
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4)
    close(found.label_logits[:1], expected.label_logits)
    if expected.mask_logits is not None:
        close(found.mask_logits[:1, :height, :width], expected.mask_logits)


def test_networks_with_layers_that_see_beyond_are_not_asked_on_a_canvas():
    assert not canvas.fits(models.build("segformer"))
    assert not canvas.fits(models.build("sdfl", encoder="convnext_tiny"))


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of a CPU's loops")
def test_no_loop_over_a_map_looks_up_where_the_image_ends():
    """Else a CPU does it for every value, which took up to eight times as long."""
    conv = layers.Conv(8, 3, groups=8)
    variables = conv.init(jax.random.key(0), jnp.zeros((1, 16, 16, 8)))

    def each(maps, extents):
        def alone(row):
            with canvas.of(row[1][None], (64, 64)):
                return conv.apply(variables, layers.relu(row[0][None] * 2))

        return jax.lax.map(alone, (maps, extents))

    given = jnp.zeros((4, 16, 16, 8)), jnp.full((4, 2), 32)
    program = jax.jit(each).lower(*given).compile().as_text()
    loops = [part for part in program.split("\n\n") if " pad(" in part]
    assert loops
    for loop in loops:
        assert not re.search(r"s32\[.*dynamic-slice\(", loop)


def test_mirroring_on_a_canvas_stays_within_the_image():
    x = jnp.arange(24.0).reshape(1, 4, 6, 1)
    with canvas.of(jnp.array([[3, 2]]), (4, 6)):
        mirrored = canvas.flip(x, (1, 2))
    np.testing.assert_array_equal(mirrored[0, :3, :2, 0], x[0, 2::-1, 1::-1, 0])


@pytest.mark.parametrize("size", [(2, 3), (8, 12), (5, 7)])
def test_maps_are_resized_as_by_themselves(size):
    x = np.random.default_rng(0).random((1, 4, 6, 2), np.float32)
    expected = layers.resize(jnp.asarray(x), *size)
    wide = np.full((1, 8, 12, 2), 7.0, np.float32)
    wide[:, :4, :6] = x
    with canvas.of(jnp.array([[4, 6]]), (8, 12)):
        found = layers.resize(jnp.asarray(wide), size[0] * 2, size[1] * 2)
    np.testing.assert_allclose(found[:, : size[0], : size[1]], expected, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of three sizes, their list, and a run of a covered network."""
    folder = tmp_path_factory.mktemp("mixed")
    sizes = [(50, 60), (40, 100), (110, 60)]
    listed = tiny.write_images(folder / "images", 5, sizes=sizes)
    run = tiny.write_run(folder / "run", data__geometry="crop")
    return folder, listed, run


def evaluated(listed, run, out):
    """Scores by name, the loss, and the shapes that batches had."""
    (data_set,) = eval_sources.list_sets(str(listed))
    trained = checkpoint.load(run, "best")
    options = Options(out=out, workdir=str(run), data=str(listed), batch_size=2)
    network = scorers.Network(trained, options)
    step, shapes = network.step, set()

    def seen(variables, arrays):
        shapes.add(arrays["image"].shape)
        return step(variables, arrays)

    network.step = seen
    evaluation, _ = scoring.score(network, [data_set], options)
    found = {known["name"]: i for i, known in enumerate(evaluation.known)}
    order = [found[name] for name in sorted(found)]
    arrays = evaluation.score[order], evaluation.histograms[order]
    return *arrays, evaluation.loss, shapes


def test_a_mixed_folder_scores_as_size_by_size_with_few_programs(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(tiling, "CANVASES", 1)
    _, listed, run = folder
    out = str(tmp_path)
    lines = listed.read_text().splitlines()
    backwards = listed.with_name("backwards.csv")
    backwards.write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n")
    scores, histograms, loss, shapes = evaluated(listed, run, out)
    assert {shape[1:3] for shape in shapes} == {(128, 128)}
    again = evaluated(backwards, run, out)
    np.testing.assert_array_equal(scores, again[0])
    np.testing.assert_array_equal(histograms, again[1])

    monkeypatch.setattr(canvas, "fits", lambda model: False)
    plain, counted, plain_loss, shapes = evaluated(listed, run, out)
    assert len(shapes) == 3
    np.testing.assert_allclose(scores, plain, atol=1e-5)
    moved = np.abs(np.cumsum(histograms - counted, axis=-1)).sum()  # pixels x values
    assert moved <= 1e-3 * counted.sum()
    assert loss == pytest.approx(plain_loss, abs=1e-5)


def test_files_and_streams_are_answered_as_size_by_size(folder, monkeypatch):
    monkeypatch.setattr(tiling, "LADDER", ((160, 160),))
    where, _, run = folder
    paths = sorted((where / "images").glob("?.png"))[:2]
    net = predictor.Predictor(run)
    files, stream = list(net.of_files(paths)), list(net.predict_many(paths))
    net.canvas = False
    for found, one, plain in zip(files, stream, net.of_files(paths), strict=True):
        for other in (found, one):
            np.testing.assert_allclose(other.mask_probs, plain.mask_probs, atol=1e-5)
            assert other.score == pytest.approx(plain.score, abs=1e-5)


def test_explanations_do_not_see_the_canvas(folder, tmp_path, monkeypatch):
    where, _, run = folder
    paths = sorted((where / "images").glob("?.png"))[:2]
    trained = checkpoint.load(run, "best")

    def maps(out):
        lines = explainer.run(trained, FileSource(paths), out, labelled=False, steps=2)
        assert all("score" in line for line in lines)
        return {p.relative_to(out): cv2.imread(str(p), 0) for p in out.glob("*/*.png")}

    found = maps(tmp_path / "canvas")
    monkeypatch.setattr(canvas, "fits", lambda model: False)
    for name, expected in maps(tmp_path / "plain").items():
        if name.parts[0] != "pictures":
            assert np.abs(found[name].astype(int) - expected).max() <= 1


@pytest.mark.parametrize("count", [1, 5, 300])
def test_canvases_are_few_hold_every_row_and_know_no_order(count):
    rng = np.random.default_rng(count)
    sizes = [tuple(rng.integers(1, 1400, 2).tolist()) for _ in range(count)]
    found = tiling.canvases(sizes, 1024)
    assert found == tiling.canvases(sizes[::-1], 1024)
    assert len(found) <= tiling.CANVASES
    for size in sizes:
        height, width = tiling.shape_of_rows(size, canvas=False)
        assert count == 1 or any(h >= height and w >= width for h, w in found)


@pytest.mark.parametrize("overlap", [0, 64])
@pytest.mark.parametrize("size", [(3000, 4000), (1025, 90), (60, 5000), (6100, 1024)])
def test_tiles_are_few_and_no_larger_than_that_takes(size, overlap):
    row = tiling.shape_of_rows(size, canvas=False)
    tiles = tiling.number_of_tiles(size, 1024, overlap)
    fewest = [max(1, -(-(n - overlap) // (1024 - overlap))) for n in size]
    assert tiles == math.prod(fewest)
    assert tiles * math.prod(row) <= 1.7 * math.prod(size)


@pytest.mark.parametrize("sizes", [[(600, 600)] * 9, [(90, 90), (600, 400)] * 5])
def test_a_sample_of_sizes_leaves_room_for_what_it_does_not_foresee(sizes):
    found = tiling.canvases(sizes, 1024, every=20)
    assert (1024, 1024) in found and len(found) <= tiling.CANVASES
    rows = {tiling.shape_of_rows(size, canvas=False) for size in sizes}
    smallest = {min(c for c in found if c[0] >= h and c[1] >= w) for h, w in rows}
    assert (1024, 1024) not in smallest
    many = [(128 * i, 1024) for i in range(1, 9)] * 1000
    assert len(tiling.canvases(many, 1024, every=2)) <= tiling.CANVASES


def test_of_many_images_a_sample_of_headers_is_read(folder, monkeypatch):
    where, _, _ = folder
    paths = sorted((where / "images").glob("?.png")) * 4
    read, size = [], FileSource.size

    def counted(source, index):
        read.append(index)
        return size(source, index)

    monkeypatch.setattr(FileSource, "size", counted)

    def rows(sizes):
        read.clear()
        monkeypatch.setattr("sdfl_jax.data.batches._SIZES", sizes)
        source = FileSource(paths)
        settings = {"image_size": 64, "geometry": "crop", "max_side": 256}
        batches = eval_batches(source, batch_size=2, canvas=True, **settings)
        found, shapes = {}, set()
        for batch in batches:
            image = batch.arrays["image"]
            shapes.add(image.shape[1:3])
            extents = batch.arrays["extent"]
            for row, tile in enumerate(batch.tiles):
                height, width = extents[row]
                found[tile.index] = image[row, :height, :width]
        return found, shapes

    known, _ = rows(len(paths))
    assert sorted(read) == list(range(len(paths)))
    sampled, shapes = rows(2)  # of one size: the others are not foreseen
    assert sorted(read) == [0, 10]
    assert len(shapes) <= tiling.CANVASES and (256, 256) in shapes
    assert sampled.keys() == known.keys()
    for index, image in known.items():
        np.testing.assert_array_equal(sampled[index], image)


def test_one_size_needs_no_canvas():
    assert tiling.canvases([(600, 600)] * 9, 1024) == []


def test_rare_large_images_leave_the_others_their_canvas():
    sizes = [(128, 128)] * 5000 + [(1000, 1000)]
    assert tiling.canvases(sizes, 1024) == [(128, 128), (1024, 1024)]

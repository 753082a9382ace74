"""JPEG coefficients beside the pixels, from files to batches."""

import io
from pathlib import Path

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image
from scipy import fft

from sdfl_jax import models
from sdfl_jax.config import check, of_network
from sdfl_jax.data import coefficients, pipeline, transforms
from sdfl_jax.data.batches import eval_batches
from sdfl_jax.data.build import __main__ as build_command
from sdfl_jax.errors import InputError
from sdfl_jax.models.layers import BatchNorm
from sdfl_jax.models.outputs import of_mask
from sdfl_jax.predict.predictor import Predictor
from sdfl_jax.train import train
from tests import golden, tiny

INPUTS = ("rgb", "jpeg")
SIDE = 32


@pytest.fixture(scope="module")
def catnet():
    return golden.load("catnet_input_a")[0]


def example_of(catnet) -> dict:
    return {
        "image": catnet["rgb"],
        "mask": catnet["mask_in"][..., None] * np.uint8(255),
        "encoded": catnet["jpeg"].tobytes(),
        "label": 1,
        "has_mask": True,
    }


def test_coefficients_and_table_are_those_of_the_file(catnet):
    dct, qtable = coefficients.read(catnet["jpeg"].tobytes())
    np.testing.assert_array_equal(dct[..., 0], catnet["y_coef"])
    np.testing.assert_array_equal(qtable, catnet["qtable_y"])


def test_windows_are_those_of_catnet(catnet):
    """But for what lies beyond the image: grey of a whole number, an empty mask."""
    example = coefficients.add(example_of(catnet))
    assert "encoded" not in example
    crop = transforms.RandomCrop(size=64)
    part = crop.random_map(example, np.random.default_rng(0))
    volume = np.minimum(np.abs(part["dct"]), 20)
    np.testing.assert_array_equal(volume, catnet["crop_dct"])
    there = catnet["crop_mask"] >= 0
    np.testing.assert_array_equal(
        part["mask"][there, 0] > 0, catnet["crop_mask"][there]
    )
    pixels = (part["image"].astype(np.float32) - 127.5) / 127.5
    np.testing.assert_allclose(pixels[there], catnet["crop_rgb"][there], atol=0.02)
    assert (part["image"][~there] == coefficients.GREY).all()
    whole = coefficients.window(example, 0, 0, *catnet["full_dct"].shape)
    volume = np.minimum(np.abs(whole["dct"]), 20)
    np.testing.assert_array_equal(volume, catnet["full_dct"])


def test_crops_begin_on_the_grid_of_the_blocks():
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (70, 90, 3), np.uint8)
    data = io.BytesIO()
    Image.fromarray(image).save(data, "jpeg", quality=90)
    pixels = np.array(Image.open(data))
    example = {"image": pixels, "mask": np.zeros((70, 90, 1), np.uint8)}
    example |= {"label": 0, "has_mask": True, "encoded": data.getvalue()}
    example = coefficients.add(example)
    starts = set()
    for seed in range(20):
        crop = transforms.RandomCrop(size=SIDE)
        part = crop.random_map(example, np.random.default_rng(seed))
        # The luminance that the coefficients stand for is that of the pixels.
        blocks = part["dct"].reshape(4, 8, 4, 8).transpose(0, 2, 1, 3) * part["qtable"]
        luma = fft.idctn(blocks, axes=(2, 3), norm="ortho") + 128
        luma = luma.transpose(0, 2, 1, 3).reshape(SIDE, SIDE)
        seen = part["image"] @ np.array([0.299, 0.587, 0.114])
        assert np.abs(np.clip(luma, 0, 255) - seen).mean() < 12
        starts.add(part["dct"].tobytes())
    assert len(starts) > 5


def test_other_files_get_the_coefficients_of_a_jpeg_of_full_quality():
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.integers(0, 256, (40, 50, 3), np.uint8), (9, 9), 0)
    png = {"encoded": cv2.imencode(".png", image)[1].tobytes(), "warnings": []}
    found = coefficients.add({"image": image} | png)
    assert found["dct"].shape == (40, 56, 1) and (found["qtable"] == 1).all()
    assert found["warnings"] == ["no_coefficients"]
    assert np.abs(found["image"].astype(int) - image).mean() < 1
    assert coefficients.add({"image": image})["dct"].any()


def test_what_is_resized_or_mirrored_is_refused(shards):
    settings = {"batch_size": 4, "seed": 0, "inputs": INPUTS}
    for how in (
        {"geometry": "resize", "flips": False, "image_size": SIDE},
        {"geometry": "crop", "flips": True, "image_size": SIDE},
        {"geometry": "crop", "flips": False, "image_size": 36},
    ):
        with pytest.raises(InputError, match="neither mirrored nor resized"):
            pipeline.train_batches(shards, **how, **settings)
        config = of_network("catnet")
        config.total_steps = 1
        config.image_size = how["image_size"]
        config.data.geometry, config.data.flips = how["geometry"], how["flips"]
        with pytest.raises(InputError, match="neither resized nor mirrored"):
            check(config)


# ------------------------------------------------------------ from shards to a network


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> Path:
    """JPEG files of 100x70 pixels, a PNG file among them, and their list."""
    folder = tmp_path_factory.mktemp("jpeg")
    rng = np.random.default_rng(0)
    lines = ["image,mask,edge,label"]
    for i in range(8):
        image = cv2.GaussianBlur(
            rng.integers(0, 256, (70, 100, 3), np.uint8), (7, 7), 0
        )
        name = f"{i}.png" if i == 3 else f"{i}.jpg"
        cv2.imwrite(str(folder / name), image)
        mask = np.zeros((70, 100), np.uint8)
        mask[20:50, 30:60] = 255
        cv2.imwrite(str(folder / f"{i}_mask.png"), mask)
        lines.append(f"{name},{f'{i}_mask.png' if i % 2 else 'None'},None,{i % 2}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def shards(files, tmp_path_factory) -> str:
    out = tmp_path_factory.mktemp("shards") / "shards"
    list_ = f"--paths_file={files / 'list.csv'}"
    build_command.main([list_, f"--root={files}", f"--out={out}", "--workers=1"])
    return str(out)


def test_batches_hold_coefficients_of_their_windows(shards):
    settings = dict(image_size=SIDE, geometry="crop", flips=False, inputs=INPUTS)
    batches = pipeline.train_batches(shards, batch_size=8, seed=0, **settings)
    batch = next(batches)
    assert batch["dct"].shape == (8, SIDE, SIDE) and batch["dct"].dtype == np.int16
    assert batch["qtable"].shape == (8, 8, 8) and batch["dct"].any()
    plain = pipeline.train_batches(
        shards, batch_size=8, seed=0, **settings | {"inputs": ("rgb",)}
    )
    assert "dct" not in next(plain)


def test_tiles_of_an_image_begin_on_the_grid_and_cover_it(shards):
    batches = eval_batches(
        shards,
        batch_size=2,
        image_size=SIDE,
        geometry="crop",
        max_side=64,
        overlap=10,
        inputs=INPUTS,
    )
    covered = {}
    for batch in batches:
        assert batch.arrays["dct"].shape == batch.arrays["image"].shape[:3]
        for tile in batch.tiles:
            top, left, height, width = tile.box
            assert top % 8 == left % 8 == 0
            assert not {"dct", "encoded", "image"} & tile.example.keys()
            seen = covered.setdefault(tile.index, np.zeros((70, 100), bool))
            seen[top : top + height, left : left + width] = True
    assert len(covered) == 8 and all(seen.all() for seen in covered.values())
    with pytest.raises(InputError, match="cannot be resized"):
        next(
            eval_batches(
                shards, batch_size=2, image_size=SIDE, geometry="resize", inputs=INPUTS
            )
        )


class Reader(nn.Module):
    """A network of CAT-Net's inputs, and little else."""

    inputs = INPUTS

    @nn.compact
    def __call__(self, image, *, dct, qtable, train):
        assert dct.shape == image.shape[:3] and qtable.shape == (len(image), 8, 8)
        scaled = jnp.abs(dct) * jnp.tile(qtable, (1, *(n // 8 for n in dct.shape[1:])))
        x = jnp.concatenate([image, jnp.log1p(scaled)[..., None]], axis=-1)
        x = nn.relu(BatchNorm(name="bn")(nn.Conv(4, (3, 3))(x), train=train))
        return of_mask(nn.Conv(1, (1, 1), name="out")(x))


def test_a_network_of_both_inputs_trains_scores_and_predicts(
    files, shards, tmp_path, monkeypatch
):
    from sdfl_jax.evaluate.options import Options
    from sdfl_jax.evaluate.scoring import evaluate

    monkeypatch.setitem(models.MODELS, "reader", lambda dtype=None: Reader())
    config = tiny.config(shards, shards, total_steps=1, validate_every=1)
    config.model = {"name": "reader"}
    config.loss_weights = {"mask": 1.0, "label": 0.0}
    settings = {"geometry": "crop", "flips": False, "inputs": INPUTS}
    config.data = {"train": shards, "val": shards} | settings
    run = str(tmp_path / "run")
    train(config, run)

    scores = evaluate(Options(workdir=run, data=shards, out=str(tmp_path / "shards")))
    assert "quality 100" in scores["setting"]["inputs"]
    assert scores["no_coefficients"]["count"] == 1
    listed = Options(
        workdir=run,
        paths_file=str(files / "list.csv"),
        root=str(files),
        out=str(tmp_path / "list"),
    )
    assert evaluate(listed)["standard"] == scores["standard"]
    with pytest.raises(InputError, match="cannot be mirrored"):
        evaluate(
            Options(workdir=run, data=shards, out=str(tmp_path / "x"), tta="flips")
        )

    predictor = Predictor(run)
    one = predictor.predict(str(files / "0.jpg"))
    (same,) = predictor.of_files([files / "0.jpg"])
    np.testing.assert_array_equal(one.mask_probs, same.mask_probs)
    # Without its file an image has other coefficients.
    bare = predictor.predict(one.image)
    assert np.abs(bare.mask_probs - one.mask_probs).max() > 1e-4

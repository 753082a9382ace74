"""A network and data small enough to train in a test."""

from pathlib import Path
from typing import ClassVar

import cv2
import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import optax
from flax import linen as nn

from sdfl_jax import models
from sdfl_jax.checkpoints import checkpoint, saving
from sdfl_jax.config import check
from sdfl_jax.data.build import __main__ as build_command
from sdfl_jax.models import ENCODERS
from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import Conv
from sdfl_jax.models.outputs import of_mask
from sdfl_jax.state import init_state

SIDE = 32


class TinyEncoder(Encoder):
    """One convolution a stage: compiles in a second, where a ResNet takes a minute."""

    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    on_canvas = True

    @nn.compact
    def __call__(self, x, *, train: bool):
        maps = []
        for i, (features, strides) in enumerate([(8, 4), (8, 2), (16, 2), (16, 2)]):
            x = Conv(features, 5, strides, dtype=self.dtype, name=f"conv{i}")(x)
            x = nn.relu(self.norm(name=f"bn{i}")(x, train=train))
            maps.append(x)
        return maps


ENCODERS["tiny"] = TinyEncoder  # what a user does to add one


class OfCoefficients(nn.Module):
    """Reads what CAT-Net reads, in one convolution."""

    inputs: ClassVar = ("rgb", "jpeg")

    @nn.compact
    def __call__(self, image, *, dct, qtable, train: bool):
        volume = jax.nn.one_hot(jnp.clip(dct.astype(jnp.int32), 0, 3), 4)
        _, height, width, _ = image.shape
        table = jnp.tile(qtable, (1, height // 8, width // 8))[..., None] / 99
        x = jnp.concatenate([image, volume, table], axis=-1)
        return of_mask(Conv(1, 3, name="conv")(nn.relu(Conv(4, 3, name="first")(x))))


def write_images(folder: Path, count: int, seed: int = 0, sizes=((SIDE, SIDE),)):
    """Noise images, every other one with a bright square; returns the list's path."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["image,mask,edge,label,source,group,kind"]
    for i in range(count):
        height, width = sizes[i % len(sizes)]
        image = rng.integers(0, 128, (height, width, 3), np.uint8)
        label = i % 2
        if label:
            top, left = rng.integers(0, height // 2), rng.integers(0, width // 2)
            box = np.s_[top : top + height // 2, left : left + width // 2]
            image[box] += 127
            mask = np.zeros((height, width), np.uint8)
            mask[box] = 255
            cv2.imwrite(str(folder / f"{i}_mask.png"), mask)
        cv2.imwrite(str(folder / f"{i}.png"), image)
        mask_name = f"{i}_mask.png" if label else "None"
        kind = "square" if label else ""
        lines.append(f"{i}.png,{mask_name},None,{label},tiny,photo{i},{kind}")
    path = folder / "paths.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_shards(
    folder: Path, count: int, seed: int = 0, sizes=((SIDE, SIDE),), storage="original"
) -> str:
    """The folder of shards of such images."""
    paths = write_images(folder / "images", count, seed, sizes)
    build_command.main(
        [
            f"--paths_file={paths}",
            f"--root={folder / 'images'}",
            f"--out={folder / 'shards'}",
            f"--image_size={SIDE}",
            f"--storage={storage}",
            "--workers=1",
        ]
    )
    return str(folder / "shards")


def write_run(folder: Path, **changes) -> Path:
    """The working directory of a run that never trained; `changes` as in `config`."""
    fields = check(config("none", "none", **changes))
    model = models.build(**fields.model)
    variables = jax.jit(
        lambda rng: models.init_variables(model, fields.image_size, rng)
    )(jax.random.key(fields.seed))
    checkpoint.write_config(folder, fields)
    checkpoints = saving.Checkpoints(folder, keep=1)
    checkpoints.save_best(init_state(variables, optax.identity()), {})
    checkpoints.close()
    return folder


def write_run_of_coefficients(folder: Path, monkeypatch) -> Path:
    """That of a network, "jpegs" while a test runs, that reads what CAT-Net does."""
    monkeypatch.setitem(models.MODELS, "jpegs", OfCoefficients)
    return write_run(
        folder,
        model={"name": "jpegs"},
        data__geometry="crop",
        data__inputs=("rgb", "jpeg"),
        data__flips=False,
    )


def config(train: str, val: str, **changes) -> mlc.ConfigDict:
    """Four steps of a small `sdfl`, validated and saved every two."""
    fields = mlc.ConfigDict(
        {
            "total_steps": 4,
            "batch_size": 8,
            "image_size": SIDE,
            "data": {"train": train, "val": val, "geometry": "resize"},
            "model": {
                "name": "sdfl",
                "encoder": "tiny",
                "noise_branch": False,
                "width": 8,
                "pyramid_width": 8,
                "bins": (1,),
            },
            "optimizer": {"lr": 1e-3},
            "log_every": 1,
            "validate_every": 2,
            "save_every": 2,
        }
    )
    for name, value in changes.items():
        section, _, field = name.rpartition("__")
        (fields[section] if section else fields)[field] = value
    return fields

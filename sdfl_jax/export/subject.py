"""What is exported: a network as a function of its inputs, and what it must give."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

import sdfl_jax
from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data import coefficients, images, parts, photographs, tiling
from sdfl_jax.errors import InputError
from sdfl_jax.predict.exported import FORMAT
from sdfl_jax.steps import mask_source

TOLERANCE = 1e-4  # of an output's largest absolute value
_LEAST = 1e-3  # taken for the largest where every value is smaller
_INPUTS = {
    "image": "uint8, batch x height x width x 3, RGB, 0 to 255",
    "dct": "int16, batch x height x width: quantised luminance coefficients of the "
    "JPEG file, block (i, j) at 8i, 8j, vertical frequency first",
    "qtable": "float32, batch x 8 x 8: what they were divided by, in that order",
}
_CHECKED_ON = ("astronaut", "coffee", "flower", "rocket")


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network that is exported at one size.

    `call` makes a dict of outputs from `inputs`, arrays of these names, shapes and
    types in this order: `image`, uint8 B H W 3, and what else the network reads.
    Outputs are `mask_probs` float32 B H W (of a network that gives masks) and `score`
    float32 B, both in [0, 1]. `about` describes it in JSON's terms. `examples` are
    inputs by name, random and of photographs, with what JAX makes of each.
    """

    model: object
    call: Callable
    inputs: dict[str, jax.ShapeDtypeStruct]
    about: dict
    examples: list[tuple[str, dict[str, np.ndarray], dict[str, np.ndarray]]]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of `image`."""
        return self.inputs["image"].shape

    def difference(self, run: Callable[[Mapping], Mapping]) -> float:
        """The largest difference of `run` from JAX, relative to each output's largest.

        Raises InputError that names the worst output where it exceeds `TOLERANCE`.
        """
        worst = (-1.0, "", "")
        for name, arrays, expected in self.examples:
            found = run(arrays)
            for output, wanted in expected.items():
                scale = max(float(np.abs(wanted).max()), _LEAST)
                error = np.abs(np.asarray(found[output], np.float32) - wanted).max()
                error = float(error) / scale if np.isfinite(error) else np.inf
                if error > worst[0]:
                    worst = (error, output, name)
        error, output, name = worst
        if error > TOLERANCE:
            raise InputError(
                f"{self.about['network']} at {self.shape[1]},{self.shape[2]}: output "
                f"{output!r} differs from JAX by {error:.2g} of its largest value on "
                f"{name}, and {TOLERANCE:g} is allowed; nothing was written."
            )
        return error


def read(
    workdir: str | os.PathLike,
    checkpoint_name: str = "best",
    *,
    image_size: tuple[int, int] | None = None,
    batch: int = 1,
) -> Subject:
    """The network of a working directory, or one that ships, at one size and batch.

    Without `image_size` (height, width) it is the size at which `sdfl predict` shows it
    images: that of the training where they are stretched, else that of a tile.

    Raises InputError where there is no such network and for a size it cannot take.
    """
    trained = checkpoint.load(workdir, checkpoint_name)
    config, model = trained.config, trained.model
    geometry = config.data.geometry
    size = _fitting(image_size, model, config)
    pixel_threshold, image_threshold = trained.thresholds
    encoder = getattr(model, "encoder", None)
    normalisation = {"scale": 1 / 255}
    for name in ("mean", "std"):
        if hasattr(encoder, name):
            normalisation[name] = list(getattr(encoder, name))
    about = {
        "sdfl_format": FORMAT,
        "made_by": f"sdfl_jax {sdfl_jax.__version__}, jax {jax.__version__}",
        "network": config.model.name,
        "step": trained.step,
        "sha256": trained.sha256,
        "normalisation": normalisation
        | {"where": "inside: give the pixels as they are"},
        "image_size": list(size),
        "batch": batch,
        "geometry": geometry,
        "overlap": tiling.OVERLAP,
        "image_threshold": image_threshold,
        "pixel_threshold": pixel_threshold,
        "calibration": _calibration(trained.calibration),
        "mask_source": mask_source(model, "grad_cam"),
    }
    return of_model(model, trained.variables, (batch, *size, 3), about)


def of_model(model, variables, shape: tuple[int, ...], about: dict) -> Subject:
    """A `Subject` of any network for images of `shape`.

    `about` is completed by what goes in and comes out.
    """
    reads = tuple(getattr(model, "inputs", ("rgb",)))

    def call(image, *more):
        image = image.astype(jnp.float32) / 255
        more = dict(zip(coefficients.PLANES, more, strict=False))
        outputs = model.apply(variables, image, **more, train=False)
        found = {"score": outputs.image_score()}
        if outputs.mask_logits is not None:
            found["mask_probs"] = jax.nn.sigmoid(outputs.mask_logits[..., 0])
        return found

    compiled = jax.jit(lambda *arrays: call(*arrays))
    examples = [
        (name, arrays, jax.tree.map(np.asarray, compiled(*arrays.values())))
        for name, arrays in check_inputs(shape, reads)
    ]
    for name, _, given in examples:
        for output, values in given.items():
            if not np.isfinite(values).all():
                raise InputError(
                    f"{about['network']}: its output {output!r} on {name} holds values "
                    "that are no numbers (NaN or infinity); nothing was written."
                )
    outputs = {
        "mask_probs": "float32, batch x height x width: each pixel's probability of "
        "being manipulated",
        "score": "float32, batch: the image's",
    }
    _, arrays, given = examples[0]
    inputs = {
        name: jax.ShapeDtypeStruct(array.shape, array.dtype)
        for name, array in arrays.items()
    }
    about = about | {
        "reads": list(reads),
        "inputs": {name: _INPUTS[name] for name in inputs},
        "outputs": {name: said for name, said in outputs.items() if name in given},
    }
    return Subject(model, call, inputs, about, examples)


def check_inputs(
    shape: Sequence[int], reads: Sequence[str] = ("rgb",)
) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Batches of noise and of photographs, what a network reads of them by name.

    Coefficients are those of the photograph as JPEG, see `data.coefficients`.
    """
    batch, height, width, _ = shape
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    found = [("random pixels", noise)]
    for first in range(0, len(_CHECKED_ON), batch):
        names = [_CHECKED_ON[(first + i) % len(_CHECKED_ON)] for i in range(batch)]
        planes = [
            parts.pad(images.read_image(path)[:height, :width], height, width)
            for path in map(photographs.path, names)
        ]
        found.append((f"the photograph {names[0]}", np.stack(planes)))
    if "jpeg" not in reads:
        return [(name, {"image": image}) for name, image in found]
    return [(name, _with_coefficients(image)) for name, image in found]


def _with_coefficients(image: UInt8[np.ndarray, "B H W 3"]) -> dict[str, np.ndarray]:
    rows = []
    for one in image:
        example = coefficients.add({"image": one, "mask": one[..., :1]})
        rows.append(coefficients.window(example, 0, 0, *one.shape[:2]))
    names = ("image", *coefficients.PLANES)
    return {name: np.stack([row[name] for row in rows]) for name in names}


def _fitting(size: tuple[int, int] | None, model, config) -> tuple[int, int]:
    """The size asked for, or the network's own; InputError where it does not fit."""
    stretched = config.data.geometry == "resize"
    only = config.image_size if hasattr(model, "image_size") else None
    if size is None:
        side = config.image_size if stretched or only else tiling.MAX_SIDE
        return (side, side)
    given = f"--image_size={size[0]},{size[1]}"
    if only and size != (only, only):
        raise InputError(f"{given}: {config.model.name} knows {only},{only} alone.")
    nearest = [
        max(tiling.STRIDE, round(n / tiling.STRIDE) * tiling.STRIDE) for n in size
    ]
    if not only and tuple(nearest) != size:
        raise InputError(
            f"{given}: multiples of {tiling.STRIDE} are needed; the nearest is "
            f"{nearest[0]},{nearest[1]}."
        )
    if stretched and size[0] != size[1]:
        raise InputError(
            f"{given}: this network sees every image stretched to a square; give "
            f"{config.image_size},{config.image_size}, which it was trained at."
        )
    return size


def _calibration(found: Mapping | None) -> dict | None:
    """What a verdict and a likelihood ratio need of a calibration."""
    needed = ("band", "logistic", "images")
    return {key: found[key] for key in needed if key in found} if found else None

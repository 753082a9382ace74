"""A trained network, loaded once, that answers for any images."""

import os
from collections.abc import Iterator, Mapping

import jax
import numpy as np

from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data import tiling
from sdfl_jax.data.batches import eval_batches
from sdfl_jax.devices import compiled, sharding
from sdfl_jax.models import canvas, inputs_of
from sdfl_jax.predict.answer import Answering
from sdfl_jax.steps import make_evaluate_step, mask_source

_IMAGE_LEVEL_MASK = "grad_cam"


class Predictor(Answering):
    """Answers with the network of a working directory, as evaluation would score it.

    Or with one that ships with the package, by its name: "starter".

    The masks of a network that gives none are its Grad-CAM.
    """

    def __init__(self, workdir: str | os.PathLike, checkpoint_name: str = "best"):
        self._given = (workdir, checkpoint_name)
        compiled.keep()
        trained = checkpoint.load(workdir, checkpoint_name)
        self._mesh = sharding.data_mesh()
        # One after the other takes a CPU the least memory and time, and a batch that
        # is not full no more than what it holds: one program serves all numbers.
        self._one_by_one = self._mesh.devices.flat[0].platform == "cpu"
        self._least = self._rows(8 if self._one_by_one else 1)
        self._evaluate = make_evaluate_step(
            trained.model,
            self._mesh,
            one_by_one=self._one_by_one,
            image_level_mask=_IMAGE_LEVEL_MASK,
        )
        self._variables = jax.device_put(
            trained.variables, sharding.everywhere(self._mesh)
        )
        self.settings = {
            "image_size": trained.config.image_size,
            "geometry": trained.config.data.geometry,
            "inputs": tuple(trained.config.data.get("inputs", ("rgb",))),
            "again": tiling.second_look(trained.config.data),
        }
        self.canvas = canvas.fits(trained.model)
        self.sha256 = trained.sha256
        self.calibration = trained.calibration
        self.mask_source = mask_source(trained.model, _IMAGE_LEVEL_MASK)
        self.pixel_threshold, self.image_threshold = trained.thresholds

    def __reduce__(self):
        """Loaded again where it is unpickled."""
        return type(self), self._given

    def _step(self, arrays: Mapping) -> Mapping:
        names = ("image", "extent", "valid")
        given = {name: arrays[name] for name in names if name in arrays}
        given |= inputs_of(arrays)
        more = self._least - len(given["image"])
        if more > 0:  # rows that are not valid, and whose answers nobody reads
            given = {
                name: np.concatenate([x, np.zeros((more, *x.shape[1:]), x.dtype)])
                for name, x in given.items()
            }
        return self._evaluate(self._variables, given)

    @property
    def batch_size(self) -> int:
        return sharding.fitting_batch_size(1 if self._one_by_one else 8, self._mesh)

    def _batches(self, source, batch_size: int, workers: int = 0):
        return eval_batches(
            source,
            batch_size=self._rows(max(self._least, min(batch_size, len(source)))),
            workers=workers,
            keep_images=True,
            canvas=self.canvas,
            **self.settings,
        )

    def _rows(self, count: int) -> int:
        """A power of two that fits the devices: few sizes, so few programs."""
        rows = 1 << max(0, count - 1).bit_length()
        return sharding.fitting_batch_size(rows, self._mesh)

    def of_source(
        self, source, *, batch_size: int = 8
    ) -> Iterator[tuple[dict, np.ndarray, float]]:
        """Each example of an evaluation's source with its mask's probabilities (float32
        H W) and its score; what cannot be read is left out."""
        for found in self._assembled(self._batches(source, batch_size)):
            if not isinstance(found, dict):
                yield found[:3]


def load(network: str | os.PathLike = "starter", checkpoint: str = "best") -> Predictor:
    """The network of a working directory, or one that ships with the package, by name.

    `checkpoint` is "best", "latest" or a step. Raises `InputError` where there is no
    such network or checkpoint.
    """
    return Predictor(os.fspath(network), checkpoint)

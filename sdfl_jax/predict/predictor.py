"""A trained network, loaded once, that answers for any images."""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np

from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.data import pipeline
from sdfl_jax.devices import compiled, sharding
from sdfl_jax.errors import InputError
from sdfl_jax.predict.answer import Answer, Answering
from sdfl_jax.steps import make_evaluate_step, mask_source

_IMAGE_LEVEL_MASK = "grad_cam"
CALIBRATION = "calibration.json"  # beside the checkpoints: `sdfl_jax.report calibrate`


class Predictor(Answering):
    """Answers with the network of a working directory, as evaluation would score it.

    Or with one that ships with the package, by its name: "starter".

    The masks of a network that gives none are its Grad-CAM.
    """

    def __init__(self, workdir: str | os.PathLike, checkpoint_name: str = "best"):
        compiled.keep()
        trained = checkpoint.load(workdir, checkpoint_name)
        self._mesh = sharding.data_mesh()
        self._evaluate = make_evaluate_step(
            trained.model, self._mesh, image_level_mask=_IMAGE_LEVEL_MASK
        )
        self._variables = jax.device_put(
            trained.variables, sharding.everywhere(self._mesh)
        )
        self.settings = {
            "image_size": trained.config.image_size,
            "geometry": trained.config.data.geometry,
        }
        self.sha256 = fingerprint(trained.variables)
        self.calibration = calibration(workdir, trained.progress)
        self.mask_source = mask_source(trained.model, _IMAGE_LEVEL_MASK)
        self.pixel_threshold, self.image_threshold = trained.thresholds

    def _step(self, image: np.ndarray) -> Mapping:
        return self._evaluate(self._variables, {"image": image})

    def of_files(
        self,
        paths: Sequence[str | os.PathLike],
        *,
        root: str | os.PathLike | None = None,
        batch_size: int = 8,
        workers: int = 0,
    ) -> Iterator[Answer | dict]:
        """An `Answer` for each image, in the order given as far as sizes allow.

        What cannot be read, or gets an answer that is no number, is a dict of `name`
        and `error`, one line. Raises `InputError` where nothing can be read.
        """
        source = pipeline.FileSource(paths, root)
        batches = pipeline.eval_batches(
            source,
            batch_size=self._rows(min(batch_size, len(source))),
            workers=workers,
            keep_images=True,
            **self.settings,
        )
        return self._answers(batches)

    def _rows(self, count: int) -> int:
        """A power of two that fits the devices: few sizes, so few programs."""
        rows = 1 << max(0, count - 1).bit_length()
        return sharding.fitting_batch_size(rows, self._mesh)

    def of_source(
        self, source, *, batch_size: int = 8
    ) -> Iterator[tuple[dict, np.ndarray, float]]:
        """Each example of an evaluation's source with its mask's probabilities (float32
        H W) and its score; what cannot be read is left out."""
        batches = pipeline.eval_batches(
            source,
            batch_size=self._rows(min(batch_size, len(source))),
            keep_images=True,
            **self.settings,
        )
        for found in self._assembled(batches):
            if not isinstance(found, dict):
                yield found


def fingerprint(variables) -> str:
    """The SHA-256 of all weights: names, types, shapes and values."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(variables)[0]:
        leaf = np.asarray(leaf)
        name = f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n"
        digest.update(name.encode() + leaf.tobytes())
    return digest.hexdigest()


def calibration(workdir: str | os.PathLike, progress: Mapping) -> Mapping | None:
    """Of the model card, or of `WORKDIR/calibration.json`; None where neither has one.

    Raises InputError for a file that is none.
    """
    carried = (progress.get("card") or {}).get("calibration")
    path = Path(workdir) / CALIBRATION
    if carried or not path.exists():
        return carried or None
    try:
        found = json.loads(path.read_text())
        low, high = (float(end) for end in found["band"])
    except (ValueError, KeyError, TypeError):
        raise InputError(
            f"{path}: no calibration of `sdfl_jax.report calibrate`."
        ) from None
    if not 0 <= low <= high <= 1:
        raise InputError(f"{path}: a band of {low} to {high}, not within 0 to 1.")
    return found


def load(network: str | os.PathLike = "starter", checkpoint: str = "best") -> Predictor:
    """The network of a working directory, or one that ships with the package, by name.

    `checkpoint` is "best", "latest" or a step. Raises `InputError` where there is no
    such network or checkpoint.
    """
    return Predictor(os.fspath(network), checkpoint)

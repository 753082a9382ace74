"""Who answers: a trained network, or maps that another program saved."""

import collections
from collections.abc import Sequence
from pathlib import Path

from sdfl_jax.checkpoints import checkpoint
from sdfl_jax.config import loss_settings
from sdfl_jax.data import eval_sources, predictions, tiling
from sdfl_jax.data.batches import eval_batches
from sdfl_jax.devices import sharding
from sdfl_jax.errors import InputError
from sdfl_jax.evaluate.options import Options
from sdfl_jax.evaluators import Evaluation
from sdfl_jax.models import canvas
from sdfl_jax.steps import make_evaluate_step, mask_source


class Network:
    """A trained network and how it is asked."""

    def __init__(self, trained: checkpoint.Trained, options: Options):
        config = trained.config
        mesh = sharding.local_mesh(sharding.data_mesh())
        self.card = trained.progress.get("card")
        known = any(threshold is not None for threshold in trained.calibrated)
        self.calibrated = trained.calibrated if known else None
        self.calibration = trained.calibration
        self.step = make_evaluate_step(
            trained.model,
            mesh,
            flips=options.tta == "flips",
            # The same metrics from any batch, which GPUs pay for with their speed.
            one_by_one=mesh.devices.flat[0].platform == "cpu",
            image_level_mask=options.image_level_mask,
            **loss_settings(config),
        )
        self.variables = sharding.local_copy(trained.variables, mesh)
        geometry = "crop" if options.tile else config.data.geometry
        side = options.tile or tiling.MAX_SIDE
        overlap = options.overlap
        if overlap is None:
            overlap = min(tiling.OVERLAP, side // 2)
        self._settings = {
            "batch_size": sharding.fitting_batch_size(options.batch_size, mesh),
            "image_size": config.image_size,
            "geometry": geometry,
            "max_side": side,
            "overlap": overlap,
            "scoring": options.scoring,
            "workers": options.workers,
            "inputs": tuple(config.data.get("inputs", ("rgb",))),
            "again": tiling.second_look(config.data),
            "canvas": canvas.fits(trained.model),
        }
        cut = geometry == "crop"
        self.setting = {
            "step": trained.step,
            "weights_sha256": trained.sha256,
            "checkpoint": options.checkpoint,
            "scoring": options.scoring,
            "geometry": geometry,
            "tile": side if cut else None,
            "overlap": overlap if cut else None,
            "tta": options.tta,
            "enlarge": self._settings["again"].factor,
            "mask_source": mask_source(trained.model, options.image_level_mask),
            "config": config.to_dict(),
        }
        if "jpeg" in self._settings["inputs"]:
            self.setting["inputs"] = (
                "pixels and JPEG coefficients; other files, and those that EXIF data "
                "turn, as JPEG of quality 100, 4:4:4"
            )

    def batches(self, source, set_name: str, keep_images: bool):
        return eval_batches(source, keep_images=keep_images, **self._settings)

    def finish(self, evaluation: Evaluation, notes: dict[str, list]) -> dict:
        return notes


class Saved:
    """Maps and scores that another program saved."""

    variables = calibrated = calibration = card = None

    def __init__(self, options: Options, sets: Sequence[eval_sources.DataSet]):
        root = Path(options.predictions)
        # As evaluation itself writes them: a folder for each of several sets.
        apart = len(sets) > 1 and all((root / part.name).is_dir() for part in sets)
        self._folders = {
            part.name: predictions.Predictions(root / part.name if apart else root)
            for part in sets
        }
        self._workers = options.workers
        self.step = predictions.saved_step
        scored = {folder.scores is not None for folder in self._folders.values()}
        sources_of_scores = {True: predictions.SCORES, False: "maximum of the map"}
        self.setting = {
            "predictions": options.predictions,
            "scoring": "original",
            "mask_source": "saved predictions",
            "score_source": ", ".join(sources_of_scores[given] for given in scored),
        }

    def batches(self, source, set_name: str, keep_images: bool):
        predicted = predictions.Predicted(source, self._folders[set_name])
        return predictions.saved_batches(predicted, self._workers)

    def finish(self, evaluation: Evaluation, notes: dict[str, list]) -> dict:
        """Checks what only the whole shows, and lists files that fit no image."""
        images_of = collections.defaultdict(set)
        for folder, file, name in notes.pop("files", ()):
            images_of[folder, file].add(name)
        for (_, file), names in images_of.items():
            if len(names) > 1:
                raise InputError(
                    f"--predictions: {file} fits {len(names)} images, "
                    f"{' and '.join(sorted(names)[:2])}; call it as the image, with "
                    ".png behind."
                )
        found = evaluation.histograms.sum(axis=(0, 1))
        if found[1] and not found[2:].any():
            raise InputError(
                "--predictions: no map holds a value above 1; write maps from 0 to 255."
            )
        there = {
            (predicted.folder, file)
            for predicted in self._folders.values()
            for file in predicted.files
        }
        extra = sorted(file for _, file in there - images_of.keys())
        return notes | {"extra_predictions": extra}

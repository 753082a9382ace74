"""Periodic validation: metrics, plateau schedule, best checkpoint."""

import math
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from sdfl_jax import optim
from sdfl_jax.data.batches import eval_batches
from sdfl_jax.data.damaged import DamagedRecords
from sdfl_jax.data.eval_sources import Part, Prepared
from sdfl_jax.data.records import RecordSource
from sdfl_jax.data.tiling import Batch
from sdfl_jax.devices import sharding
from sdfl_jax.devices.processes import first_does, gather, is_first, together
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators import Evaluation, Evaluator
from sdfl_jax.metrics import DECISIVE
from sdfl_jax.models import inputs_of
from sdfl_jax.report import Log, overlay
from sdfl_jax.training import health
from sdfl_jax.training.preemption import Preemption

SHOWN_IMAGES = 8


class _Left(Exception):
    """Validation was left in its middle."""


class Validation:
    """Scores the validation data, moves the learning rate, knows the best so far.

    Args:
      model: a network of `sdfl_jax.models`.
      evaluate_step: its, see `steps.make_evaluate_step`, on this process's devices.
      mesh: these devices; each process scores its part of the data by itself.
      data: folder of the validation data's shards.
      batch_size: examples at a time, over all devices of `mesh`.
      image_size, geometry, inputs, workers: see `batches.eval_batches`.
      every_steps: how often, beside the last of `total_steps`.
      best_metric: of `metrics.DECISIVE`, by which a state is the best so far.
      plateau: the schedule that follows the validation loss, if one does.
    """

    def __init__(
        self,
        model,
        evaluate_step: Callable,
        mesh: Mesh,
        data: str,
        *,
        batch_size: int,
        image_size: int,
        geometry: str,
        inputs: tuple[str, ...] = ("rgb",),
        workers: int,
        every_steps: int,
        total_steps: int,
        best_metric: str,
        plateau: optim.Plateau | None,
    ):
        self._every_steps = every_steps
        self._total_steps = total_steps
        self._mesh = mesh
        self._metric = best_metric
        self._image_size = image_size
        self._workers, self._geometry, self._inputs = workers, geometry, inputs
        self._part = jax.process_index(), jax.process_count()
        self._source = Part(Prepared(RecordSource(data)), *self._part)
        self._batch_size = sharding.fitting_batch_size(batch_size, mesh)
        self._damaged = DamagedRecords(data, len(self._source))
        self._evaluator = Evaluator(
            evaluate_step, self._batches, may_be_empty=jax.process_count() > 1
        )
        self._evaluate_step, self._model = evaluate_step, model
        self._plateau = plateau
        self.progress = {}

    @property
    def stop(self) -> bool:
        """Whether the plateau schedule has given up."""
        return self._plateau is not None and self._plateau.stop

    def resume(self, progress: dict):
        """Goes on from what a checkpoint kept."""
        self.progress = progress
        best = progress.get("best")
        if best and "figure" in best:  # older runs: losses were kept with their sign
            name = best["figure"]
            value = -best["value"] if name.startswith("loss") else best["value"]
            best = {"metric": name, "value": value, "step": best["step"]}
            self.progress = progress | {"best": best}
        if self._plateau and "plateau" in progress:
            self._plateau.load_state_dict(progress["plateau"])

    def _batches(self) -> Iterator[Batch]:
        first, count = self._part
        for batch in eval_batches(
            self._source,
            batch_size=self._batch_size,
            image_size=self._image_size,
            geometry=self._geometry,
            inputs=self._inputs,
            workers=self._workers,
            keep_images=True,
        ):
            places = [first + count * unread["index"] for unread in batch.errors]
            self._damaged.see(np.array(places, np.int64))
            yield batch

    def due(self, step: int) -> bool:
        """Whether the state of `step` is to be scored and was not yet."""
        due = step > 0 and (step % self._every_steps == 0 or step == self._total_steps)
        return due and self.progress.get("step") != step

    def run(self, step: int, state, log: Log, preemption: Preemption, last=None):
        """Returns the state, its learning rate moved if due, and whether it is best.

        `last` is the batch that the last step took and the loss that it had; scored
        again with running statistics it tells whether those can be trusted. Where the
        machine is wanted meanwhile, nothing changes and `step` stays due.
        """
        shown = []

        def show(example, mask_probs):
            if preemption.now:
                raise _Left
            if len(shown) < SHOWN_IMAGES:
                shown.append(_thumbnail(example, mask_probs, self._image_size))

        variables = sharding.local_copy(state.variables, self._mesh)
        try:
            result = together(lambda: self._evaluator.run(variables, on_example=show))
        except _Left:
            return state, False
        result = Evaluation.merge(gather(result.in_whole(*self._part)))
        scalars = result.loss | result.by_protocol["standard"]
        first_does(lambda: _log(log, step, scalars, shown))

        signs = self._signs(state, scalars, last)
        if self._plateau:
            self._plateau.update(result.loss["loss"])
            state = state.replace(
                opt_state=optim.set_learning_rate(state.opt_state, self._plateau.lr)
            )
        value = self._value(scalars)
        best = self.progress.get("best")
        is_best = is_better(self._metric, value, best)
        if is_best:
            best = {"metric": self._metric, "value": value, "step": step}
        self.progress = {
            "step": step,
            "best": best,
            "metrics": result.by_protocol,
            "loss": result.loss,
            "pixel_threshold": result.pixel_threshold,
            "image_threshold": result.image_threshold,
            "warnings": signs,
        }
        if self._plateau:
            self.progress["plateau"] = self._plateau.state_dict()
        if is_first():
            tqdm.write(
                f"step {step}: validation loss {result.loss['loss']:.4f}, "
                f"{self._metric} {value:.4f}" + (" (best so far)" if is_best else "")
            )
            for sign in signs:
                tqdm.write(f"WARNING: step {step}: {sign}.", file=sys.stderr)
        return state, is_best

    def _signs(self, state, scalars: dict, last) -> list[str]:
        """See `health`; the same on every process."""
        told = {}
        if last is not None:
            batch, loss = last
            # Not the averaged weights: those that the step's loss was of.
            variables = {"params": state.params, "batch_stats": state.batch_stats}
            variables = sharding.local_copy(variables, self._mesh)
            names = ("image", "mask", "label", "has_mask")
            more = inputs_of(batch)
            arrays = {name: batch[name] for name in names} | more
            arrays["valid"] = np.ones(len(arrays["label"]), bool)
            running = self._evaluate_step(variables, arrays)["batch_loss"]
            told = {
                "train_loss": float(loss),
                "running_loss": float(np.mean(gather(float(running)))),
                "furthest_off": lambda: health.furthest_off(
                    self._model, variables, arrays["image"], **more
                ),
            }
        statistics = sharding.local_copy(state.batch_stats, self._mesh)
        return health.warnings(scalars, statistics, metric=self._metric, **told)

    def summary(self) -> dict:
        """The best metric so far and its step."""
        best = self.progress.get("best")
        if best is None:
            return {"best_step": None}
        return {
            "best_step": best["step"],
            f"best_{best['metric']}": best["value"],
            "warnings": self.progress.get("warnings", []),
        }

    def _value(self, scalars: dict) -> float:
        """The metric that decides."""
        value = scalars.get(self._metric)
        if value is None:
            raise InputError(
                f"config.best_metric={self._metric!r}: not defined on config.data.val; "
                "most need authentic and manipulated images with masks, a loss's term "
                "a network that has it."
            )
        return value


def _log(log: Log, step: int, scalars: dict, shown: list[np.ndarray]):
    log.write(step, {f"val/{name}": value for name, value in scalars.items()})
    if shown:  # a process may have no part of few images
        log.images(step, "val", np.stack(shown))


def is_better(metric: str, value: float, best: dict | None) -> bool:
    """Whether `value` of `metric` beats the `best` so far; NaN never does.

    A `best` of another metric, from before a change of the config, is none.
    """
    if best is None or best["metric"] != metric:
        return not math.isnan(value)
    return DECISIVE[metric].beats(value, best["value"])


def _thumbnail(example, mask_probs, side: int):
    """Image, mask and prediction side by side, cut or filled up to one size."""
    mask = np.repeat(example["original_mask"][..., None], 3, axis=-1)
    panels = [example["image"], mask, overlay(example["image"], mask_probs)]
    canvas = np.zeros((side, 3 * side, 3), np.uint8)
    for i, panel in enumerate(panels):
        panel = panel[:side, :side]
        canvas[: panel.shape[0], i * side : i * side + panel.shape[1]] = panel
    return canvas

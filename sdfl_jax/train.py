"""A training run from first batch to last checkpoint."""

from pathlib import Path

import jax
import numpy as np
from clu import parameter_overview
from tqdm import tqdm

from sdfl_jax import checkpoint, optim, sharding
from sdfl_jax.checkpoint import Checkpoints
from sdfl_jax.config import check
from sdfl_jax.data import pipeline
from sdfl_jax.data.records import RecordSource
from sdfl_jax.errors import InputError
from sdfl_jax.evaluators import LocalizationEvaluator
from sdfl_jax.experiment import Experiment, build, first_variables
from sdfl_jax.meter import Meter
from sdfl_jax.report import Log, overlay

SHOWN_IMAGES = 8


def train(config, workdir: str):
    """Runs `config` to its last step, resuming whatever `workdir` already holds.

    Args:
      config: the fields of `sdfl_jax.config.defaults()`, all or some.
      workdir: folder of config, checkpoints, `metrics.jsonl` and TensorBoard events.

    Returns:
      The last state.

    Raises:
      InputError: a config, data or weights that do not fit; a loss that stays
        not finite.
    """
    config = check(config)
    steps_per_epoch = pipeline.steps_per_epoch(
        config.data.train, config.batch_size, balance=config.data.balance
    )
    total_steps = config.total_steps or config.total_epochs * steps_per_epoch
    validate_every = config.validate_every or steps_per_epoch

    experiment = build(config, total_steps)
    state = experiment.state(first_variables(config, experiment.model))
    show_parameters(state, workdir)
    validation = Validation(experiment)

    checkpoints = Checkpoints(workdir, keep=config.keep)
    state, progress = checkpoints.restore(state)
    validation.resume(progress)
    checkpoint.write_config(workdir, config)

    step = int(state.step)
    batches = pipeline.train_batches(
        config.data.train,
        batch_size=config.batch_size,
        image_size=config.image_size,
        geometry=config.data.geometry,
        seed=config.seed,
        flips=config.data.flips,
        balance=config.data.balance,
        process=jax.process_index(),
        processes=jax.process_count(),
        workers=config.data.workers,
        start_step=step,
    )
    log = Log(workdir, resume_step=step)
    meter = Meter(log, config, total_steps, step)

    while step < total_steps and not validation.stop:
        batch = meter.wait_for(batches)
        batch = sharding.to_global(batch, experiment.mesh)
        state, scalars = experiment.train_step(state, batch)
        step += 1
        meter.after_step(step, scalars)
        if step % validate_every == 0 or step == total_steps:
            meter.flush()
            state, is_best = validation.run(step, state, log)
            if is_best:
                checkpoints.save_best(state, validation.progress)
        if step % config.save_every == 0 or step == total_steps or validation.stop:
            meter.flush()
            checkpoints.save(state, validation.progress)

    meter.close()
    checkpoints.close()
    log.close()
    return state


def show_parameters(state, workdir: str):
    """Prints the size of each part; the whole table goes to `parameters.txt`."""
    path = Path(workdir) / "parameters.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(parameter_overview.get_parameter_overview(state.params) + "\n")
    sizes = {
        part: parameter_overview.count_parameters(tree)
        for part, tree in state.params.items()
    }
    parts = ", ".join(f"{part} {size:,}" for part, size in sizes.items())
    print(f"Parameters: {sum(sizes.values()):,} ({parts}); all of them: {path}")
    memory = sharding.bytes_per_device(state) / 2**20
    print(f"Parameters, statistics and optimizer: {memory:,.0f} MiB on each device")


class Validation:
    """Scores the validation data, moves the learning rate, knows the best so far."""

    def __init__(self, experiment: Experiment):
        config = experiment.config
        self._mesh = experiment.local_mesh
        self._figure = config.best_figure
        self._image_size = config.image_size
        source = RecordSource(config.data.val)
        self._evaluator = LocalizationEvaluator(
            experiment.evaluate_step,
            lambda: pipeline.eval_batches(
                source,
                batch_size=sharding.fitting_batch_size(config.batch_size, self._mesh),
                image_size=config.image_size,
                geometry=config.data.geometry,
                workers=config.data.workers,
                keep_images=True,
            ),
        )
        self._plateau = optim.make_plateau(
            config.optimizer.to_dict(), config.schedule.to_dict()
        )
        self.progress = {}

    @property
    def stop(self) -> bool:
        """Whether the plateau schedule has given up."""
        return self._plateau is not None and self._plateau.stop

    def resume(self, progress: dict):
        """Goes on from what a checkpoint kept."""
        self.progress = progress
        if self._plateau and "plateau" in progress:
            self._plateau.load_state_dict(progress["plateau"])

    def run(self, step: int, state, log: Log):
        """Returns the state, its learning rate moved if due, and whether it is best."""
        shown = []

        def show(example, mask_probs):
            if len(shown) < SHOWN_IMAGES:
                shown.append(_thumbnail(example, mask_probs, self._image_size))

        variables = sharding.local_copy(state.variables, self._mesh)
        result = self._evaluator.run(variables, on_example=show)
        scalars = result.loss | result.figures["standard"]
        log.write(step, {f"val/{name}": value for name, value in scalars.items()})
        log.images(step, "val", np.stack(shown))

        if self._plateau:
            self._plateau.update(result.loss["loss"])
            state = state.replace(
                opt_state=optim.set_learning_rate(state.opt_state, self._plateau.lr)
            )
        value = self._value(scalars)
        best = self.progress.get("best")
        is_best = best is None or value > best["value"]
        if is_best:
            best = {"figure": self._figure, "value": value, "step": step}
        self.progress = {
            "step": step,
            "best": best,
            "figures": result.figures,
            "loss": result.loss,
            "pixel_threshold": result.pixel_threshold,
            "image_threshold": result.image_threshold,
        }
        if self._plateau:
            self.progress["plateau"] = self._plateau.state_dict()
        tqdm.write(
            f"step {step}: validation loss {result.loss['loss']:.4f}, {self._figure} "
            f"{abs(value):.4f}" + (" (best so far)" if is_best else "")
        )
        return state, is_best

    def _value(self, scalars: dict) -> float:
        """The figure that decides, larger is better."""
        if self._figure not in scalars:
            raise InputError(
                f"config.best_figure={self._figure!r}: takes one of {sorted(scalars)}."
            )
        value = scalars[self._figure]
        if value is None:
            raise InputError(
                f"config.best_figure={self._figure!r}: not defined on config.data.val; "
                "it needs authentic and manipulated images with masks."
            )
        return -value if self._figure.startswith("loss") else value


def _thumbnail(example, mask_probs, side: int):
    """Image, mask and prediction side by side, cut or filled up to one size."""
    mask = np.repeat(example["original_mask"][..., None], 3, axis=-1)
    panels = [example["image"], mask, overlay(example["image"], mask_probs)]
    canvas = np.zeros((side, 3 * side, 3), np.uint8)
    for i, panel in enumerate(panels):
        panel = panel[:side, :side]
        canvas[: panel.shape[0], i * side : i * side + panel.shape[1]] = panel
    return canvas

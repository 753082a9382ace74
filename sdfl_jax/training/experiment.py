"""What a config builds: devices, network, optimizer and the compiled steps."""

import dataclasses
import functools
import os
import sys
from collections.abc import Callable
from typing import Any

import jax
import ml_collections as mlc
from jax.sharding import Mesh

from sdfl_jax import models, optim, weights
from sdfl_jax.checkpoints import checkpoint, saving
from sdfl_jax.config import check_change, loss_settings
from sdfl_jax.devices import sharding
from sdfl_jax.devices.processes import is_first
from sdfl_jax.errors import InputError
from sdfl_jax.state import TrainState, init_state
from sdfl_jax.steps import (
    DTYPES,
    choose_precision,
    make_evaluate_step,
    make_train_step,
)
from sdfl_jax.trees import matching


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The parts of a training run that need no data."""

    config: mlc.ConfigDict
    mesh: Mesh
    local_mesh: Mesh  # this process's devices: each process evaluates by itself
    precision: str
    model: Any
    tx: Any

    @functools.cached_property
    def train_step(self) -> Callable:
        """See `steps.make_train_step`."""
        config = self.config
        return make_train_step(
            self.model,
            self.tx,
            self.mesh,
            seed=config.seed,
            accumulate_steps=config.accumulate_steps,
            dynamic_loss_scale=self.precision == "float16",
            ema=config.ema,
            shard_state=config.mesh.shard_state,
            freeze=tuple(config.freeze),
            **loss_settings(config),
        )

    @functools.cached_property
    def evaluate_step(self) -> Callable:
        """See `steps.make_evaluate_step`; on this process's devices."""
        return make_evaluate_step(
            self.model, self.local_mesh, **loss_settings(self.config)
        )

    def state(self, variables: dict) -> TrainState:
        """The state before the first step, on the devices."""
        state = init_state(
            variables, self.tx, precision=self.precision, ema=self.config.ema > 0
        )
        return sharding.place(state, self.mesh, self.config.mesh.shard_state)


def build(config: mlc.ConfigDict, total_steps: int) -> Experiment:
    """The experiment of a complete config; says on which devices, in what precision.

    Raises InputError where the batch, the images or the names in the config do not fit.
    """
    mesh = sharding.make_mesh(config.mesh.data, config.mesh.space)
    _refuse_uneven(config, mesh)
    precision, reason = choose_precision(config.precision)
    if is_first():
        shape = " x ".join(f"{name} {size}" for name, size in mesh.shape.items())
        print(f"Devices: {shape}; precision: {precision} ({reason})")
    settings = config.model.to_dict() | {"dtype": DTYPES[precision]}
    if config.remat:
        settings["remat"] = True
    tx = optim.make_optimizer(
        config.optimizer.to_dict(),
        config.schedule.to_dict(),
        total_steps,
        lr_multipliers=config.lr_multipliers.to_dict(),
        freeze=tuple(config.freeze),
    )
    return Experiment(
        config=config,
        mesh=mesh,
        local_mesh=sharding.local_mesh(mesh),
        precision=precision,
        model=models.build(**settings),
        tx=tx,
    )


def first_variables(config: mlc.ConfigDict, model) -> dict:
    """A network's first weights: drawn, then replaced by the files of the config.

    What `init_from` learnt replaces the encoders' files, unless checkpoints leave these
    out (`save_frozen=False`): what is read again must be what was trained on.
    """
    # "rbg" draws compile in a third of the default's time.
    variables = jax.jit(
        lambda rng: models.init_variables(model, config.image_size, rng)
    )(jax.random.key(config.seed, impl="rbg"))

    def with_encoders(variables):
        for part, path in config.init_encoders.items():
            if path:
                variables = weights.load_encoder(path, variables, part=part)
        return variables

    if config.save_frozen:
        variables = with_encoders(variables)
    if config.init_from:
        given = checkpoint.load(config.init_from).variables
        what = f"config.init_from={config.init_from}"
        variables = matching.merge(what, given, variables, tuple(config.init_keep))
    return variables if config.save_frozen else with_encoders(variables)


def agree_with_config(
    workdir: str | os.PathLike, config: mlc.ConfigDict, *, allow_change: bool
):
    """Keeps `config` for the run, and compares it with the one that the run began with.

    Shows what differs; `InputError` where `config.check_change` refuses it.
    """
    if saving.has_begun(workdir):
        before = checkpoint.read_config(workdir).to_dict()
        for line in check_change(before, config, allow=allow_change):
            print(line, file=sys.stderr)
    checkpoint.write_config(workdir, config)


def _refuse_uneven(config: mlc.ConfigDict, mesh: Mesh):
    """Every device takes the same number of examples, and of rows of an image."""
    devices, space = mesh.shape["data"], mesh.shape["space"]
    parts = devices * config.accumulate_steps
    if config.batch_size % parts:
        fits = -(-config.batch_size // parts) * parts
        what = f"the {devices} devices"
        if config.accumulate_steps > 1:
            what += f" times config.accumulate_steps={config.accumulate_steps}"
        raise InputError(
            f"config.batch_size={config.batch_size}: not a multiple of {what}; "
            f"{fits} is."
        )
    if config.image_size % space:
        raise InputError(
            f"config.image_size={config.image_size}: not a multiple of "
            f"config.mesh.space={space}."
        )

"""A training run from first batch to last checkpoint."""

import contextlib
from pathlib import Path

import jax
from clu import parameter_overview

from sdfl_jax.checkpoints import card, checkpoint
from sdfl_jax.checkpoints.checkpoint import Checkpoints
from sdfl_jax.config import check
from sdfl_jax.data.damaged import DamagedRecords
from sdfl_jax.devices import sharding
from sdfl_jax.devices.processes import gather, is_first
from sdfl_jax.report import Log
from sdfl_jax.training import batches as batching
from sdfl_jax.training.experiment import build, first_variables
from sdfl_jax.training.lock import only_user
from sdfl_jax.training.preemption import Preempted, Preemption
from sdfl_jax.training.progress import Diverged, Meter, Profile, write_summary
from sdfl_jax.training.validation import Validation


def train(config, workdir: str, *, allow_config_change: bool = False):
    """Runs `config` to its last step, resuming whatever `workdir` already holds.

    Args:
      config: the fields of `sdfl_jax.config.defaults()`, all or some.
      workdir: folder of config, checkpoints, `metrics.jsonl` and TensorBoard events.
      allow_config_change: goes on although `config` is not what the run began with.

    Returns:
      The last state.

    Raises:
      InputError: a config, data or weights that do not fit; a loss that stays not
        finite; `workdir` in use by another process; too many damaged records.
      Preempted: SIGTERM came; the state is saved.
    """
    config = check(config)
    alone = only_user(workdir) if is_first() else contextlib.nullcontext()
    with alone, Preemption() as preemption:
        return _train(config, workdir, preemption, allow_config_change)


def _train(config, workdir: str, preemption: Preemption, allow_config_change: bool):
    steps_per_epoch = batching.steps_per_epoch(config)
    total_steps = config.total_steps or config.total_epochs * steps_per_epoch
    checkpoints = Checkpoints(
        workdir, keep=config.keep, model_card=card.describe(config)
    )
    checkpoint.agree_with_config(workdir, config, allow_change=allow_config_change)

    experiment = build(config, total_steps)
    variables = first_variables(config, experiment.model)
    state = experiment.state(variables)
    if is_first():
        show_parameters(variables["params"], workdir)
        memory = sharding.bytes_per_device(state) / 2**20
        print(f"Parameters, statistics and optimizer: {memory:,.0f} MiB on each device")
    state, progress = checkpoints.restore(state)
    validation = Validation(experiment, total_steps, steps_per_epoch)
    validation.resume(progress)

    step = int(state.step)
    batches = batching.train_batches(config, start_step=step)
    damaged = DamagedRecords(
        config.data.train, steps_per_epoch * config.batch_size // jax.process_count()
    )
    log = Log(workdir if is_first() else None, resume_step=step)
    meter = Meter(log, config, total_steps, step)
    profile = Profile(workdir, config.profile)

    try:
        unsaved, last = False, None
        while True:
            if validation.due(step):
                meter.flush()
                state, is_best = validation.run(step, state, log, preemption, last)
                if is_best:
                    checkpoints.save_best(state, validation.progress)
                unsaved = True
            finished = step >= total_steps or validation.stop
            preempted = preemption.after(step)
            if unsaved and (finished or preempted or step % config.save_every == 0):
                meter.flush()
                checkpoints.save(state, validation.progress)
                unsaved = False
            if finished or preempted:
                break

            profile.before_step()
            batch = meter.wait_for(batches)
            damaged.see(batch.pop("damaged"))
            state, scalars = experiment.train_step(
                state, sharding.to_global(batch, experiment.mesh)
            )
            step += 1
            unsaved, last = True, (batch, scalars["loss"])
            profile.after_step(scalars)
            meter.after_step(step, scalars, batch["index"])
            checkpoints.check()
    except Diverged as error:
        checkpoints.save(state, validation.progress)
        checkpoints.close()
        raise error.written(workdir) from None
    finally:
        meter.close()

    profile.close()
    checkpoints.close()
    log.close()
    if not finished:
        raise Preempted(step)
    summary = meter.summary(step) | {
        "skipped_steps": int(state.skipped),
        "damaged_records": sorted(set().union(*gather(damaged.places))),
    }
    if is_first():
        write_summary(workdir, summary | validation.summary())
    return state


def show_parameters(params: dict, workdir: str):
    """Prints the size of each part; the whole table goes to `parameters.txt`."""
    path = Path(workdir) / "parameters.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(parameter_overview.get_parameter_overview(params) + "\n")
    sizes = {
        part: parameter_overview.count_parameters(tree) for part, tree in params.items()
    }
    parts = ", ".join(f"{part} {size:,}" for part, size in sizes.items())
    print(f"Parameters: {sum(sizes.values()):,} ({parts}); all of them: {path}")

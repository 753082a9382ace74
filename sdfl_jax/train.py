"""A training run from first batch to last checkpoint."""

import contextlib
from pathlib import Path

import jax
from clu import parameter_overview

from sdfl_jax import optim
from sdfl_jax.checkpoints import card, frozen
from sdfl_jax.checkpoints.saving import Checkpoints
from sdfl_jax.config import check, check_data
from sdfl_jax.data.damaged import DamagedRecords
from sdfl_jax.devices import sharding
from sdfl_jax.devices.processes import (
    Held,
    first_does,
    gather,
    is_first,
    together,
)
from sdfl_jax.report import Log
from sdfl_jax.training import train_data
from sdfl_jax.training.experiment import (
    agree_with_config,
    build,
    first_variables,
)
from sdfl_jax.training.lock import only_user
from sdfl_jax.training.preemption import Preempted, Preemption
from sdfl_jax.training.progress import (
    Diverged,
    Profile,
    Progress,
    no_silent_copies,
    write_summary,
)
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
    check_data(config)
    with contextlib.ExitStack() as stack:
        first_does(lambda: stack.enter_context(only_user(workdir)))
        preemption = stack.enter_context(Preemption())
        opened = stack.enter_context(contextlib.ExitStack())
        return _train(config, workdir, preemption, opened, allow_config_change)


def _train(
    config,
    workdir: str,
    preemption: Preemption,
    opened: contextlib.ExitStack,
    allow_config_change: bool,
):
    """`opened` closes what this opens, however the run ends."""
    steps_per_epoch = train_data.steps_per_epoch(config)
    total_steps = config.total_steps or config.total_epochs * steps_per_epoch
    described = card.describe(
        config.to_dict(),
        train=config.data.train,
        val=config.data.val,
        audit=config.data.audit,
    )
    left_out = None
    if not config.save_frozen:
        left_out = frozen.of_config(config.freeze, config.init_encoders.to_dict())
    checkpoints = Checkpoints(
        workdir, keep=config.keep, model_card=described, left_out=left_out
    )
    opened.callback(checkpoints.close)
    first_does(
        lambda: agree_with_config(workdir, config, allow_change=allow_config_change)
    )

    experiment = build(config, total_steps)
    variables = first_variables(config, experiment.model)
    state = experiment.state(variables)
    first_does(lambda: show_parameters(variables["params"], workdir))
    del variables  # the state's are these, or copies
    if is_first():
        memory = sharding.bytes_per_device(state) / 2**20
        print(f"Parameters, statistics and optimizer: {memory:,.0f} MiB on each device")
    state, kept = checkpoints.restore(state)
    validation = Validation(
        experiment.model,
        experiment.evaluate_step,
        experiment.local_mesh,
        config.data.val,
        batch_size=config.batch_size,
        image_size=config.image_size,
        geometry=config.data.geometry,
        inputs=tuple(config.data.inputs),
        workers=config.data.workers,
        every_steps=config.validate_every or steps_per_epoch,
        total_steps=total_steps,
        best_metric=config.best_metric,
        plateau=optim.make_plateau(config.optimizer.lr, config.schedule.to_dict()),
    )
    validation.resume(kept)

    step = int(state.step)
    batches = train_data.train_batches(config, start_step=step)
    opened.callback(batches.close)
    damaged = DamagedRecords(
        config.data.train, steps_per_epoch * config.batch_size // jax.process_count()
    )
    log = first_does(lambda: Log(workdir, resume_step=step)) or Log(None)
    opened.callback(log.close)
    held = Held()
    progress = Progress(
        log,
        held,
        step=step,
        total_steps=total_steps,
        batch_size=config.batch_size,
        log_every=config.log_every,
        origin={"seed": config.seed, "data": config.data.train},
    )
    opened.callback(progress.close)
    profile = Profile(workdir, config.profile)
    opened.callback(profile.close)

    first = step + 1
    try:
        unsaved, last = False, None
        while True:
            if validation.due(step):
                progress.flush()
                state, is_best = validation.run(step, state, log, preemption, last)
                if is_best:
                    checkpoints.save_best(state, validation.progress)
                unsaved = True
            finished = step >= total_steps or validation.stop
            preempted = preemption.after(step)
            if unsaved and (finished or preempted or step % config.save_every == 0):
                progress.flush()
                checkpoints.save(state, validation.progress)
                unsaved = False
            if finished or preempted:
                break

            profile.before_step()
            step += 1
            batch = progress.wait_for(batches)
            with held.back():
                damaged.see(batch.pop("damaged"))
            arrays = sharding.to_global(batch, experiment.mesh)
            # The first step compiles, which may read constants of the network.
            with profile.annotated(step), no_silent_copies(step > first):
                state, scalars = experiment.train_step(state, arrays)
            unsaved, last = True, (batch, scalars["loss"])
            profile.after_step(scalars)
            progress.after_step(step, scalars, batch["index"])
            with held.back():
                checkpoints.check()
    except Diverged as error:
        checkpoints.save(state, validation.progress)
        raise error.written(workdir) from None

    together(opened.close)
    if not finished:
        raise Preempted(step, preemption.by)
    summary = progress.summary(step) | {
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

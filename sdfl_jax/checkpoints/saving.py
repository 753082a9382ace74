"""Saving and resuming a run.

`WORKDIR/config.json` says which network; `WORKDIR/checkpoints/latest/STEP` holds the
last few states of training and `WORKDIR/checkpoints/best/STEP` the one that validated
best. Each checkpoint holds three items: `model` (params and batch statistics: all that
evaluation needs, but for what `frozen` leaves out), `training` (optimizer and counters)
and `progress` (JSON: schedule, best metric, thresholds, `card`), and `hashes.json`:
orbax restores damaged bytes silently. The position in the data follows from the step.
"""

import contextlib
import dataclasses
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from sdfl_jax.checkpoints import card, frozen, hashes
from sdfl_jax.devices import processes
from sdfl_jax.errors import InputError
from sdfl_jax.state import TrainState
from sdfl_jax.trees import matching


class Checkpoints:
    """The numbered checkpoints of one run: the latest few, and the best.

    Where the latest are damaged, they move to `checkpoints/damaged` and the newest
    whole one counts; `InputError` if there is none.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        *,
        keep: int,
        model_card: dict | None = None,
        left_out: frozen.Frozen | None = None,
    ):
        self._workdir, self._card = workdir, model_card  # of `card.describe`
        self._left_out = left_out
        root = Path(workdir).absolute() / "checkpoints"
        processes.first_does(lambda: _set_damaged_aside(root))
        self._latest = _Saver(root / "latest", keep)
        self._best = _Saver(root / "best", 1)

    def save(self, state: TrainState, progress: dict):
        """Saves as the latest; returns when `state` may be donated, writes go on.

        The best is on the disk by then: `progress` may name it.
        """
        processes.together(self._best.wait)
        self._save(self._latest, state, progress, tell=not progress.get("best"))

    def save_best(self, state: TrainState, progress: dict):
        """Saves as the best, in place of the one before."""
        self._save(self._best, state, progress, tell=True)

    def _save(self, saver, state: TrainState, progress: dict, *, tell: bool):
        """Saves with the model card; `tell`: it is the one that people read."""
        if self._card:
            carried = card.with_scores(self._card, int(state.step), progress)
            progress = progress | {"card": carried}
            if tell:
                processes.first_does(lambda: card.write(self._workdir, carried))
        # Of the checkpoint that was read, `progress` may still tell this.
        progress = {k: v for k, v in progress.items() if k != frozen.KEY}
        if self._left_out:
            progress[frozen.KEY] = dataclasses.asdict(self._left_out)
        saver.save(state, progress, self._left_out)

    def restore(self, state: TrainState) -> tuple[TrainState, dict]:
        """The latest state, laid out as `state` is, and its progress.

        On a fresh run `state` itself and an empty dict.
        """
        manager = self._latest.manager
        step = manager.latest_step()
        if step is None:
            return state, {}
        progress = _progress(manager, step)
        left_out = frozen.of_progress(progress)
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        model, training = _taken_apart(wanted, left_out)
        _refuse_other_network(manager, step, model)
        saved = _saved(manager, step, "training")
        # Runs of float16 alone have this counter, and not those from before it.
        if "good_in_row" in saved:
            training["good_in_row"] = training["step"]
        else:
            training.pop("good_in_row", None)
        _refuse_other_optimizer(manager, step, saved, training)
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(model),
                training=ocp.args.StandardRestore(training),
            ),
        )
        model, training = restored.model, restored.training
        if left_out:
            read = left_out.read(wanted.variables, self._workdir)
            read = jax.tree.map(
                lambda array, like: jax.device_put(array, like.sharding),
                read,
                left_out.only(state.variables),
            )
            model = frozen.merged(model, read)
            if raw := training["raw_params"]:
                both = frozen.merged({"params": raw}, {"params": read["params"]})
                # Copied, for a donated state may hold no array twice.
                training["raw_params"] = jax.tree.map(jnp.copy, both["params"])
        found = TrainState.from_items(model, training)
        if isinstance(state.good_in_row, dict) or isinstance(found.good_in_row, dict):
            found = found.replace(good_in_row=state.good_in_row)
        return found, progress

    def check(self):
        """Raises what went wrong in the writes under way, once it has."""
        for saver in (self._latest, self._best):
            saver.check()

    def close(self):
        """Waits for the writes under way."""
        for saver in (self._latest, self._best):
            saver.close()


class _Saver:
    """Writes checkpoints with their hashes, and tells a full disk in one line."""

    def __init__(self, folder: Path, keep: int):
        self._step = self._unhashed = None
        self.manager = _manager(folder, keep, before_commit=self._write_hashes)

    def save(self, state, progress, left_out: frozen.Frozen | None):
        # The one before writes its hashes under its own number.
        processes.together(self.wait)
        processes.together(lambda: self._save(state, progress, left_out))

    def _save(self, state, progress, left_out):
        self._step = step = int(state.step)
        model, training = _taken_apart(state, left_out)
        with self._telling_of_the_disk():
            if step in self.manager.all_steps():  # validated again after a kill
                self.manager.delete(step)
            self.manager.save(
                step,
                args=ocp.args.Composite(
                    model=ocp.args.StandardSave(model),
                    training=ocp.args.StandardSave(training),
                    progress=ocp.args.JsonSave(progress),
                ),
                force=True,
            )

    def check(self):
        with self._telling_of_the_disk():
            self.manager.check_for_errors()
            self._tell_of_hashes()

    def wait(self):
        with self._telling_of_the_disk():
            self.manager.wait_until_finished()
            self._tell_of_hashes()

    def close(self):
        self.wait()
        self.manager.close()

    def _write_hashes(self):
        """Orbax calls this when all is written and the folder not yet renamed."""
        written = self.manager.directory.glob(f"{self._step}.orbax-checkpoint-tmp*")
        try:
            for folder in written:
                hashes.write(folder)
        except OSError as error:
            if jax.process_count() == 1:
                raise
            self._unhashed = error  # the others are at orbax's barrier: told later

    def _tell_of_hashes(self):
        error, self._unhashed = self._unhashed, None
        if error is not None:
            raise error

    @contextlib.contextmanager
    def _telling_of_the_disk(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            said = next((words for words in _FULL if words in text), None)
            if said is None:
                raise
            older = [step for step in self.manager.all_steps() if step != self._step]
            raise InputError(
                f"{self.manager.directory}: the checkpoint of step {self._step} cannot "
                f"be written ({said}); older ones there are whole: {older or 'none'}."
            ) from error


def _taken_apart(state: TrainState, left_out: frozen.Frozen | None):
    """`TrainState.items` without what is left out."""
    model, training = state.items()
    if left_out:
        model = left_out.without(model)
        if raw := training["raw_params"]:
            training["raw_params"] = left_out.without({"params": raw})["params"]
    return model, training


# How the operating system's refusals read once TensorStore and orbax passed them on.
_FULL = (
    "No space left",
    "Disk quota exceeded",
    "File too large",
    "Read-only file system",
)


def has_begun(workdir: str | os.PathLike) -> bool:
    """Whether a run has saved a state there to go on from."""
    return bool(_steps(Path(workdir) / "checkpoints" / "latest"))


def find(workdir: str | os.PathLike, which: str | int) -> tuple[Path, int]:
    """The folder and the step of the first whole checkpoint that `which` may mean.

    Raises `InputError` where there is none.
    """
    root, which = Path(workdir).absolute() / "checkpoints", str(which)
    steps = {name: _steps(root / name) for name in ("best", "latest")}
    if which in steps:
        order = ("best", "latest") if which == "best" else ("latest", "best")
        name = next((name for name in order if steps[name]), which)
        candidates = [(root / name, step) for step in reversed(steps[name])]
    else:
        candidates = [
            (root / name, int(which))
            for name in steps
            if which.isdigit() and int(which) in steps[name]
        ]
    damaged = {}
    for folder, step in candidates:
        problem = _problem(folder / str(step))
        if problem is None:
            if damaged:
                _say(f"Damaged in {root}: {_listed(damaged)}. Taking step {step}.")
            return folder, step
        damaged[step] = problem
    wrong = f"is damaged ({_listed(damaged)})" if damaged else "is not there"
    there = {name: values for name, values in steps.items() if values}
    raise InputError(
        f"No checkpoint {which!r} in {root}: it {wrong}; there are {there or 'none'}."
    )


def read(
    folder: Path, step: int, wanted: dict, workdir: str | os.PathLike
) -> tuple[dict, dict]:
    """Variables of those shapes, on this process's first device, and the progress."""
    manager = _manager(folder)
    progress = _progress(manager, step)
    left_out = frozen.of_progress(progress)
    whole, wanted = wanted, left_out.without(wanted) if left_out else wanted
    _refuse_other_network(manager, step, wanted)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), wanted
    )
    restored = manager.restore(
        step, args=ocp.args.Composite(model=ocp.args.StandardRestore(wanted))
    )
    manager.close()
    variables = restored.model
    if left_out:
        frozen_ones = jax.device_put(left_out.read(whole, workdir), device)
        variables = frozen.merged(variables, frozen_ones)
    return variables, progress


def _manager(
    folder: Path, keep: int | None = None, before_commit=None
) -> ocp.CheckpointManager:
    """Keeps the last `keep` steps; without it only reads, and changes nothing."""
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(
            max_to_keep=keep,
            create=keep is not None,
            read_only=keep is None,
            async_options=ocp.options.AsyncOptions(
                post_finalization_callback=before_commit
            ),
            # Processes meet at barriers by name, and two managers write at once.
            multiprocessing_options=ocp.options.MultiprocessingOptions(
                barrier_sync_key_prefix=folder.name
            ),
        ),
        # Named, so that shapes can be read before anything is restored.
        item_handlers={
            "model": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "progress": ocp.JsonCheckpointHandler(),
        },
    )


def _set_damaged_aside(root: Path):
    """Moves the latest checkpoints that are damaged and newer than a whole one away."""
    damaged = {}
    for step in reversed(_steps(root / "latest")):
        problem = _problem(root / "latest" / str(step))
        if problem is None:
            break
        damaged[step] = problem
    else:
        if damaged:
            raise InputError(
                f"{root / 'latest'}: no checkpoint is whole ({_listed(damaged)}); copy "
                "them again, or delete this folder to start anew."
            )
    for number in damaged:
        aside = root / "damaged" / str(number)
        shutil.rmtree(aside, ignore_errors=True)
        aside.parent.mkdir(exist_ok=True)
        (root / "latest" / str(number)).rename(aside)
    if damaged:
        _say(
            f"Damaged: {_listed(damaged)}; moved to {root / 'damaged'}. Going on from "
            f"checkpoint {step}."
        )


def _problem(folder: Path) -> str | None:
    """How a checkpoint is damaged, if it is."""
    try:
        return hashes.damage(folder)
    except FileNotFoundError:
        if any(folder.parent.glob(f"*/{hashes.HASHES}")):  # half deleted
            return f"has no {hashes.HASHES}"
        _say(f"{folder}: has no {hashes.HASHES}, so its files were not checked.")
        return None


def _steps(folder: Path) -> list[int]:
    return sorted(int(p.name) for p in folder.glob("*") if p.name.isdigit())


def _listed(problems: dict[int, str]) -> str:
    return "; ".join(f"{step}: {problem}" for step, problem in problems.items())


def _say(line: str):
    print(line, file=sys.stderr)


def _progress(manager, step: int) -> dict:
    found = manager.restore(
        step, args=ocp.args.Composite(progress=ocp.args.JsonRestore())
    )
    return found.progress


def _saved(manager, step: int, item: str) -> dict:
    """Shapes of what a checkpoint holds of `item`, by their names there."""
    saved = manager.item_metadata(step)[item]
    return getattr(saved, "tree", saved) or {}


def _refuse_other_optimizer(manager, step, saved: dict, wanted: dict):
    """Compares the shapes of what only training needs; its tree has no fixed names."""
    shapes = [
        sorted(tuple(x.shape) for x in jax.tree.leaves(tree))
        for tree in (saved, wanted)
    ]
    if shapes[0] != shapes[1]:
        raise InputError(
            f"The checkpoint {manager.directory}/{step} holds {len(shapes[0])} arrays "
            f"of optimizer and counters, this config {len(shapes[1])}: optimizer, "
            "schedule, freeze, lr_multipliers or ema differ; undo that, or start "
            "another --workdir with --config.init_from."
        )


def _refuse_other_network(manager, step, wanted: dict):
    """Compares names and shapes, which orbax itself reports at length or not at all."""
    saved = _saved(manager, step, "model")
    matching.must_match(f"The checkpoint {manager.directory}/{step}", saved, wanted)

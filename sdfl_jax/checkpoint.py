"""Saving and resuming a run; reading a trained network back.

`WORKDIR/config.json` says which network; `WORKDIR/checkpoints/latest/STEP` holds the
last few states of training and `WORKDIR/checkpoints/best/STEP` the one that validated
best. Each checkpoint holds three items: `model` (params and batch statistics: all that
evaluation needs), `training` (optimizer and counters) and `progress` (JSON: schedule,
best figure, thresholds). The position in the data follows from the step.
"""

import dataclasses
import json
import os
from pathlib import Path

import jax
import ml_collections as mlc
import orbax.checkpoint as ocp

from sdfl_jax import models, weights
from sdfl_jax.errors import InputError
from sdfl_jax.files import write_json
from sdfl_jax.state import TrainState, init_variables


class Checkpoints:
    """The numbered checkpoints of one run: the latest few, and the best."""

    def __init__(self, workdir: str | os.PathLike, *, keep: int):
        root = Path(workdir).absolute() / "checkpoints"
        self._latest = _manager(root / "latest", keep)
        self._best = _manager(root / "best", 1)

    def save(self, state: TrainState, progress: dict):
        """Saves as the latest; returns when `state` may be donated, writes go on."""
        _save(self._latest, state, progress)

    def save_best(self, state: TrainState, progress: dict):
        """Saves as the best, in place of the one before."""
        _save(self._best, state, progress)

    def restore(self, state: TrainState) -> tuple[TrainState, dict]:
        """The latest state, laid out as `state` is, and its progress.

        On a fresh run `state` itself and an empty dict.
        """
        step = self._latest.latest_step()
        if step is None:
            return state, {}
        wanted = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        _refuse_other_network(self._latest, step, wanted.variables)
        model, training = _items(wanted)
        restored = self._latest.restore(
            step,
            args=ocp.args.Composite(
                model=ocp.args.StandardRestore(model),
                training=ocp.args.StandardRestore(training),
                progress=ocp.args.JsonRestore(),
            ),
        )
        return (
            TrainState(**restored.model, **restored.training),
            restored.progress,
        )

    def close(self):
        """Waits for the writes under way."""
        for manager in (self._latest, self._best):
            manager.wait_until_finished()
            manager.close()


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network read back: all that evaluation and prediction need."""

    config: mlc.ConfigDict
    model: object
    variables: dict
    step: int
    progress: dict  # figures and thresholds of the validation data


def load(workdir: str | os.PathLike, which: str = "best") -> Trained:
    """Reads the `best` or `latest` checkpoint of a working directory, or a step's.

    A run that never validated has no best checkpoint; `best` is then its latest.
    Raises `InputError` where there is none, or where its network is not the config's.
    """
    config = read_config(workdir)
    manager, step = _find(Path(workdir).absolute() / "checkpoints", str(which))
    model = models.build(**config.model)
    wanted = jax.eval_shape(
        lambda rng: init_variables(model, config.image_size, rng), jax.random.key(0)
    )
    _refuse_other_network(manager, step, wanted)
    device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), wanted
    )
    restored = manager.restore(
        step,
        args=ocp.args.Composite(
            model=ocp.args.StandardRestore(wanted), progress=ocp.args.JsonRestore()
        ),
    )
    manager.close()
    return Trained(config, model, restored.model, step, restored.progress)


def write_config(workdir: str | os.PathLike, config: mlc.ConfigDict):
    """Keeps the config beside the checkpoints, for all who read them later."""
    write_json(Path(workdir) / "config.json", config.to_dict())


def read_config(workdir: str | os.PathLike) -> mlc.ConfigDict:
    """The config that `write_config` kept."""
    path = Path(workdir) / "config.json"
    try:
        return mlc.ConfigDict(json.loads(path.read_text()))
    except FileNotFoundError:
        raise InputError(
            f"{workdir}: no config.json there; give the --workdir of a training run."
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}).") from None


def _manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(max_to_keep=keep, create=True),
        # Named, so that shapes can be read before anything is restored.
        item_handlers={
            "model": ocp.StandardCheckpointHandler(),
            "training": ocp.StandardCheckpointHandler(),
            "progress": ocp.JsonCheckpointHandler(),
        },
    )


def _items(state: TrainState) -> tuple[dict, dict]:
    """A state as the two items of a checkpoint."""
    fields = {
        field.name: getattr(state, field.name) for field in dataclasses.fields(state)
    }
    model = {name: fields.pop(name) for name in state.variables}
    return model, fields


def _save(manager, state, progress):
    step = int(state.step)
    if step in manager.all_steps():  # validated again after a kill
        manager.delete(step)
    model, training = _items(state)
    manager.save(
        step,
        args=ocp.args.Composite(
            model=ocp.args.StandardSave(model),
            training=ocp.args.StandardSave(training),
            progress=ocp.args.JsonSave(progress),
        ),
        force=True,
    )


def _find(root: Path, which: str) -> tuple[ocp.CheckpointManager, int]:
    """The manager and the step that `which` names."""
    steps = {
        name: sorted(int(p.name) for p in (root / name).glob("*") if p.name.isdigit())
        for name in ("best", "latest")
    }
    found = None
    if which in steps:
        order = ("best", "latest") if which == "best" else ("latest", "best")
        found = next(((n, steps[n][-1]) for n in order if steps[n]), None)
    elif which.isdigit():
        found = next(((n, int(which)) for n in steps if int(which) in steps[n]), None)
    if found is None:
        there = {name: values for name, values in steps.items() if values}
        raise InputError(
            f"No checkpoint {which!r} in {root}; there are {there or 'none'}."
        )
    return _manager(root / found[0], keep=1_000_000), found[1]


def _refuse_other_network(manager, step, wanted: dict):
    """Compares names and shapes, which orbax itself reports at length or not at all."""
    saved = manager.item_metadata(step)["model"]
    saved = getattr(saved, "tree", saved) or {}
    weights.must_match(f"The checkpoint {manager.directory}/{step}", saved, wanted)

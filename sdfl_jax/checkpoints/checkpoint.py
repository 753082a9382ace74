"""Saving and resuming a run; reading a trained network back.

`WORKDIR/config.json` says which network; `WORKDIR/checkpoints/latest/STEP` holds the
last few states of training and `WORKDIR/checkpoints/best/STEP` the one that validated
best. Each checkpoint holds three items: `model` (params and batch statistics: all that
evaluation needs, but for what `frozen` leaves out), `training` (optimizer and counters)
and `progress` (JSON: schedule, best metric, thresholds, `card`), and `hashes.json`:
orbax restores damaged bytes silently. The position in the data follows from the step.
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_collections as mlc
import numpy as np
import orbax.checkpoint as ocp

from sdfl_jax import models
from sdfl_jax.checkpoints import card, frozen, hashes, shipped
from sdfl_jax.devices import compiled, processes
from sdfl_jax.errors import InputError
from sdfl_jax.files import write_json
from sdfl_jax.metrics import calibration
from sdfl_jax.state import TrainState
from sdfl_jax.trees import matching

CALIBRATION = "calibration.json"  # of a run, as `sdfl_jax.report calibrate` writes it


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


@dataclasses.dataclass(frozen=True)
class Trained:
    """A network read back: all that evaluation and prediction need."""

    config: mlc.ConfigDict  # what `write_config` kept: complete, with nothing to check
    model: object
    variables: dict
    step: int
    progress: dict  # metrics and thresholds of the validation data
    calibration: Mapping | None = None  # see `metrics.calibration`

    @functools.cached_property
    def sha256(self) -> str:
        """The SHA-256 of all weights: names, types, shapes and values."""
        digest = hashlib.sha256()
        for path, leaf in jax.tree_util.tree_flatten_with_path(self.variables)[0]:
            leaf = np.asarray(leaf)
            name = f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}\n"
            digest.update(name.encode() + leaf.tobytes())
        return digest.hexdigest()

    @property
    def calibrated(self) -> tuple[float | None, float | None]:
        """The thresholds of maps and scores that were best on the validation data.

        None where these data had no such: scores alone know none of maps.
        """
        names = ("pixel_threshold", "image_threshold")
        return tuple(self.progress.get(name) for name in names)

    @property
    def thresholds(self) -> tuple[float, float]:
        """`calibrated`, with 0.5 for what is not known.

        A calibrated network's threshold of scores is where it says "manipulated".
        """
        pixel, image = (0.5 if x is None else x for x in self.calibrated)
        return pixel, self.calibration["band"][1] if self.calibration else image


def load(workdir: str | os.PathLike, which: str = "best") -> Trained:
    """Reads the `best` or `latest` checkpoint of a working directory, or a step's.

    A run that never validated has no best checkpoint; `best` is then its latest.
    Where the latest is damaged, the one before is read, and a line says so. In place of
    a directory, the name of a network that ships with the package (`shipped.names`)
    reads that one, whatever `which` says. Raises `InputError` where there is none,
    where the one asked for is damaged, or where its network is not the config's.
    """
    if packed := shipped.resolve(workdir):
        return _with_calibration(packed, _load_shipped(packed))
    config = read_config(workdir)
    folder, step = _find(Path(workdir).absolute() / "checkpoints", str(which))
    manager = _manager(folder)
    model = models.build(**config.model)
    wanted = _shapes(model, config.image_size)
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
        read = jax.device_put(left_out.read(whole, workdir), device)
        variables = frozen.merged(variables, read)
    trained = Trained(config, model, variables, step, progress)
    return _with_calibration(workdir, trained)


def _with_calibration(folder: str | os.PathLike, trained: Trained) -> Trained:
    """With the calibration in `folder/calibration.json`, or that of its model card.

    That of other weights is left aside, and a line says so. Raises `InputError` for a
    file that is none.
    """
    path, about = Path(folder) / CALIBRATION, trained.progress.get("card") or {}
    if not path.exists():
        return dataclasses.replace(trained, calibration=about.get("calibration"))
    try:
        found = json.loads(path.read_text())
    except ValueError:
        found = None
    if what := calibration.problem(found):
        raise InputError(f"{path}: {what}.")
    of = (found.get("network") or {}).get("weights_sha256")
    if of is not None and of != trained.sha256:
        _say(
            f"{path}: made for other weights (of step {found['network'].get('step')}), "
            f"and not used for step {trained.step}; calibrate them anew."
        )
        return trained
    # From here on it travels in the card.
    progress = trained.progress | {"card": about | {"calibration": found}}
    return dataclasses.replace(trained, progress=progress, calibration=found)


def _load_shipped(folder: Path) -> Trained:
    config, variables, told = shipped.read(folder)
    model = models.build(**config.model)
    wanted = _shapes(model, config.image_size)
    matching.must_match(str(folder), variables, wanted)
    variables = jax.device_put(variables, jax.local_devices()[0])
    return Trained(config, model, variables, told["step"], told)


def _shapes(model, image_size: int) -> dict:
    """Shapes and types of a network's variables."""

    def traced() -> bytes:
        init = lambda rng: models.init_variables(model, image_size, rng)
        shapes = jax.eval_shape(init, jax.random.key(0))
        told = jax.tree.map(lambda x: [list(x.shape), x.dtype.name], shapes)
        return json.dumps(told).encode()

    name = models.identity(model)
    about = name and f"variables {image_size} {name}"
    told = json.loads(compiled.remembered(about, traced))
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(tuple(leaf[0]), leaf[1]),
        told,
        is_leaf=lambda node: isinstance(node, list),
    )


def has_begun(workdir: str | os.PathLike) -> bool:
    """Whether a run has saved a state there to go on from."""
    return bool(_steps(Path(workdir) / "checkpoints" / "latest"))


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
            f"{workdir}: no config.json there; give the --workdir of a training run, "
            f"or a network of the package's: {shipped.names()}."
        ) from None
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON ({error}).") from None


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


def _find(root: Path, which: str) -> tuple[Path, int]:
    """The folder and the step of the first whole checkpoint that `which` may mean."""
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

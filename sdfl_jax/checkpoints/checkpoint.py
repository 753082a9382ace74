"""A trained network read back, of a run (`saving`) or shipped with the package."""

import dataclasses
import functools
import hashlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import jax
import ml_collections as mlc
import numpy as np

from sdfl_jax import models
from sdfl_jax.checkpoints import shipped
from sdfl_jax.devices import compiled
from sdfl_jax.errors import InputError
from sdfl_jax.files import write_json
from sdfl_jax.metrics import calibration
from sdfl_jax.trees import matching

CALIBRATION = "calibration.json"  # of a run, as `sdfl_jax.report calibrate` writes it


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
    from sdfl_jax.checkpoints import saving  # orbax: what ships is read without it

    config = read_config(workdir)
    folder, step = saving.find(workdir, which)
    model = models.build(**config.model)
    wanted = _shapes(model, config.image_size)
    variables, progress = saving.read(folder, step, wanted, workdir)
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
        print(
            f"{path}: made for other weights (of step {found['network'].get('step')}), "
            f"and not used for step {trained.step}; calibrate them anew.",
            file=sys.stderr,
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

"""Networks that ship with the package: `sdfl_jax/weights/NAME`, called by their names.

A folder holds `config.json` (as a run keeps it), `weights.safetensors` (averaged
weights in float16, named by their paths) and `card.json`: `step`, the thresholds that
`progress` of a checkpoint has, and the model card. `model_card.md` is for people.
"""

import json
import os
from pathlib import Path

import jax
import ml_collections as mlc
import numpy as np
import safetensors.numpy

from sdfl_jax.errors import InputError
from sdfl_jax.files import new_folder, write_json
from sdfl_jax.trees import patterns

FOLDER = Path(__file__).parent.parent / "weights"
CONFIG, WEIGHTS, CARD = "config.json", "weights.safetensors", "card.json"


def names() -> list[str]:
    """The networks there are."""
    return sorted(path.parent.name for path in FOLDER.glob(f"*/{WEIGHTS}"))


def resolve(name: str | os.PathLike) -> Path | None:
    """The folder of the shipped network `name`, or `name` if it is such a folder.

    None for any other; a user's folder that holds a run comes first.
    """
    given, ours = Path(name), FOLDER / os.fspath(name)
    if (given / WEIGHTS).is_file():
        return given
    if (given / CONFIG).is_file() or os.fspath(name) not in names():
        return None
    return ours


def read(folder: Path) -> tuple[mlc.ConfigDict, dict, dict]:
    """Config, variables (float32) and card of a folder; `InputError` if damaged."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        card = json.loads((folder / CARD).read_text(encoding="utf-8"))
        arrays = safetensors.numpy.load_file(folder / WEIGHTS)
    except Exception as error:  # each format has its own
        raise InputError(f"{folder}: no whole network there ({error}).") from None
    variables: dict = {}
    for name, array in arrays.items():
        *parts, last = name.split("/")
        tree = variables
        for part in parts:
            tree = tree.setdefault(part, {})
        tree[last] = array.astype(np.float32)
    return mlc.ConfigDict(config), variables, card


def write(folder: str | os.PathLike, config: mlc.ConfigDict, variables, card: dict):
    """A folder that `read` reads; `card` has `step` and the thresholds of `progress`.

    `InputError` for weights that float16 cannot hold.
    """
    arrays = {}

    def keep(path: str, leaf):
        half = np.asarray(jax.device_get(leaf), np.float32).astype(np.float16)
        if not np.isfinite(half).all():
            raise InputError(f"{path}: beyond what float16 holds.")
        arrays[path] = half

    patterns.map_paths(keep, variables)
    with new_folder(folder, made_by=CONFIG) as beside:
        write_json(beside / CONFIG, config.to_dict())
        write_json(beside / CARD, card)
        safetensors.numpy.save_file(arrays, beside / WEIGHTS)

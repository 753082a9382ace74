"""Weight files: named arrays in the formats that others write."""

import os
import pathlib
import zipfile

import numpy as np
import safetensors.numpy

from sdfl_jax.errors import InputError
from sdfl_jax.weights.pth import read_pth


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The named arrays of a .pth (.pt), .npz or .safetensors file.

    A .pth file may be of either of PyTorch's formats and may hold the arrays under
    "state_dict", "model_state_dict" or "model". It is read without PyTorch and nothing
    in it is executed: see `sdfl_jax.weights.pth`. Half precision is kept, bfloat16
    becomes float32.

    Raises InputError for a file that is missing, damaged or holds anything else.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        raise InputError(f"There is no weight file {path}.")
    if path.suffix not in _READERS:
        raise InputError(
            f"{path}: a weight file ends in {', '.join(sorted(_READERS))}."
        )
    return _READERS[path.suffix](path)


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is damaged or no .npz file: {error}.") from None


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except (safetensors.SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(
            f"{path} is damaged or no .safetensors file: {error}."
        ) from None


_READERS = {
    ".npz": _read_npz,
    ".pt": read_pth,
    ".pth": read_pth,
    ".safetensors": _read_safetensors,
}

"""Weight files: named arrays in the formats that others write."""

import os
import pathlib
import zipfile

import ml_dtypes
import numpy as np
import safetensors.numpy

from sdfl_jax.errors import InputError
from sdfl_jax.weights.pth import read_pth


def read_weights(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The named arrays of a file of PyTorch's, of .npz or of .safetensors.

    What a file holds says what it is, whatever it is called. One of PyTorch's may be of
    either of its formats and may hold the arrays in a part of a checkpoint. It is read
    without PyTorch and nothing in it is executed: see `sdfl_jax.weights.pth`. Half
    precision is kept, bfloat16 becomes float32.

    Raises InputError for a file that is missing, damaged or holds anything else, and
    for arrays with a NaN or an infinity.
    """
    path = pathlib.Path(path)
    if not path.is_file():
        kind = " (a folder)" if path.is_dir() else ""
        raise InputError(f"There is no weight file {path}{kind}.")
    with path.open("rb") as file:
        start = file.read(512)
    reader = _reader(path, start)
    arrays = {
        name: array.astype(np.float32) if array.dtype == ml_dtypes.bfloat16 else array
        for name, array in reader(path).items()
    }
    lost = sorted(name for name, array in arrays.items() if not _finite(array))
    if lost:
        more = f" and {len(lost) - 3} more" if len(lost) > 3 else ""
        raise InputError(
            f"{path}: {len(lost)} of {len(arrays)} arrays hold values that are no "
            f"numbers (NaN or infinity): {', '.join(lost[:3])}{more}."
        )
    return arrays


def _reader(path: pathlib.Path, start: bytes):
    if start.startswith(b"PK\x03\x04"):
        return _read_npz if _is_npz(path) else read_pth
    if start[8:9] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size:
        return _read_safetensors
    if start[:1] == b"\x80":  # of any pickle
        return read_pth
    raise InputError(f"{path} is no weight file: {_looks_like(start)}.")


def _looks_like(start: bytes) -> str:
    """What a file is instead, by its first bytes."""
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not start:
        return "it is empty"
    if text.startswith(b"version https://git-lfs"):
        return "a pointer of git-lfs to it; fetch the file itself (git lfs pull)"
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return "a saved web page; download the file itself"
    if start.startswith(b"\x89HDF"):
        return "HDF5, as Keras writes, which is not read"
    if (
        start.startswith((b"\x1f\x8b", b"Rar!", b"7z\xbc\xaf"))
        or start[257:262] == b"ustar"
    ):
        return "a packed archive; unpack it first"
    if start.startswith(b"\x93NUMPY"):
        return "one array of NumPy (.npy) without names"
    if text.startswith((b"{", b"[")):
        return "JSON or another text"
    if not any(start):
        return "it starts with zeros, as a download that broke off"
    if all(32 <= byte < 127 or byte in b"\t\r\n" for byte in start):
        return "it looks like text"
    return "neither PyTorch's (.pth, .pt, .ckpt, .bin), nor .safetensors, nor .npz"


def _finite(array: np.ndarray) -> bool:
    return not np.issubdtype(array.dtype, np.inexact) or bool(np.isfinite(array).all())


def _is_npz(path: pathlib.Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return all(name.endswith(".npy") for name in archive.namelist())
    except Exception:  # the reader will say what is wrong with it
        return path.suffix.lower() == ".npz"


def _read_npz(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        # Opened here: NumPy would leave it open where it holds no archive.
        with path.open("rb") as content, np.load(content, allow_pickle=False) as file:
            for entry in file.zip.infolist():
                _refuse_beyond(file.zip, entry, path.stat().st_size)
            return {name: file[name] for name in file.files}
    except InputError:
        raise
    except Exception as error:  # a damaged archive can raise anything
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} is damaged or no .npz file: {reason}.") from None


def _refuse_beyond(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int):
    """Raises where an array claims more numbers than its entry can hold."""
    with archive.open(entry) as file:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0}
        shape, _, dtype = read.get(version, np.lib.format.read_array_header_2_0)(file)
    count = 1
    for side in shape:
        count *= int(side)
    if count * dtype.itemsize > entry.file_size or entry.file_size > 1100 * size:
        raise ValueError(f"its array {entry.filename} claims {shape} of {dtype}")


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} is damaged or no .safetensors file: {reason}."
        ) from None

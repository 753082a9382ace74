"""PyTorch's weight files, read without PyTorch and without executing what they hold.

Both formats are pickles of a dictionary whose tensors point into blocks of raw numbers:
in a zip archive one entry per block (PyTorch 1.6 and newer), in the older format one
after the other behind the pickle. A pickle may call any function by name. This reader
lets it name a dictionary, the types of blocks and the two functions that describe a
tensor, gives it inert stand-ins for them, and refuses everything else by name.
"""

import collections
import functools
import io
import math
import os
import pathlib
import pickle
import struct
import zipfile
from collections.abc import Callable
from typing import BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from sdfl_jax.errors import InputError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001

_STORAGES = {
    "BFloat16Storage": ml_dtypes.bfloat16,
    "BoolStorage": np.bool_,
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "DoubleStorage": np.float64,
    "FloatStorage": np.float32,
    "HalfStorage": np.float16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "ShortStorage": np.int16,
}

# Where a training checkpoint keeps its network's arrays.
_STATE_DICTS = ("state_dict", "model_state_dict", "model")


def read_pth(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The named arrays of a .pth file, read-only, bfloat16 as float32.

    Raises InputError for a file that is damaged, truncated or holds anything but
    tensors, numbers and texts in dictionaries, lists and tuples.
    """
    path = pathlib.Path(path)
    try:
        with path.open("rb") as file:
            read = _read_zip if file.read(4) == b"PK\x03\x04" else _read_legacy
            end = file.seek(0, os.SEEK_END)
            file.seek(0)
            return read(file, end)
    except _Refused as refusal:
        raise InputError(f"{path}: {refusal}.") from None
    except OSError:
        raise
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{path} is damaged or no PyTorch file ({type(error).__name__}: {error})."
        ) from None


class _Refused(Exception):
    """What this file holds is not read; the message says what and why."""


class _Block(NamedTuple):
    """Numbers without a shape, as the pickle names them."""

    key: str
    dtype: np.dtype
    count: int


class _Tensor(NamedTuple):
    block: _Block
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Named:
    """Stands for a class or a function of PyTorch's; a pickle can set nothing on it."""

    __slots__ = ("_call", "dtype")

    def __init__(self, call: Callable | None = None, dtype=None):
        object.__setattr__(self, "_call", call)
        object.__setattr__(self, "dtype", dtype)

    def __setattr__(self, name, value):
        raise _Refused("it changes what it names, which no weight file does")

    def __call__(self, *args):
        if self._call is None:
            raise _Refused("it makes a storage, which only a loader does")
        return self._call(*args)


def _tensor(block, offset, shape, strides, *_unused) -> _Tensor:
    """In the place of `torch._utils._rebuild_tensor_v2`; checks that all is inside."""
    if not isinstance(block, _Block):
        raise _Refused("a tensor in it has no numbers")
    if len(shape) != len(strides) or len(shape) > 32:
        raise _Refused(f"a tensor in it has shape {shape} and strides {strides}")
    if not all(isinstance(n, int) and n >= 0 for n in (offset, *shape, *strides)):
        raise _Refused("a tensor in it has a negative size, stride or offset")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    size = math.prod(shape)
    if size and last >= block.count:
        raise _Refused(f"a tensor of shape {shape} reaches beyond its numbers")
    if size > block.count:
        raise _Refused(f"a tensor of shape {shape} has fewer numbers than that")
    return _Tensor(block, offset, tuple(shape), tuple(strides))


def _parameter(tensor, *_unused) -> _Tensor:
    """In the place of `torch._utils._rebuild_parameter`."""
    return tensor


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Named(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Named(_parameter),
} | {
    ("torch", name): _Named(dtype=np.dtype(dtype)) for name, dtype in _STORAGES.items()
}


class _Unpickler(pickle.Unpickler):
    """Knows the names in `_ALLOWED` and pointers to blocks; refuses the rest."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)
        self.blocks: dict[str, _Block] = {}

    def find_class(self, module, name):
        if (module, name) not in _ALLOWED:
            raise _Refused(
                f"it names {module}.{name}; only tensors in dictionaries are read, "
                "as torch.save(model.state_dict(), path) writes them"
            )
        return _ALLOWED[module, name]

    def persistent_load(self, pid):
        kind, storage, key, _device, count, *view = pid
        if kind != "storage" or not isinstance(storage, _Named) or not storage.dtype:
            raise _Refused("it points to something that is no block of numbers")
        if view and view[0] is not None:
            raise _Refused("it holds views of blocks, as before PyTorch 0.4")
        if not isinstance(key, str) or not isinstance(count, int) or count < 0:
            raise _Refused("it points to a block without a name or a size")
        block = _Block(key, storage.dtype, count)
        if self.blocks.setdefault(key, block) != block:
            raise _Refused(f"it gives its block {key!r} two types or sizes")
        return block


def _read_zip(file: BinaryIO, end: int) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(file) as archive:
        entries = {}
        for entry in archive.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > end:
                raise _Refused(f"its entry {entry.filename} is compressed or truncated")
            entries[entry.filename.partition("/")[2]] = entry
        if "data.pkl" not in entries:
            raise _Refused("a zip archive, but none of PyTorch's")
        if "byteorder" in entries and archive.read(entries["byteorder"]) != b"little":
            raise _Refused("its numbers are big-endian")
        content = _Unpickler(io.BytesIO(archive.read(entries["data.pkl"]))).load()

        @functools.cache
        def numbers(block: _Block) -> bytes:
            entry = entries.get(f"data/{block.key}")
            if entry is None or entry.file_size < block.count * block.dtype.itemsize:
                raise _Refused(f"its block {block.key!r} is missing or truncated")
            return archive.read(entry)

        return _named_arrays(content, numbers)


def _read_legacy(file: BinaryIO, end: int) -> dict[str, np.ndarray]:
    if _Unpickler(file).load() != _LEGACY_MAGIC:
        raise _Refused("no PyTorch file")
    if _Unpickler(file).load() != _LEGACY_PROTOCOL:
        raise _Refused("of a version of PyTorch's format that is not known")
    if not _Unpickler(file).load()["little_endian"]:
        raise _Refused("its numbers are big-endian")
    unpickler = _Unpickler(file)
    content = unpickler.load()

    # The blocks follow, each behind its count; what a number takes is known only from
    # the tensors that point there.
    raw = {}
    for key in _Unpickler(file).load():
        block = unpickler.blocks[key]
        (count,) = struct.unpack("<q", file.read(8))
        size = count * block.dtype.itemsize
        if count < block.count or size > end - file.tell():
            raise _Refused(f"its block {key!r} is truncated")
        raw[key] = file.read(size)
    return _named_arrays(content, lambda block: raw[block.key])


def _named_arrays(content, numbers: Callable[[_Block], bytes]) -> dict[str, np.ndarray]:
    """Arrays for the tensors of a state dict, or of the one inside a checkpoint."""
    if not isinstance(content, dict):
        raise _Refused(f"it holds a {type(content).__name__}, not named tensors")
    for key in _STATE_DICTS:
        if isinstance(content.get(key), dict):
            content = content[key]
            break

    arrays = {}
    for name, tensor in content.items():
        if not isinstance(name, str) or not isinstance(tensor, _Tensor):
            raise _Refused(f"its entry {name!r} is no tensor")
        block, size = tensor.block, tensor.block.dtype.itemsize
        array = np.ndarray(
            tensor.shape,
            block.dtype,
            numbers(block),
            tensor.offset * size,
            [stride * size for stride in tensor.strides],
        )
        if block.dtype == ml_dtypes.bfloat16:
            array = array.astype(np.float32)
        arrays[name] = array
    return arrays

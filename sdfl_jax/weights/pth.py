"""PyTorch's weight files, read without PyTorch and without executing what they hold.

Both formats are pickles of a dictionary whose tensors point into blocks of raw numbers:
in a zip archive one entry per block (PyTorch 1.6 and newer), in the older format one
after the other behind the pickle. A pickle may call any function by name. This reader
imports and calls none: a dictionary is one, the types of blocks and the functions that
describe a tensor have stand-ins that check and note it, and whatever else a training
script left beside its weights (arguments, numbers of NumPy, a network's own class) an
inert one that takes everything and does nothing. Names that no weight file needs, for
they run or load things, are refused.
"""

import collections
import errno
import functools
import io
import logging
import math
import os
import pathlib
import pickle
import pickletools
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

# Where a training checkpoint keeps its network's arrays, the likeliest first.
_STATE_DICTS = (
    "",
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "network",
    "module",
    "weights",
    "params",
    "model_ema",
    "state_dict_ema",
    "params_ema",
    "ema",
)
_DEPTH = 4  # of dictionaries that are looked through for them

# Modules whose functions run programs, load code or reach beyond the file, and the
# names of other modules that do.
_NEVER = (
    *("os", "posix", "nt", "sys", "subprocess", "pty", "shutil", "socket", "ctypes"),
    *("importlib", "runpy", "pkgutil", "imp", "code", "codeop", "pdb", "bdb", "pydoc"),
    *("timeit", "cProfile", "profile", "trace", "webbrowser", "pickle", "_pickle"),
    *("marshal", "dill", "cloudpickle", "joblib", "multiprocessing", "threading"),
    *("asyncio", "urllib", "http", "requests", "ftplib", "smtplib", "tempfile"),
    *("operator", "_operator", "builtins", "__builtin__", "commands", "site"),
    *("torch.hub", "torch.package", "torch.serialization", "torch.jit", "torch.fx"),
    *("torch.utils.cpp_extension", "torch.storage", "torch._inductor", "torch._dynamo"),
    *("sdfl_jax", "numpy.testing"),
)
_NEVER_NAMES = {"load", "_load_from_bytes", "loads", "eval", "exec", "system", "popen"}
_PLAIN = {"set", "frozenset", "list", "tuple", "dict", "slice", "complex", "bytearray"}
_PLAIN |= {"object", "int", "float", "bool", "str", "bytes", "range"}
_PLAIN |= {"xrange", "long", "unicode"}  # the same in pickles of protocol 2


def read_pth(path: str | os.PathLike) -> dict[str, np.ndarray]:
    """The named arrays of a .pth file, read-only, bfloat16 as float32.

    Raises InputError for a file that is damaged, truncated, holds no named tensors or
    names what would run something.
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
    except OSError as error:
        if error.errno != errno.EINVAL:  # where an archive points before its beginning
            raise
        raise InputError(f"{path} is damaged ({error.strerror}).") from None
    except Exception as error:  # a damaged pickle can raise anything
        raise InputError(
            f"{path} is damaged or no PyTorch file ({type(error).__name__}: "
            f"{' '.join(str(error).split())[:200]})."
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


class _Inert(dict):
    """Stands for a class or a function of anybody's, and for what that makes.

    As a dictionary it keeps what a pickle puts into it or gives it as its state, and a
    whole network that was pickled with its class still has its arrays there.
    """

    def __new__(cls, *args, **kwargs):
        return super().__new__(cls)

    def __init__(self, *args, **kwargs):
        pass

    def __setstate__(self, state):
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.update(part)

    def __setattr__(self, name, value):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass

    def add(self, item):
        pass

    def __hash__(self):
        return id(self)

    def __eq__(self, other):
        return self is other


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


def _subclassed(rebuild, _kind, arguments, _state) -> _Tensor:
    """In the place of `torch._tensor._rebuild_from_type_v2`."""
    return rebuild(*arguments)


_ALLOWED = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _Named(_tensor),
    ("torch._utils", "_rebuild_parameter"): _Named(_parameter),
    ("torch._utils", "_rebuild_parameter_with_state"): _Named(_parameter),
    ("torch._tensor", "_rebuild_from_type_v2"): _Named(_subclassed),
} | {
    ("torch", name): _Named(dtype=np.dtype(dtype)) for name, dtype in _STORAGES.items()
}


class _Unpickler(pickle.Unpickler):
    """Knows the names in `_ALLOWED` and pointers to blocks; the rest is inert."""

    def __init__(self, file: io.BufferedIOBase):
        super().__init__(file)
        self.blocks: dict[str, _Block] = {}

    def find_class(self, module, name):
        if (module, name) in _ALLOWED:
            return _ALLOWED[module, name]
        roots = [module[:end] for end in _ends(module)]
        plain = module in ("builtins", "__builtin__") and name in _PLAIN
        last = name.rpartition(".")[2]
        if last in _NEVER_NAMES or (
            not plain and any(root in _NEVER for root in roots)
        ):
            raise _Refused(
                f"it names {module}.{name}, which weights have no use for and which "
                "may do harm where it is loaded in another way"
            )
        return _Inert

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


def _ends(module: str) -> list[int]:
    """Where the names of a module and of the packages around it end."""
    return [i for i in range(len(module) + 1) if module[i : i + 1] in ("", ".")]


def _load(file: io.BufferedIOBase, unpickler: _Unpickler | None = None):
    """The next pickle of a file, looked through before it is loaded.

    A pickle can have the reader make room for a billion objects by one number.
    """
    start, highest = file.tell(), 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(file)):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT"):
            highest = max(highest, argument)
        if highest > 2 * count + 100:
            raise _Refused("it is damaged (it counts beyond what it holds)")
    file.seek(start)
    return (unpickler or _Unpickler(file)).load()


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
        content = _load(io.BytesIO(archive.read(entries["data.pkl"])))

        @functools.cache
        def numbers(block: _Block) -> bytes:
            entry = entries.get(f"data/{block.key}")
            if entry is None or entry.file_size < block.count * block.dtype.itemsize:
                raise _Refused(f"its block {block.key!r} is missing or truncated")
            return archive.read(entry)

        return _named_arrays(content, numbers)


def _read_legacy(file: BinaryIO, end: int) -> dict[str, np.ndarray]:
    if _load(file) != _LEGACY_MAGIC:
        raise _Refused("no PyTorch file")
    if _load(file) != _LEGACY_PROTOCOL:
        raise _Refused("of a version of PyTorch's format that is not known")
    if not _load(file)["little_endian"]:
        raise _Refused("its numbers are big-endian")
    unpickler = _Unpickler(file)
    content = _load(file, unpickler)

    # The blocks follow, each behind its count; what a number takes is known only from
    # the tensors that point there.
    raw = {}
    for key in _load(file):
        block = unpickler.blocks[key]
        (count,) = struct.unpack("<q", file.read(8))
        size = count * block.dtype.itemsize
        if count < block.count or size > end - file.tell():
            raise _Refused(f"its block {key!r} is truncated")
        raw[key] = file.read(size)
    return _named_arrays(content, lambda block: raw[block.key])


def _named_arrays(content, numbers: Callable[[_Block], bytes]) -> dict[str, np.ndarray]:
    """Arrays for the tensors of a state dict, or of the one inside a checkpoint."""
    arrays = {}
    for name, tensor in _state_dict(content).items():
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


def _state_dict(content) -> dict[str, _Tensor]:
    """The named tensors of the part of a file that looks most like a network."""
    if not isinstance(content, dict):
        raise _Refused(f"it holds a {type(content).__name__}, not named tensors")
    found, seen = {}, set()

    def look(tree: dict, path: tuple[str, ...]):
        if id(tree) in seen or len(path) > _DEPTH:
            return
        seen.add(id(tree))
        tensors = _of_module(tree) if "_modules" in tree else _tensors(tree)
        if tensors:
            found[path] = tensors
        if "_modules" not in tree:
            for name, below in tree.items():
                if isinstance(below, dict) and isinstance(name, str):
                    look(below, (*path, name))

    look(content, ())
    if not found:
        raise _Refused(
            "it holds no named tensors, as torch.save(model.state_dict(), path) "
            "writes them"
        )
    most = max(map(len, found.values()))

    def rank(path):
        last = path[-1] if path else ""
        known = last in _STATE_DICTS
        return _STATE_DICTS.index(last) if known else len(_STATE_DICTS)

    large = [path for path, tensors in found.items() if 2 * len(tensors) >= most]
    best = min(large, key=lambda path: (rank(path), -len(found[path])))
    if len(large) > 1:
        others = ", ".join(".".join(path) for path in large if path != best)
        logging.info("Weights: took %r, not %s", ".".join(best), others)
    return found[best]


def _tensors(tree: dict) -> dict[str, _Tensor]:
    return {
        name: value
        for name, value in tree.items()
        if isinstance(name, str) and isinstance(value, _Tensor)
    }


def _of_module(module: dict, prefix: str = "", depth: int = 0) -> dict[str, _Tensor]:
    """The state dict of a network that was pickled with its class."""
    found = {}
    if depth > 50:
        raise _Refused("its network is nested without end")
    for kind in ("_parameters", "_buffers"):
        own = module.get(kind)
        if isinstance(own, dict):
            found |= {prefix + name: value for name, value in _tensors(own).items()}
    below = module.get("_modules")
    for name, part in below.items() if isinstance(below, dict) else ():
        if isinstance(part, dict) and isinstance(name, str):
            found |= _of_module(part, f"{prefix}{name}.", depth + 1)
    return found

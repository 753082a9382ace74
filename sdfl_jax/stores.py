"""Files wherever they lie: on a disk, or in a store that fsspec knows (`gs://`).

A disk goes through the operating system, an address with `://` through fsspec, which
says what to install where it lacks a store.
"""

import contextlib
import dataclasses
import os
import posixpath
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec

from sdfl_jax.errors import InputError

TRIES = 3  # of what a network may do for a while: fail
PAUSE = 2  # seconds before it is tried again, then twice as many


@dataclasses.dataclass(frozen=True, order=True)
class Address(os.PathLike):
    """A place in a store, as far as it is used like a `pathlib.Path`."""

    text: str

    def __fspath__(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text

    def __truediv__(self, name: str) -> "Address":
        return Address(posixpath.join(self.text, name))

    def absolute(self) -> "Address":
        """Itself: an address counts from nowhere."""
        return self

    @property
    def parent(self) -> "Address":
        """The folder that holds it."""
        return Address(posixpath.dirname(self.text))


AnyPath = Path | Address


def path(text: str | os.PathLike) -> AnyPath:
    """A path to go on from, whichever it is."""
    return Address(os.fspath(text)) if is_address(text) else Path(text).expanduser()


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path names a store rather than a place on a disk."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", os.fspath(path)) is not None


def join(folder: str | os.PathLike, *names: str) -> str:
    """A path below a folder."""
    return (posixpath if is_address(folder) else os.path).join(folder, *names)


def names(folder: str | os.PathLike) -> list[str]:
    """The names in a folder, none where there is no such folder."""
    if is_address(folder):
        files, inside = store(folder)
        try:
            found = files.ls(inside, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return [posixpath.basename(path.rstrip("/")) for path in found]
    return os.listdir(folder) if os.path.isdir(folder) else []


def below(folder: str | os.PathLike) -> list[str]:
    """The addresses of all files of a store below a folder, or of the file itself."""
    files, inside = store(folder)
    start = os.fspath(folder).rstrip("/")
    return [start + found.removeprefix(inside) for found in sorted(files.find(inside))]


def exists(path: str | os.PathLike) -> bool:
    """Whether there is such a file or folder."""
    if is_address(path):
        files, inside = store(path)
        return files.exists(inside)
    return os.path.exists(path)


def read(path: str | os.PathLike) -> bytes:
    """The whole file; an `OSError` where it cannot be read, of a store thrice."""
    if is_address(path):
        files, inside = store(path)
        for tried in range(1, TRIES + 1):
            try:
                return files.cat_file(inside)
            except (FileNotFoundError, PermissionError):
                raise
            except OSError:
                if tried == TRIES:
                    raise
                time.sleep(PAUSE * 2 ** (tried - 1))
    return Path(path).read_bytes()


def size(path: str | os.PathLike) -> int | None:
    """The bytes of a file; None where there is no such file."""
    if is_address(path):
        files, inside = store(path)
        return files.size(inside) if files.isfile(inside) else None
    return os.path.getsize(path) if os.path.exists(path) else None


def remove(path: str | os.PathLike):
    """Removes a file, or a folder with what is in it; no such path is no error."""
    files, inside = store(path)
    if files.exists(inside):
        files.rm(inside, recursive=True)


@contextlib.contextmanager
def local(path: str | os.PathLike) -> Iterator[str | os.PathLike]:
    """A file as one of this disk, for what reads no other."""
    if not is_address(path):
        yield path
        return
    files, inside = store(path)
    with tempfile.TemporaryDirectory(prefix="sdfl-") as folder:
        copy = os.path.join(folder, posixpath.basename(inside))
        if files.exists(inside):
            files.get_file(inside, copy)
        yield copy


def put(local: str | os.PathLike, path: str | os.PathLike):
    """Writes a file of the disk to a store, where it is there whole or not at all."""
    files, inside = store(path)
    files.makedirs(posixpath.dirname(inside), exist_ok=True)
    files.put_file(os.fspath(local), inside)


def store(path: str | os.PathLike) -> tuple[fsspec.AbstractFileSystem, str]:
    """What knows a store, and the path as it calls it; `InputError` if nothing does."""
    try:
        return fsspec.core.url_to_fs(os.fspath(path))
    except ImportError as error:  # says which package knows the store
        raise InputError(f"{path}: {error}.") from None
    except ValueError:
        known = "gs://, s3://, abfs://, hdfs://, sftp:// and what else fsspec knows"
        raise InputError(f"{path}: no such kind of store; there are {known}.") from None

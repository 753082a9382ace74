"""Files wherever they lie: on a disk, or in a store that fsspec knows (`gs://`).

A disk goes through the operating system, an address with `://` through fsspec, which
says what to install where it lacks a store.
"""

import os
import posixpath
import re
from pathlib import Path

import fsspec

from sdfl_jax.errors import InputError


def is_address(path: str | os.PathLike) -> bool:
    """Whether a path names a store rather than a place on a disk."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", os.fspath(path)) is not None


def join(folder: str, *names: str) -> str:
    """A path below a folder."""
    return (posixpath if is_address(folder) else os.path).join(folder, *names)


def names(folder: str) -> list[str]:
    """The names in a folder, none where there is no such folder."""
    if is_address(folder):
        files, inside = store(folder)
        try:
            found = files.ls(inside, detail=False, refresh=True)
        except FileNotFoundError:
            return []
        return [posixpath.basename(path.rstrip("/")) for path in found]
    return os.listdir(folder) if os.path.isdir(folder) else []


def exists(path: str) -> bool:
    """Whether there is such a file or folder."""
    if is_address(path):
        files, inside = store(path)
        return files.exists(inside)
    return os.path.exists(path)


def read(path: str) -> bytes:
    """The whole file; an `OSError` where it cannot be read."""
    if is_address(path):
        files, inside = store(path)
        return files.cat_file(inside)
    return Path(path).read_bytes()


def remove(path: str):
    """Removes a file, or a folder with what is in it; no such path is no error."""
    files, inside = store(path)
    if files.exists(inside):
        files.rm(inside, recursive=True)


def put(local: str | os.PathLike, path: str):
    """Writes a file of the disk to a store, where it is there whole or not at all."""
    files, inside = store(path)
    files.makedirs(posixpath.dirname(inside), exist_ok=True)
    files.put_file(os.fspath(local), inside)


def store(path: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """What knows a store, and the path as it calls it; `InputError` if nothing does."""
    try:
        return fsspec.core.url_to_fs(path)
    except ImportError as error:  # says which package knows the store
        raise InputError(f"{path}: {error}.") from None
    except ValueError:
        known = "gs://, s3://, abfs://, hdfs://, sftp:// and what else fsspec knows"
        raise InputError(f"{path}: no such kind of store; there are {known}.") from None

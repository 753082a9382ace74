"""Output that is there whole or not at all, and written by one process at a time."""

import contextlib
import csv
import errno
import fcntl
import itertools
import json
import os
import re
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from sdfl_jax import stores
from sdfl_jax.errors import InputError

_numbers = itertools.count()

HALF_WRITTEN = ".*.partial"  # what a process that was killed leaves behind


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """A path beside `path` to write a file to, renamed to it if all goes well.

    Of a file in a store (`stores.is_address`) it lies on this disk, and is sent there.
    """
    if stores.is_address(path):
        with tempfile.TemporaryDirectory(prefix="sdfl-") as folder:
            beside = Path(folder, os.path.basename(path))
            yield beside
            stores.put(beside, path)
        return
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = _beside(path)
    try:
        yield beside
        os.replace(beside, path)
    except OSError as error:
        if error.filename is None or Path(os.fsdecode(error.filename)) != beside:
            raise
        if isinstance(error, FileNotFoundError) and path.parent.is_dir():
            raise RuntimeError(f"{beside} was lost on the way to {path}") from error
        error.filename = str(path)  # the one that was asked for
        raise
    finally:
        beside.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    # No two writers share one, be they threads; a long name leaves it room.
    token = f"{os.getpid()}.{next(_numbers)}"
    return path.with_name(f".{path.name[:40]}.{token}.partial")


def printable(text: str) -> str:
    """Text for a line; bytes of file names that are no text become \\udcff."""
    return text.encode(errors="backslashreplace").decode()


def write_json(path: str | os.PathLike, value):
    """Writes JSON with sorted structure kept; a NaN is refused, for JSON has none."""
    with replacing(path) as beside:
        beside.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n")


def write_csv(path: str | os.PathLike, rows: Iterable[dict], columns: Sequence[str]):
    """Writes `rows` under a header of `columns`; None becomes an empty cell.

    Bytes of file names that are no text become `\\udcff`, and a text that a spreadsheet
    would run as a formula gets a `'` before it (`plain_cell` takes it off).
    """
    rows = ({name: safe_cell(value) for name, value in row.items()} for row in rows)
    how = {"encoding": "utf-8", "errors": "backslashreplace", "newline": ""}
    with replacing(path) as beside, beside.open("w", **how) as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)


_FORMULA = re.compile(r"'*[=+\-@\t\r]")


def safe_cell(value):
    """The value of a cell of CSV, no formula: a text that begins like one after `'`."""
    if not isinstance(value, str) or not _FORMULA.match(value):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


def plain_cell(text: str) -> str:
    """What `safe_cell` was given."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text[1:]) else text


@contextlib.contextmanager
def new_folder(out: str | os.PathLike, *, made_by: str) -> Iterator[Path]:
    """A folder beside `out` to fill, renamed to `out` if all goes well.

    An older output, known by its file `made_by`, is replaced; a folder that holds
    anything else is refused with `InputError`, so that nothing is ever lost.
    """
    out = Path(out).absolute()
    if out.is_file() or (
        out.is_dir() and any(out.iterdir()) and not (out / made_by).exists()
    ):
        raise InputError(
            f"--out={out}: holds something else already (no {made_by} in it); give a "
            "new or an empty folder."
        )
    beside = _beside(out)
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    try:
        yield beside
        if out.exists():
            shutil.rmtree(out)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@contextlib.contextmanager
def locked(lock: str | os.PathLike, name: str, instead: str) -> Iterator[None]:
    """Holds `name`, what the file `lock` stands for, for this process.

    `InputError` says which process does already, and that `instead` can be given.

    The operating system's lock ends with its process, however that ends, so a run that
    was killed leaves nothing to clean up. Where the file system has no locks, the host
    and process id in the file decide, and on another host the file must be deleted by
    hand.
    """
    lock = Path(lock)
    with contextlib.ExitStack() as stack:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = stack.enter_context(lock.open("a+"))
            _take(file, lock, name, instead)
            while not _is_still(file, lock):  # its owner took it away meanwhile
                file = stack.enter_context(lock.open("a+"))
                _take(file, lock, name, instead)
        except FileExistsError:
            raise InputError(
                f"{lock.parent}: a file, where a folder is to be made."
            ) from None
        except OSError as error:  # the lock is no name that anybody knows
            raise OSError(error.errno, error.strerror, name) from None
        owner = _owner(file)
        if owner:
            print(
                f"{name}: process {owner['pid']} on {owner['host']} used it and "
                "ended without notice; going on.",
                file=sys.stderr,
            )
        _write_owner(file, {"host": socket.gethostname(), "pid": os.getpid()})
        try:
            yield
        finally:
            _write_owner(file, {})


@contextlib.contextmanager
def locked_output(out: str | os.PathLike) -> Iterator[None]:
    """`locked` for what is made at `out`; the lock lies beside it and goes with it.

    A store keeps no locks: there two commands at once do the same work twice.
    """
    if stores.is_address(out):
        yield
        return
    out = Path(out).absolute()
    lock = out.with_name(f".{out.name}.lock")
    with locked(lock, str(out), "--out"):
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)


def _take(file, lock: Path, name: str, instead: str):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise _in_use(name, _owner(file), instead) from None
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
        owner = _owner(file)
        if owner and _may_be_alive(owner):
            raise _in_use(name, owner, instead, f"; if not, delete {lock}") from None


def _is_still(file, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), lock.stat())
    except FileNotFoundError:
        return False


def _in_use(name: str, owner: dict, instead: str, hint: str = "") -> InputError:
    return InputError(
        f"{name}: in use by process {owner.get('pid', '?')} on "
        f"{owner.get('host', '?')}{hint}; wait for it, or give another {instead}."
    )


def _owner(file) -> dict:
    file.seek(0)
    try:
        return json.loads(file.read())
    except ValueError:  # new, or cut short
        return {}


def _write_owner(file, owner: dict):
    file.seek(0)
    file.truncate()
    file.write(json.dumps(owner))
    file.flush()


def _may_be_alive(owner: dict) -> bool:
    if owner["host"] != socket.gethostname():
        return True
    try:
        os.kill(owner["pid"], 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True

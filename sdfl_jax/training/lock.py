"""One process at a time writes to a working directory."""

import contextlib
import errno
import fcntl
import json
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from sdfl_jax.errors import InputError

LOCK = "lock.json"


@contextlib.contextmanager
def only_user(workdir: str | os.PathLike) -> Iterator[None]:
    """Holds `workdir` for this process; `InputError` names another that does.

    The operating system's lock ends with its process, however that ends, so a run that
    was killed leaves nothing to clean up. Where the file system has no locks, the host
    and process id in the file decide, and on another host the file must be deleted by
    hand.
    """
    path = Path(workdir) / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise _in_use(workdir, _owner(file)) from None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
            owner = _owner(file)
            if owner and _may_be_alive(owner):
                raise _in_use(workdir, owner, f"; if not, delete {path}") from None
        owner = _owner(file)
        if owner:
            print(
                f"{workdir}: process {owner['pid']} on {owner['host']} used it and "
                "ended without notice; going on.",
                file=sys.stderr,
            )
        _write(file, {"host": socket.gethostname(), "pid": os.getpid()})
        try:
            yield
        finally:
            _write(file, {})


def _in_use(workdir, owner: dict, hint: str = "") -> InputError:
    return InputError(
        f"{workdir}: in use by process {owner.get('pid', '?')} on "
        f"{owner.get('host', '?')}{hint}; wait for it, or give another --workdir."
    )


def _owner(file) -> dict:
    file.seek(0)
    try:
        return json.loads(file.read())
    except ValueError:  # new, or cut short
        return {}


def _write(file, owner: dict):
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

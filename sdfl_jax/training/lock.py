"""One process at a time trains in a working directory."""

import contextlib
import os
from pathlib import Path

from sdfl_jax.files import locked

LOCK = "lock.json"


def only_user(workdir: str | os.PathLike) -> contextlib.AbstractContextManager[None]:
    """Holds `workdir` for this process; `InputError` names another that does."""
    return locked(Path(workdir) / LOCK, os.fspath(workdir), "--workdir")

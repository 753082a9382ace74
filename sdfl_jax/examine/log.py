"""The log of a case: each line carries the hash of the one before.

A line that was changed, taken out or put in breaks the chain. Who can write the whole
file can also write a whole new chain: what ties it down is the last line's hash, noted
somewhere else.
"""

import datetime
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from sdfl_jax.errors import InputError

NAME = "log.jsonl"
_FIRST = "0" * 64


class Log:
    """Appends to `FOLDER/log.jsonl`, going on from the chain that is there.

    A last line that was cut off, as by a kill in the middle of writing, is dropped.
    Raises `InputError` where the chain is broken.
    """

    def __init__(self, folder: str | os.PathLike):
        self._path = Path(folder) / NAME
        self._last = _FIRST
        self.entries: list[dict] = []
        if self._path.exists():
            data = self._path.read_bytes()
            whole = data[: data.rfind(b"\n") + 1]
            for entry, self._last in _followed(whole):
                self.entries.append(entry)
            if len(whole) < len(data):
                os.truncate(self._path, len(whole))
                self.write("dropped", {"unfinished_bytes": len(data) - len(whole)})

    def write(self, action: str, said: Mapping):
        """One line: when, what, the hash of the line before; on disk when it ends."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "action": action, **said, "previous": self._last}
        line = json.dumps(entry, allow_nan=False).encode()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(line + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._last = hashlib.sha256(line).hexdigest()
        self.entries.append(entry)

    @property
    def head(self) -> str:
        """The SHA-256 of the last line, which stands for all of them."""
        return self._last


def _followed(data: bytes) -> Iterator[tuple[dict, str]]:
    """Each entry and its line's hash; `InputError` names the first that fits not."""
    previous = _FIRST
    for number, line in enumerate(data.splitlines(), start=1):
        try:
            entry = json.loads(line)
            said = entry["previous"]
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{NAME}: line {number} is no entry of a log.") from None
        if said != previous:
            raise InputError(
                f"{NAME}: line {number} does not follow the one before: a line was "
                "changed, taken out or put in."
            )
        previous = hashlib.sha256(line).hexdigest()
        yield entry, previous


def sha256_of(path: str | os.PathLike) -> str:
    """The SHA-256 of a file, read piece by piece."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read(path: str | os.PathLike) -> tuple[list[dict], str]:
    """All entries of a log and its last line's hash; `InputError` if it is broken."""
    data, last, entries = Path(path).read_bytes(), _FIRST, []
    if not data.endswith(b"\n"):
        raise InputError(f"{NAME}: its last line is cut off.")
    for entry, last in _followed(data):  # noqa: B007
        entries.append(entry)
    return entries, last

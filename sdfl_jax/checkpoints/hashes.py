"""What a folder's files hold, written down so that damage is seen later."""

import hashlib
import json
import os
from pathlib import Path

from sdfl_jax.files import write_json

HASHES = "hashes.json"


def write(folder: str | os.PathLike):
    """Writes the SHA-256 of every file in the folders of `folder` beside them."""
    folder = Path(folder)
    found = {
        str(path.relative_to(folder)): _sha256(path)
        for path in sorted(folder.glob("*/**/*"))
        if path.is_file()
    }
    write_json(folder / HASHES, found)


def damage(folder: str | os.PathLike) -> str | None:
    """What no longer is as `write` found it, in a few words; None if all is well.

    Raises `FileNotFoundError` where no hashes were written.
    """
    folder = Path(folder)
    try:
        written = json.loads((folder / HASHES).read_text())
    except ValueError:
        return f"{HASHES} cannot be read"
    for name, sha256 in written.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _sha256(path) != sha256:
            return f"{name} does not fit its hash"
    return None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

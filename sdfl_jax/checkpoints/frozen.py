"""Frozen arrays that a checkpoint leaves out and names the file of instead.

A frozen foundation model is the same in every checkpoint of every run: its file's
SHA-256 says which one it is, and what reads the checkpoint reads that file as well.
"""

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from flax import traverse_util

from sdfl_jax import weights
from sdfl_jax.errors import InputError
from sdfl_jax.trees import patterns

KEY = "frozen"  # in a checkpoint's progress


@dataclasses.dataclass(frozen=True)
class Frozen:
    """What is left out: arrays of parts that have a file, where a pattern fits.

    freeze    patterns over the paths of params
    files     by part, as "encoder": path and "sha256" of its file
    """

    freeze: tuple[str, ...] = ()
    files: Mapping[str, Mapping[str, str]] = dataclasses.field(default_factory=dict)

    def without(self, variables: dict) -> dict:
        """{"params", ...} without what is left out, statistics of norms included."""
        return self._filtered(variables, lambda left_out: not left_out)

    def only(self, variables: dict) -> dict:
        """{"params", ...} of what is left out alone."""
        return self._filtered(variables, lambda left_out: left_out)

    def _filtered(self, variables, keep) -> dict:
        return {
            kind: traverse_util.unflatten_dict(
                {
                    path: leaf
                    for path, leaf in traverse_util.flatten_dict(tree).items()
                    if keep(self._leaves_out(kind, path))
                }
            )
            for kind, tree in variables.items()
        }

    def _leaves_out(self, kind: str, path: tuple[str, ...]) -> bool:
        if kind == "batch_stats":  # frozen where the norm's scale is
            path = (*path[:-1], "scale")
        return path[0] in self.files and patterns.fits("/".join(path), self.freeze)

    def read(self, variables: dict, workdir: str | Path) -> dict:
        """What is left out of `variables` (arrays or their shapes), from the files.

        A file that is no longer where it was may lie in `workdir`. Raises `InputError`
        where it is missing or another one.
        """
        found = variables
        for part, file in self.files.items():
            path = next(
                (
                    p
                    for p in (file["path"], Path(workdir, Path(file["path"]).name))
                    if Path(p).is_file()
                ),
                None,
            )
            if path is None:
                raise InputError(
                    f"{workdir}: its checkpoints hold no {part}; {file['path']} with "
                    f"SHA-256 {file['sha256']} is missing: put it there or into "
                    f"{workdir}."
                )
            if (sha256 := sha256_of(path)) != file["sha256"]:
                raise InputError(
                    f"{path}: another file than the one that {workdir} was trained "
                    f"with: its SHA-256 is {sha256}, not {file['sha256']}."
                )
            found = weights.load_encoder(path, found, part)
        return self.only(found)


def of_config(freeze: Sequence[str], encoders: Mapping[str, str]) -> Frozen:
    """What `config.save_frozen=False` leaves out; `encoders` are the parts' files.

    Raises `InputError` where nothing is frozen that could be read again.
    """
    given = {
        part: weights.encoder_file(path) for part, path in encoders.items() if path
    }
    if not given or not freeze:
        raise InputError(
            "config.save_frozen=False: only what config.freeze stands for in a part "
            "with a file in config.init_encoders can be left out; give both."
        )
    files = {
        part: {"path": str(Path(path).absolute()), "sha256": sha256_of(path)}
        for part, path in given.items()
    }
    return Frozen(tuple(freeze), files)


def of_progress(progress: Mapping) -> Frozen | None:
    """What the checkpoint of this progress leaves out."""
    told = progress.get(KEY)
    return Frozen(tuple(told["freeze"]), told["files"]) if told else None


def merged(saved: dict, read: dict) -> dict:
    """Both trees of {"params", ...} in one; their arrays are different ones."""
    return {
        kind: traverse_util.unflatten_dict(
            traverse_util.flatten_dict(saved[kind])
            | traverse_util.flatten_dict(read.get(kind, {}))
        )
        for kind in saved
    }


def sha256_of(path: str | Path) -> str:
    """Of a file; raises `InputError` where there is none."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}).") from None

"""A network as StableHLO, which JAX runs without this package, for CPU and CUDA."""

import json
import os
from pathlib import Path

import jax
import numpy as np
from jax import export

from sdfl_jax.errors import InputError
from sdfl_jax.export.subject import Subject
from sdfl_jax.files import replacing, write_json

PLATFORMS = ("cpu", "cuda")


def description_path(path: str | os.PathLike) -> Path:
    """The JSON beside a file."""
    return Path(f"{path}.json")


def write(path: str | os.PathLike, subject: Subject) -> dict:
    """Writes what `jax.export.deserialize` reads, and its description beside it.

    The batch is left open where the network allows it (`batch` is then "any"). Returns
    `difference`, the largest from the network itself after reading back (relative, see
    `Subject.difference`), and `bytes`.

    Raises InputError, and writes nothing, where the network cannot be exported or what
    is read back gives other numbers.
    """
    exported, batch = _exported(subject)
    data = bytes(exported.serialize())
    call = jax.jit(export.deserialize(bytearray(data)).call)
    difference = subject.difference(
        lambda arrays: jax.tree.map(np.asarray, call(*arrays.values()))
    )
    about = subject.about | {
        "batch": batch,
        "calling_convention_version": exported.calling_convention_version,
        "minimum_calling_convention_version": (
            export.minimum_supported_calling_convention_version
        ),
        "platforms": list(exported.platforms),
        "jax": jax.__version__,
        "jaxlib": jax.lib.__version__,
        "run": "jax.export.deserialize(open(FILE, 'rb').read())."
        f"call({', '.join(subject.inputs)})",
    }
    json.dumps(about, allow_nan=False)  # before anything is written
    with replacing(path) as beside:
        beside.write_bytes(data)
        write_json(description_path(path), about)
    return {"difference": difference, "bytes": Path(path).stat().st_size}


def _exported(subject: Subject) -> tuple[export.Exported, int | str]:
    make = export.export(jax.jit(subject.call), platforms=PLATFORMS)
    (batch,) = export.symbolic_shape("batch")
    fixed = list(subject.inputs.values())
    free = [jax.ShapeDtypeStruct((batch, *one.shape[1:]), one.dtype) for one in fixed]
    try:
        return make(*free), "any"
    except Exception:  # some operation asks for the number itself
        pass
    try:
        return make(*fixed), subject.shape[0]
    except Exception as error:
        said = " ".join(str(error).split())
        raise InputError(
            f"{subject.about['network']}: no StableHLO of it ({said[:300]})."
        ) from error

"""Where a network here keeps an array that PyTorch knows by a name.

The rules belong to the networks and encoders, which declare `torch_names`.
"""

import dataclasses
import functools
import re

import numpy as np

from sdfl_jax.models.names import Rules, TorchNames


def path_of(name: str, ndim: int, module) -> str | None:
    """The place in params or batch_stats of an array with `ndim` axes.

    `module` is the network or encoder whose array it is. None where no result of it
    depends on the array.
    """
    own, parts = _names_of(module)
    if _is_unused(own, name):
        return None
    path = _apply(own.to_path, name)
    part, _, rest = path.partition("/")
    if part in parts:
        if _is_unused(parts[part], rest):
            return None
        path = f"{part}/{_apply(parts[part].to_path, rest)}"
    path = re.sub(r"\brunning_(mean|var)$", r"\1", path.replace(".", "/"))
    leaf = "scale" if ndim == 1 else "kernel"
    path = re.sub(r"(^|/)weight$", rf"\1{leaf}", path)
    if path.startswith(("batch_stats/", "params/")):
        return path
    return ("batch_stats/" if re.search(r"/(mean|var)$", path) else "params/") + path


def name_of(path: str, ndim: int, module) -> str:
    """The name that `path_of` takes to `path`; `path` itself where there is none.

    `ndim` counts the axes of PyTorch's array.
    """
    own, parts = _names_of(module)
    if own == TorchNames():
        return path
    name = path.partition("/")[2]
    part, _, rest = name.partition("/")
    if part in parts:
        name = f"{part}/{_apply(parts[part].to_torch, rest)}"
    name = _apply(own.to_torch, name)
    if not re.search(r"(bayar_conv|constrain_conv)/kernel$", name):
        name = re.sub(r"/(kernel|scale)$", "/weight", name)
    name = re.sub(r"/(mean|var)$", r"/running_\1", name).replace("/", ".")
    return name if path_of(name, ndim, module) == path else path


def joined(arrays: dict[str, np.ndarray], module) -> dict[str, np.ndarray]:
    """`arrays` with those stacked that are one here: a key's and a value's, say."""
    own, parts = _names_of(module)
    found = dict(arrays)
    of_parts = [rule for part in parts.values() for rule in part.joined]
    for first, second, whole in dict.fromkeys([*own.joined, *of_parts]):
        for name in [name for name in found if first in name]:
            if (other := name.replace(first, second)) in found:
                both = [np.asarray(found.pop(name)), np.asarray(found.pop(other))]
                found[name.replace(first, whole)] = np.concatenate(both)
    return found


def _names_of(module) -> tuple[TorchNames, dict[str, TorchNames]]:
    """A module's own names and those of its parts that have some."""
    parts = {
        field.name: part.torch_names
        for field in dataclasses.fields(module)
        if field.name != "parent"
        and hasattr(part := getattr(module, field.name), "torch_names")
    }
    return getattr(module, "torch_names", TorchNames()), parts


def _is_unused(names: TorchNames, name: str) -> bool:
    return name.startswith(names.unused) or name.endswith(names.unused_ends)


def _apply(rules: Rules, name: str) -> str:
    for pattern, replacement in rules:
        name = _compiled(pattern).sub(replacement, name)
    return name


_compiled = functools.cache(re.compile)

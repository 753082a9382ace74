"""Adapters worked into the kernels beside them."""

import numpy as np
from flax import traverse_util


def merge_lora(variables: dict, scale: float) -> dict:
    """The variables of the network without adapters that gives the same results.

    Kernel + scale A B in place of every kernel that has adapters; `scale` is their
    alpha over their rank.
    """
    flat = traverse_util.flatten_dict(variables["params"], sep="/")
    merged = {}
    for path, array in flat.items():
        layer, _, leaf = path.rpartition("/")
        if leaf in ("lora_a", "lora_b"):
            continue
        if leaf == "kernel" and f"{layer}/lora_a" in flat:
            a, b = (np.asarray(flat[f"{layer}/lora_{x}"], np.float64) for x in "ab")
            array = (np.asarray(array) + scale * (a @ b)).astype(np.float32)
        merged[path] = array
    return variables | {"params": traverse_util.unflatten_dict(merged, sep="/")}

"""A network's weights under the names that others read."""

import os

import numpy as np
import safetensors.numpy
from flax import traverse_util

from sdfl_jax import models
from sdfl_jax.files import replacing
from sdfl_jax.weights import torch_names
from sdfl_jax.weights.foreign import to_torch_layout

# Of the reference: its synchronised batch norm keeps its sums beside the statistics.
_REFERENCE = ("sdfl", "upernet")


def to_torch(model_name: str, variables: dict, **settings) -> dict[str, np.ndarray]:
    """What `from_torch` reads: float32 arrays by PyTorch's names, in its layout.

    `sdfl`, `upernet` and `mvssnet` come out as the reference's own files: with zeros
    for the layers that it holds and never uses, and the sums of its synchronised batch
    norm at the running statistics; what counts batches is left out, PyTorch takes it
    for new. Arrays without a PyTorch name, as those of `unet`, keep their path here
    for a name, and their layout. `settings` are the network's.
    """
    exported, model = {}, models.build(model_name, **settings)
    for path, array in traverse_util.flatten_dict(variables, sep="/").items():
        array = np.asarray(array, np.float32)
        turned = to_torch_layout(path, array)
        name = torch_names.name_of(path, turned.ndim, model)
        exported[name] = array if name == path else turned
    if model_name in _REFERENCE:
        exported |= _unused_decoder(len(exported["decoder.seg_head.0.1.weight"]))
        exported |= _sums(exported)
    if model_name == "mvssnet":
        for part in ("model", "noise_extractor.model"):
            exported[f"{part}.fc.weight"] = np.zeros((1000, 2048), np.float32)
            exported[f"{part}.fc.bias"] = np.zeros(1000, np.float32)
    return exported


def write_safetensors(path: str | os.PathLike, arrays: dict[str, np.ndarray]):
    """Writes named arrays, whole or not at all."""
    contiguous = {name: np.ascontiguousarray(a) for name, a in arrays.items()}
    with replacing(path) as beside:
        safetensors.numpy.save_file(contiguous, beside)


def _unused_decoder(width: int) -> dict[str, np.ndarray]:
    """Zeros for the three blocks of the decoder that no result depends on."""
    inputs = {"conv_fusion": 4 * width, "fpn_out.1.0": width, "fpn_out.2.0": width}
    zeros = {}
    for block, channels in inputs.items():
        zeros[f"decoder.{block}.0.weight"] = np.zeros((width, channels, 3, 3))
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            zeros[f"decoder.{block}.1.{leaf}"] = np.zeros(width)
    return {name: array.astype(np.float32) for name, array in zeros.items()}


def _sums(exported: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """One batch's worth: the reference divides these sums by their weight."""
    sums = {}
    for name, array in exported.items():
        layer, _, leaf = name.rpartition(".")
        if leaf in ("running_mean", "running_var"):
            sums[f"{layer}._tmp_{leaf}"] = array
            sums[f"{layer}._running_iter"] = np.ones(1, np.float32)
    return sums

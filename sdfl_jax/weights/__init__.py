"""Weights of other people and of other runs, matched to a network by name."""

from sdfl_jax.weights.export import to_torch, write_safetensors
from sdfl_jax.weights.files import read_weights
from sdfl_jax.weights.foreign import (
    BOOKKEEPING,
    fit_encoder,
    from_torch,
    load_encoder,
    unused,
)
from sdfl_jax.weights.lora import merge_lora

__all__ = [
    "BOOKKEEPING",
    "fit_encoder",
    "from_torch",
    "load_encoder",
    "merge_lora",
    "read_weights",
    "to_torch",
    "unused",
    "write_safetensors",
]

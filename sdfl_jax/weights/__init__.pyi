from .export import to_torch, write_safetensors
from .foreign import (
    BOOKKEEPING,
    encoder_file,
    fit_encoder,
    from_torch,
    load_encoder,
    unused,
)
from .formats import read_weights
from .merging import merge_lora

__all__ = [
    "BOOKKEEPING",
    "encoder_file",
    "fit_encoder",
    "from_torch",
    "load_encoder",
    "merge_lora",
    "read_weights",
    "to_torch",
    "unused",
    "write_safetensors",
]

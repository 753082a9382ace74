"""A network as an ONNX file, which onnxruntime runs as JAX does, or no file."""

import contextlib
import importlib.util
import json
import logging
import os
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np

from sdfl_jax.errors import InputError
from sdfl_jax.export.subject import Subject
from sdfl_jax.files import replacing
from sdfl_jax.ops import platforms

# It pins an orbax-checkpoint older than ours, which it never imports: pip would refuse
# the two together, so it comes without what it asks for and the extra brings the rest.
INSTALL = "pip install 'sdfl-jax[export]' && pip install --no-deps 'jax2onnx>=0.17.1'"
OPSET = 21  # onnxruntime and its build for browsers know it since 2024


def write(path: str | os.PathLike, subject: Subject) -> dict:
    """Writes the network at `subject`'s size, and its description as metadata.

    Returns `difference`, the largest from JAX in onnxruntime (relative, see
    `Subject.difference`), and `bytes`.

    Raises InputError, and writes nothing, where the network cannot be converted or
    the converted one gives other numbers.
    """
    model = converted(subject)
    data = model.SerializeToString()
    difference = subject.difference(runner(data))
    with replacing(path) as beside:
        beside.write_bytes(data)
    return {"difference": difference, "bytes": Path(path).stat().st_size}


def converted(subject: Subject):
    """The network as an `onnx.ModelProto`: `inputs` in, the names of `call` out."""
    jax2onnx = _jax2onnx()
    names = list(subject.about["outputs"])

    def flat(*arrays):
        outputs = subject.call(*arrays)
        return tuple(outputs[name] for name in names)

    try:
        # The converter's own rules broadcast where a strict setting would not let them.
        with platforms.plain(), _quiet(), jax.numpy_rank_promotion("allow"):
            model = jax2onnx.to_onnx(
                flat,
                inputs=list(subject.inputs.values()),
                input_names=list(subject.inputs),
                output_names=names,
                model_name=subject.about["network"],
                opset=OPSET,
            )
    except Exception as error:  # whatever a rule of the converter stumbles over
        operation, layer = _where(error)
        said = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{subject.about['network']}: {operation} in {layer} cannot be converted "
            f"to ONNX ({said[:200]})."
        ) from error
    for name, value in subject.about.items():
        model.metadata_props.add(key=name, value=json.dumps(value))
    return model


def runner(data: bytes) -> Callable[[Mapping], dict[str, np.ndarray]]:
    """Runs a file's content on arrays by name in onnxruntime, on the CPU."""
    import onnxruntime

    onnxruntime.set_default_logger_severity(3)
    try:
        session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    except Exception as error:  # an internal check of the graph, mostly
        said = " ".join(str(error).split())
        raise InputError(f"onnxruntime refuses the network ({said[:300]}).") from error
    names = [output.name for output in session.get_outputs()]
    return lambda arrays: dict(zip(names, session.run(names, arrays), strict=True))


def installed() -> bool:
    """Whether the converter is there."""
    return importlib.util.find_spec("jax2onnx") is not None


def _jax2onnx():
    try:
        with _quiet():
            import jax2onnx
            import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"--format=onnx needs {error.name or 'jax2onnx'}: {INSTALL}"
        ) from None
    return jax2onnx


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the converter's remarks on its own examples and types."""
    loggers = [logging.getLogger(name) for name in ("jax2onnx", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _where(error: Exception) -> tuple[str, str]:
    """The operation and the layer that the converter was at when it failed."""
    operation, layer = "an operation", "the network"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        names = frame.f_locals
        equation, module = names.get("eqn"), names.get("self")
        if hasattr(equation, "primitive"):
            operation = equation.primitive.name
            layer = str(equation.source_info.name_stack) or layer
        elif hasattr(module, "scope") and hasattr(module, "path"):  # a Flax module
            layer = "/".join(module.path) or layer
        stem = Path(frame.f_code.co_filename)
        if "plugins" in stem.parts and not hasattr(equation, "primitive"):
            if not stem.stem.startswith(("_", "plugin_system")):
                operation = stem.stem
    return operation, layer

"""Compiled programs kept between runs, and the memory that compiling them took."""

import ctypes
import os
import platform
from pathlib import Path

import jax

_COMPILED = "/jax/core/compile/backend_compile_duration"  # an event of JAX's
_LONG = 5.0  # seconds of a compilation that leaves something worth asking for


def keep():
    """Keeps what takes long to compile in `$XDG_CACHE_HOME/sdfl_jax/compiled`.

    Where JAX has a folder already (`JAX_COMPILATION_CACHE_DIR`), that one stays; where
    the folder cannot be made, everything is compiled anew.
    """
    if jax.config.jax_compilation_cache_dir:
        return
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "sdfl_jax" / "compiled"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def give_back():
    """From now on memory that a long compilation freed goes back to the system.

    The C library (glibc) keeps it otherwise, 0.7 GiB after a training step of `sdfl`,
    beside all that the step itself takes.
    """
    if platform.libc_ver()[0] == "glibc":
        jax.monitoring.register_event_duration_secs_listener(_after)


def _after(event: str, seconds: float, **_):
    if event == _COMPILED and seconds > _LONG:
        ctypes.CDLL(None).malloc_trim(0)

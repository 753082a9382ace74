"""Compiled programs kept between runs."""

import os
from pathlib import Path

import jax


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

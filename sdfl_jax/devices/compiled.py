"""What takes long before a network answers, kept between runs: programs and traces."""

import contextlib
import functools
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import flax
import jax

from sdfl_jax.files import replacing

_PACKAGE = Path(__file__).parent.parent
_kept: Path | None = None  # the folder, once `keep` was asked for one of this disk


def keep():
    """Keeps what takes long to compile in `$XDG_CACHE_HOME/sdfl_jax/compiled`.

    Where JAX has a folder already (`JAX_COMPILATION_CACHE_DIR`), that one is taken;
    where the folder cannot be made, everything is compiled anew.
    """
    global _kept
    given = jax.config.jax_compilation_cache_dir
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(given or Path(home) / "sdfl_jax" / "compiled")
    if "://" in str(given):
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if Path(__file__).suffix == ".py" and Path(__file__).is_file():  # not in an archive
        _kept = folder
    if given:
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def remembered(about: str | None, make: Callable[[], bytes]) -> bytes:
    """What `make` gives; after `keep`, what it gave for the same `about` in any run.

    It is made anew for other code of this package, other versions or settings of JAX,
    where it cannot be read, and where None says that `about` is not all it depends on.
    """
    if _kept is None or about is None:
        return make()
    settings = {
        name: value
        for name, value in jax.config.values.items()
        if "cache" not in name and "log" not in name
    }
    versions = (_sources(), jax.__version__, flax.__version__)
    told = repr((about, versions, sorted(settings.items())))
    name = hashlib.sha256(told.encode()).hexdigest()
    path = _kept / "traces" / name
    try:
        whole = path.read_bytes()
        if hashlib.sha256(whole[32:]).digest() == whole[:32]:
            return whole[32:]
    except OSError:
        pass
    made = make()
    # A full disk, or a folder of somebody else's, costs no more than the time.
    with contextlib.suppress(OSError), replacing(path) as beside:
        beside.write_bytes(hashlib.sha256(made).digest() + made)
    return made


def traced_once(function, about: str | None) -> Callable:
    """A jitted function of arrays whose traces are `remembered`, on a CPU.

    Tracing a network takes a second and more, even where its program lies ready.
    `about` says what a trace depends on beside the arguments' shapes; None: more.
    """
    if about is None:
        return function
    programs = {}

    def kept(arguments, about: str) -> Callable:
        export = lambda: bytes(jax.export.export(function)(*arguments).serialize())
        try:
            trace = remembered(about, export)
            return jax.jit(jax.export.deserialize(bytearray(trace)).call)
        except Exception:  # what the function itself raises it will raise again
            return function

    def call(*arguments):
        if _kept is None or jax.default_backend() != "cpu" or jax.process_count() > 1:
            return function(*arguments)
        leaves, tree = jax.tree.flatten(arguments)
        shapes = tuple((x.shape, x.dtype, x.sharding) for x in leaves)
        if (tree, shapes) not in programs:
            programs[tree, shapes] = kept(arguments, repr((about, tree, shapes)))
        return programs[tree, shapes](*arguments)

    return call


@functools.cache
def _sources() -> str:
    """A digest of the package's own code."""
    digest = hashlib.sha256()
    for path in sorted(_PACKAGE.rglob("*.py")):
        digest.update(str(path.relative_to(_PACKAGE)).encode() + b"\0")
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()

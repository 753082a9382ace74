"""What a process on a CPU asks the system for: large pages, and the same ones again.

A training step takes gigabytes for what it computes meanwhile, and gives them back. The
system clears and maps them page by page: 2 MiB at a time it does so in much less time
than 4 KiB at a time, which saves a fifth to a third of a step; and what the process
keeps from step to step it need not ask for at all. On a virtual machine whose host
takes free memory back, that saved a further sixth.
"""

import ctypes
import os
import platform
import sys

_SETTING = "GLIBC_TUNABLES"
_COMPILED = "/jax/core/compile/backend_compile_duration"  # an event of JAX's
_LONG = 5.0  # seconds of a compilation that leaves something worth asking for
_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # names of `mallopt`


def restart():
    """Starts this program over with large pages, unless it has them or cannot.

    The C library (glibc 2.35 or later) reads that setting once, when a program begins;
    the process, its id and its files stay. A setting that is there already is left as
    it is. To be called before anything has been done.
    """
    if _glibc() and _SETTING not in os.environ:
        os.environ[_SETTING] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep():
    """From now on freed memory stays with the process, but for a compilation's.

    A long compilation leaves 0.7 GiB (a training step of `sdfl`) beside all that the
    step itself takes: they go back to the system. From then on a CPU's steps take what
    the last one left. To be called before JAX knows its devices: such steps have to
    run in the thread that asks for them, for the C library keeps what the first thread
    frees and of the others' no large blocks.
    """
    import jax  # not above: a misspelt flag is told before

    if _glibc():
        jax.config.update("jax_cpu_enable_async_dispatch", False)
        jax.monitoring.register_event_duration_secs_listener(_after)


def _after(event: str, seconds: float, **_):
    import jax

    if event == _COMPILED and seconds > _LONG:
        library = ctypes.CDLL(None)
        library.malloc_trim(0)
        if jax.default_backend() == "cpu":
            library.mallopt(_MMAP_MAX, 0)
            library.mallopt(_TRIM_THRESHOLD, -1)


def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"

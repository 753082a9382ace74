"""What a process asks the system for: large pages, and the same memory only once.

A training step takes gigabytes for what it computes meanwhile, and gives them back. The
system clears and maps them page by page: 2 MiB at a time it does so in much less time
than 4 KiB at a time, which saves a fifth to a third of a step; and what the process
keeps from step to step it need not ask for at all. On a virtual machine whose host
takes free memory back, that saved a further sixth.
"""

import ctypes
import functools
import os
import platform
import sys

_SETTING = "GLIBC_TUNABLES"
_COMPILED = "/jax/core/compile/backend_compile_duration"  # an event of JAX's
_IN_OTHER_THREADS = "jax_cpu_enable_async_dispatch"
_LONG = 5.0  # seconds of a compilation that leaves something worth asking for
# Names of `mallopt`.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4


def restart():
    """Starts this program over with large pages, unless it has them or cannot.

    The C library (glibc 2.35 or later) reads that setting once, when a program begins;
    the process, its id and its files stay. A setting that is there already is left as
    it is. To be called before anything has been done.
    """
    if _glibc() and _SETTING not in os.environ:
        os.environ[_SETTING] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def keep_planes():
    """Lets the C library reuse what images took instead of handing it back each time.

    Planes of some hundred kilobytes would otherwise be mapped anew, page fault by page
    fault, which took a third of the input pipeline's CPU time.
    """
    if _glibc():
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_THRESHOLD, 32 << 20)  # the largest value there is
        library.mallopt(_TRIM_THRESHOLD, 64 << 20)


def give_back():
    """Hands freed memory to the system, which the process would keep."""
    if _glibc():
        ctypes.CDLL(None).malloc_trim(0)


def keep_all():
    """Keeps whatever is freed, until the process ends or gives it back.

    For commands that answer and end: a tenth of the time of a large photograph went
    into memory that the system took back and cleared from one tile to the next.
    """
    if _glibc():
        library = ctypes.CDLL(None)
        library.mallopt(_MMAP_MAX, 0)
        library.mallopt(_TRIM_THRESHOLD, -1)


def keep_steps():
    """Lets the steps of a training on a CPU take what the last one left.

    From the first long compilation on, whose own memory goes back to the system: 0.7
    GiB (a training step of `sdfl`) beside all that the step itself takes. To be called
    before JAX knows its devices: such steps have to run in the thread that asks for
    them, for of what other threads free the C library keeps no large blocks.
    """
    import jax  # not above: a misspelt flag is told before

    if _glibc():
        if _IN_OTHER_THREADS in jax.config.values:  # not promised for every version
            jax.config.update(_IN_OTHER_THREADS, False)
        jax.monitoring.register_event_duration_secs_listener(_after)


def _after(event: str, seconds: float, **_):
    import jax

    if event == _COMPILED and seconds > _LONG:
        give_back()
        if jax.default_backend() == "cpu":
            keep_all()


@functools.cache
def _glibc() -> bool:
    return platform.libc_ver()[0] == "glibc"

"""A form of an operation for each platform, or the one form that suits all."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator

import jax

_plain = contextvars.ContextVar("plain", default=False)


def by_platform(*arrays: jax.Array, cpu: Callable, default: Callable):
    """`cpu(*arrays)` on a CPU, `default(*arrays)` on anything else.

    Chosen where the program is lowered; within `plain` it is `default` everywhere.
    """
    if is_plain():
        return default(*arrays)
    return jax.lax.platform_dependent(*arrays, cpu=cpu, default=default)


def is_plain() -> bool:
    """Whether what is traced here is within `plain`."""
    return _plain.get()


@contextlib.contextmanager
def plain() -> Iterator[None]:
    """What is traced within has no choice of platforms, which other formats lack."""
    before = _plain.set(True)
    try:
        yield
    finally:
        _plain.reset(before)

"""Several processes that are one job, each with its own devices."""

import contextlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from sdfl_jax.errors import InputError

# What the scripts in `launch/` set, for each process.
ADDRESS, COUNT, INDEX = "COORDINATOR_ADDRESS", "PROCESS_COUNT", "PROCESS_INDEX"

T = TypeVar("T")


def join(environment: Mapping[str, str] = os.environ) -> None:
    """Joins the job that the environment describes; does nothing where it names none.

    `COORDINATOR_ADDRESS` is HOST:PORT of the first process, `PROCESS_COUNT` and
    `PROCESS_INDEX` count from 0. To be called before anything touches a device. Raises
    InputError where one of them is missing or does not fit, or nobody answers.
    """
    given = {name: environment.get(name, "") for name in (ADDRESS, COUNT, INDEX)}
    if not any(given.values()):
        return
    missing = [name for name, value in given.items() if not value]
    if missing:
        raise InputError(
            f"{' and '.join(missing)} not set; several processes need {ADDRESS} "
            f"(HOST:PORT of the first), {COUNT} and {INDEX} (from 0)."
        )
    address, count, index = given.values()
    whole = count.isdigit() and index.isdigit()
    if not whole or not 0 <= int(index) < int(count):
        raise InputError(
            f"{COUNT}={count} and {INDEX}={index}: take whole numbers, the index from "
            "0 to one less than the count."
        )
    if ":" not in address:
        raise InputError(f"{ADDRESS}={address}: takes HOST:PORT.")
    try:
        jax.distributed.initialize(address, int(count), int(index))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"Process {index} of {count} did not meet the others at {address}: {reason}"
        ) from None


def is_first() -> bool:
    """Whether this process is the one that prints, logs and writes small files."""
    return jax.process_index() == 0


def together(act: Callable[[], T]) -> T:
    """What `act()`, which every process runs, returns here; what one raises, all raise.

    For what can fail in one process while the others go on to a barrier, so that nobody
    waits for one that has ended. An `InputError` or `OSError` of another process is
    raised as it is, others as a `RuntimeError`; that of the first process goes first.
    """
    done, error = None, None
    try:
        done = act()
    except Exception as raised:
        error = raised
    told = error
    if isinstance(error, InputError):
        told = InputError(str(error))  # which pickles, whatever its subclass takes
    elif error is not None and not isinstance(error, OSError):
        told = f"Process {jax.process_index()} failed: {type(error).__name__}: {error}"
    others = next((other for other in gather(told) if other is not None), None)
    if error is not None:
        raise error
    if isinstance(others, str):
        raise RuntimeError(others)
    if others is not None:
        raise others
    return done


def first_does(act: Callable[[], T]) -> T | None:
    """What `act()`, which the first process alone runs, returns there; elsewhere None.

    What it raises is raised in all processes (`together`).
    """
    return together(lambda: act() if is_first() else None)


def first_decides(decide: Callable[[], T]) -> T:
    """What `decide()`, which the first process alone runs, returns: in all of them.

    For what one process does to shared files while the others wait for it. What it
    raises is raised in all processes (`together`).
    """
    return gather(first_does(decide))[0]


class Held:
    """Keeps what goes wrong in one process until all of them meet.

    Within a step nobody can tell the others, which are at its barriers already. A
    process that is alone has nobody to wait for: there, errors are raised at once.
    """

    def __init__(self):
        self._error = None

    @contextlib.contextmanager
    def back(self) -> Iterator[None]:
        """Keeps the first error of all that this holds."""
        try:
            yield
        except Exception as error:
            if jax.process_count() == 1:
                raise
            if self._error is None:
                print(f"Error, to end with: {error}", file=sys.stderr, flush=True)
            self._error = self._error or error

    def meet(self):
        """Raises, in every process, what was kept in any of them; all must call it."""

        def tell():
            if self._error is not None:
                raise self._error

        together(tell)


def gather(value) -> list:
    """What each process holds, in their order; every process must call it.

    `value` may be anything that pickles, of different size in each process.
    """
    if jax.process_count() == 1:
        return [value]
    data = np.frombuffer(pickle.dumps(value), np.uint8)
    lengths = np.ravel(multihost_utils.process_allgather(np.array([len(data)])))
    padded = np.zeros(lengths.max(), np.uint8)
    padded[: len(data)] = data
    everyones = multihost_utils.process_allgather(padded)
    return [
        pickle.loads(row[:length].tobytes())
        for row, length in zip(everyones, lengths, strict=True)
    ]

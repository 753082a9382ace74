"""Several processes that are one job, each with its own devices."""

import os
import pickle
from collections.abc import Callable, Mapping
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


def first_decides(decide: Callable[[], T]) -> T:
    """What `decide()`, which runs in the first process alone, returns: in all of them.

    For what one process does to shared files while the others wait for it. What it
    raises there is raised in every process: an `InputError` or `OSError` as it is,
    others as a `RuntimeError`, so that nobody waits for one that has ended.
    """
    decided, error = None, None
    if is_first():
        try:
            decided = decide()
        except Exception as raised:
            error = raised
    told = error
    if error is not None and not isinstance(error, InputError | OSError):
        told = f"The first process failed: {type(error).__name__}: {error}"
    decided, told = gather((decided, told))[0]
    if error is not None:
        raise error
    if isinstance(told, str):
        raise RuntimeError(told)
    if told is not None:
        raise told
    return decided


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

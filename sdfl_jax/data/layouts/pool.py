"""Work on many files in worker processes, results in order."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

from sdfl_jax.errors import InputError


def each(
    function: Callable,
    tasks: Sequence,
    *,
    workers: int,
    chunk: int,
    desc: str,
    unit: str,
    progress: bool,
) -> Iterator:
    """`function` of each task, in order; a worker takes `chunk` tasks at a time."""
    if not tasks:
        return
    bar = dict(total=len(tasks), desc=desc, unit=unit, disable=not progress)
    workers = min(workers, len(tasks) // chunk)
    if workers <= 1:
        yield from tqdm(map(function, tasks), **bar)
        return
    context = multiprocessing.get_context("spawn")  # safe beside any thread
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        yield from tqdm(pool.map(function, tasks, chunksize=chunk), **bar)
    except BrokenProcessPool:
        raise InputError(
            "a worker process died, perhaps for lack of memory; the same command with "
            f"fewer than --workers={workers} goes on."
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker():
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to stop
    parent = multiprocessing.parent_process().sentinel

    def follow():  # a killed command must not leave workers behind
        multiprocessing.connection.wait([parent])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()

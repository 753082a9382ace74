"""Worker processes that survive what they work on.

Decoders are C code fed with whatever lies on a disk: one may crash, never come back or
take all memory. Whatever ends a worker is looked for among the items in work then, each
tried in a process of its own; the guilty ones are named and the others go on.
"""

import concurrent.futures
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool

from tqdm import tqdm

ITEM_SECONDS = 300  # no image takes as long; a decoder that does is stuck
_PATIENCE = 20  # seconds that workers get to leave what they are at

# What a worker tells about itself, in the table that all processes share.
_PID, _TASK, _ITEM, _SINCE, _BEGUN = range(5)
_COLUMNS = 5


def work(
    function: Callable,
    tasks: Sequence[tuple],
    sizes: Sequence[int],
    *,
    attempt: Callable,
    workers: int,
    bar: tqdm,
) -> list:
    """`function(*task, begin, condemned)` of every task, in worker processes.

    The function calls `begin(item)` with an integer before each of its items, of which
    `sizes` holds the number per task; `bar` advances by them. `condemned` maps those
    items to a reason that must not be touched: they ended a worker, and did so again
    when `attempt(*task, item)` was made alone. With no worker (0) all runs in this
    process, unprotected.

    Returns the results in order. The first error ends all; `BrokenProcessPool` if
    workers die for no reason that lies in an item.
    """
    if workers <= 0:
        return [function(*task, lambda item: bar.update(), {}) for task in tasks]
    results, condemned = {}, [{} for _ in tasks]
    start, workers = bar.n, min(workers, len(tasks))
    while len(results) < len(tasks):
        done = sum(sizes[index] for index in results)
        bar.update(start + done - bar.n)
        suspects = _run(function, tasks, condemned, results, workers, bar)
        guilty = 0
        for index, item in suspects:
            reason = _reason(attempt, (*tasks[index], item))
            if reason is not None:
                condemned[index][item] = reason
                guilty += 1
        if len(results) < len(tasks) and not guilty:
            if workers == 1:
                raise BrokenProcessPool
            workers //= 2  # what fails side by side may fit one by one
    return [results[index] for index in range(len(tasks))]


def _run(function, tasks, condemned, results, workers, bar) -> list[tuple[int, int]]:
    """Fills `results`; if a worker dies, the tasks and items that were in work then."""
    context = multiprocessing.get_context("spawn")  # safe beside any thread
    table = context.RawArray("d", [-1.0] * (_COLUMNS * workers))
    stop, large = context.Event(), context.Lock()
    pool = concurrent.futures.ProcessPoolExecutor(
        workers,
        mp_context=context,
        initializer=_start_worker,
        initargs=(table, context.Value("i", 0), stop, large),
    )
    start, broken = bar.n, False
    try:
        waiting = {
            pool.submit(_task, function, index, task, condemned[index]): index
            for index, task in enumerate(tasks)
            if index not in results
        }
        while waiting:
            done, _ = concurrent.futures.wait(
                waiting, timeout=0.5, return_when=concurrent.futures.FIRST_COMPLETED
            )
            begun = sum(max(n, 0) for n in table[_BEGUN::_COLUMNS])
            bar.update(start + int(begun) - bar.n)
            for future in done:
                index = waiting.pop(future)
                try:
                    results[index] = future.result()
                except BrokenProcessPool:
                    broken = True
            _end_stuck(table, ITEM_SECONDS)
    finally:
        stop.set()  # after an error the others need not finish their tasks
        at_work = [future for future in waiting if not future.cancel()]
        if concurrent.futures.wait(at_work, timeout=_PATIENCE).not_done:
            _end_stuck(table, 0)
        pool.shutdown(wait=True, cancel_futures=True)
    if not broken:
        return []
    rows = [table[i : i + _COLUMNS] for i in range(0, len(table), _COLUMNS)]
    return [
        (int(row[_TASK]), int(row[_ITEM]))
        for row in rows
        if row[_ITEM] >= 0 and int(row[_TASK]) not in results
    ]


def _end_stuck(table, seconds: int):
    """Kills the workers that have been on one item for longer."""
    now = time.monotonic()
    for row in range(0, len(table), _COLUMNS):
        if table[row + _ITEM] >= 0 and now - table[row + _SINCE] > seconds:
            os.kill(int(table[row + _PID]), signal.SIGKILL)
            table[row + _SINCE] = now  # once


def _reason(attempt: Callable, arguments: tuple) -> str | None:
    """How `attempt(*arguments)` ends a process of its own; None if it does not."""
    process = multiprocessing.get_context("spawn").Process(
        target=_attempt, args=(attempt, arguments), daemon=True
    )
    process.start()
    process.join(ITEM_SECONDS)
    if process.is_alive():
        process.kill()
        process.join()
        return f"its decoder does not come to an end ({ITEM_SECONDS} s)"
    if process.exitcode == -signal.SIGKILL:
        return "its decoder was killed, perhaps for lack of memory"
    if process.exitcode < 0:
        return f"its decoder crashes ({signal.Signals(-process.exitcode).name})"
    if process.exitcode > 0:
        return f"its decoder ends the process (status {process.exitcode})"
    return None


def _attempt(attempt: Callable, arguments: tuple):
    try:
        attempt(*arguments)
    except Exception:  # an error that the task itself will meet and tell
        pass


# Of a worker process, shared with the main one: its row of the table, the word to stop
# and the right to hold a large image.
_table = _row = _stop = None
_large = threading.Lock()


class _Stopped(Exception):
    """The work has failed elsewhere or was interrupted."""


def large() -> threading.Lock:
    """Held while an image is decoded that no two workers should hold at once."""
    return _large


def _start_worker(table, number, stop, large):
    global _table, _row, _stop, _large
    _table, _stop, _large = table, stop, large
    with number.get_lock():
        _row = number.value * _COLUMNS
        number.value += 1
    _table[_row + _BEGUN] = 0
    _table[_row + _PID] = os.getpid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process says when to stop
    parent = multiprocessing.parent_process().sentinel

    def follow():  # a killed command must not leave workers that go on writing
        multiprocessing.connection.wait([parent])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _task(function: Callable, index: int, task: tuple, condemned: dict[int, str]):
    _table[_row + _TASK] = index
    try:
        return function(*task, _begin, condemned)
    finally:
        _table[_row + _ITEM] = -1


def _begin(item: int):
    _table[_row + _SINCE] = time.monotonic()
    _table[_row + _ITEM] = item
    _table[_row + _BEGUN] += 1
    if _stop.is_set():
        raise _Stopped

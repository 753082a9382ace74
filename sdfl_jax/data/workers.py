"""Worker processes of all the tools that read images, and survive what they read.

Decoders are C code fed with whatever lies on a disk: one may crash, never come back or
take all memory. pebble's `ProcessPool` starts another worker then and says which task
was lost. The item that was in work is tried again in a process of its own, under
pebble's timeout; where it ends that one, too, it is named, and its task is done again
without it.

pebble falls short in three places:

* Its timeout is that of a whole task, and a task here holds many items (a shard of a
  build), so a worker also sets the system's alarm for each item; its default action
  ends the process even in the middle of C code.
* A worker that dies right after it took a task may be overlooked, and one that dies
  while it holds the pool's lock stops all others. So workers tell what they begin, and
  where one is gone without a word, or all are silent for longer than an item may take,
  the pool is given up and what is left goes to a new one.
* Its workers outlive a command that is killed, so each watches its parent.

The workers that feed a training are grain's own, which keep the order and position of
its stream; `ahead` starts them with the same `setup` and the same watch.
"""

import abc
import contextlib
import dataclasses
import fcntl
import multiprocessing
import multiprocessing.connection
import os
import signal
import struct
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool

import pebble
from tqdm import tqdm

from sdfl_jax.data.setup import setup
from sdfl_jax.errors import InputError

ITEM_SECONDS = 300  # no image takes as long; a decoder that does is stuck

_OFTEN = 0.1  # seconds between looks at the workers
_STARTING = 60  # seconds that a process may take before its item begins
_PATIENCE = 2  # seconds that pebble gets to tell of a worker that is gone
_BEGUN = struct.Struct("qqq")  # process, task, item: what a worker is about to do


class Engine(abc.ABC):
    """What does the work elsewhere, by `workers` processes a machine, see `engine`."""

    workers: int

    @abc.abstractmethod
    def alone(self) -> "Engine":
        """This one with no processes on its machines, for work that has its own."""

    @abc.abstractmethod
    def work(
        self, function: Callable, tasks: Sequence[tuple], **how
    ) -> Iterator[tuple[int, object]]:
        """As the function `work`, without its `workers`."""


Workers = int | Engine  # a number of processes, or what does their work elsewhere


class WorkersDie(InputError):
    """Workers end for no reason that lies in what they work on."""


def work(
    function: Callable,
    tasks: Sequence[tuple],
    *,
    attempt: Callable,
    workers: Workers,
    bar: tqdm,
    seconds: int | None = None,
) -> Iterator[tuple[int, object]]:
    """`function(*task, begin, rejected)` of every task, in worker processes.

    The function is sent to each worker once. It calls `begin(item)` with an integer
    before each of its items, and `bar` advances. `rejected` maps items that must not be
    touched to the reason: they ended a worker, or took longer than `seconds`
    (`ITEM_SECONDS`), and did so again when `attempt(*task, item)` was made alone. With
    no worker (0) all runs in this process, unprotected.

    Yields the index of each task and its result, in the order they are ready. The first
    error ends all; `WorkersDie` if workers die for no reason that lies in an item.
    """
    if isinstance(workers, Engine):
        how = {"attempt": attempt, "bar": bar, "seconds": seconds}
        yield from workers.work(function, tasks, **how)
        return
    if workers < 0:
        raise InputError(f"--workers={workers}: 0 or more is expected.")
    if workers == 0:
        for index, task in enumerate(tasks):
            yield index, function(*task, lambda item: bar.update(), {})
        return
    seconds = seconds or ITEM_SECONDS
    rejected = {index: {} for index in range(len(tasks))}
    left = list(rejected)
    while left:
        workers = min(workers, len(left))
        lost = {}  # task -> the item in work when its worker died
        todo = {index: (*tasks[index], rejected[index]) for index in left}
        for index, result in _run(function, todo, workers, seconds, bar, lost):
            left.remove(index)
            yield index, result
        guilty = 0
        for index, item in lost.items():
            reason = None
            if item is not None:
                reason = _reason(attempt, (*tasks[index], item), seconds)
            if reason is not None:
                rejected[index][item] = reason
                guilty += 1
        if left and not guilty:
            if workers == 1:
                raise WorkersDie(
                    "worker processes die one after the other, perhaps for lack of "
                    "memory."
                )
            workers //= 2  # what fails side by side may fit one by one


def each(
    function: Callable,
    items: Sequence,
    *,
    lost: Callable,
    workers: Workers,
    chunk: int,
    bar: tqdm,
    seconds: int | None = None,
) -> Iterator:
    """`function(item)` of every item, in order; `lost(item, reason)` where it crashes.

    A worker takes `chunk` items at a time. With no worker (0) all runs in this process,
    unprotected. Errors as in `work`.
    """
    if workers == 0:
        for item in items:
            yield function(item)
            bar.update()
        return
    tasks = [(items[start : start + chunk],) for start in range(0, len(items), chunk)]
    mapped = _Mapped(function, lost)
    ready, following = {}, 0
    how = {"workers": workers, "bar": bar, "seconds": seconds}
    for index, results in work(mapped, tasks, attempt=mapped.attempt, **how):
        ready[index] = results
        while following in ready:
            yield from ready.pop(following)
            following += 1


@dataclasses.dataclass(frozen=True)
class _Mapped:
    """A function of one item as one of many, for `work`."""

    function: Callable
    lost: Callable

    def __call__(self, items, begin, rejected) -> list:
        results = []
        for place, item in enumerate(items):
            begin(place)
            if place in rejected:
                results.append(self.lost(item, rejected[place]))
            else:
                results.append(self.function(item))
        return results

    def attempt(self, items, place: int):
        self.function(items[place])


def _run(function, tasks: dict, workers, seconds, bar, lost: dict) -> Iterator:
    """Index and result of the tasks whose workers live; the others go to `lost`."""
    context = multiprocessing.get_context("spawn")  # safe beside any thread
    with contextlib.ExitStack() as stack:
        turn = stack.enter_context(tempfile.NamedTemporaryFile(prefix="sdfl-large-"))
        news, tell = context.Pipe(duplex=False)
        stack.callback(news.close)
        stack.callback(tell.close)
        watch = _Watch(news, seconds, bar)
        pool = pebble.ProcessPool(
            workers,
            initializer=_start,
            initargs=(function, seconds, tell, turn.name),
            context=context,
        )
        stack.callback(pool.join)
        stack.callback(pool.stop)
        futures = {
            index: pool.schedule(_task, (index, task)) for index, task in tasks.items()
        }
        while futures:
            watch.listen(_OFTEN)
            for index in [i for i, future in futures.items() if future.done()]:
                try:
                    result = futures.pop(index).result()
                except (pebble.ProcessExpired, BrokenProcessPool):
                    watch.listen(0)
                    lost[index] = watch.forget(index)
                    continue
                watch.heard = time.monotonic()
                yield index, result
            if watch.in_vain(futures):
                lost.update((index, watch.forget(index)) for index in futures)
                return


class _Watch:
    """What workers are at, by what they tell."""

    def __init__(self, news, seconds: int, bar: tqdm):
        self._news, self._seconds, self._bar = news, seconds, bar
        self._at = {}  # task -> the worker's process and its item
        self._begun = Counter()  # items by task
        self._gone = {}  # task -> since when its worker is known to be gone
        self.heard = time.monotonic()

    def listen(self, seconds: float):
        """Takes what there is to hear; waits so long for a first word."""
        while self._news.poll(seconds):
            process, index, item = _BEGUN.unpack(self._news.recv_bytes())
            self._at[index] = (process, item)
            self._begun[index] += 1
            self._bar.update()
            self.heard, seconds = time.monotonic(), 0

    def forget(self, index: int) -> int | None:
        """The item of a lost task that was in work; the bar goes back by all of its."""
        self._bar.update(-self._begun.pop(index, 0))
        return self._at.pop(index, (None, None))[1]

    def in_vain(self, waiting) -> bool:
        """Whether a result is waited for that will not come."""
        now = time.monotonic()
        for index in waiting:
            if index in self._at and not os.path.exists(f"/proc/{self._at[index][0]}"):
                if now - self._gone.setdefault(index, now) > _PATIENCE:
                    return True
        return now - self.heard > self._seconds + _STARTING


def _reason(attempt: Callable, arguments: tuple, seconds: int) -> str | None:
    """How `attempt(*arguments)` ends a process of its own; None if it does not."""
    alone = pebble.concurrent.process(
        timeout=seconds + _STARTING, context=multiprocessing.get_context("spawn")
    )
    try:
        alone(_alone)(attempt, arguments, seconds).result()
    except TimeoutError:
        return _ended(-signal.SIGALRM, seconds)
    except pebble.ProcessExpired as error:
        return _ended(error.exitcode, seconds)
    except Exception:  # an error that the task itself will meet and tell
        pass
    return None


def _alone(attempt: Callable, arguments: tuple, seconds: int):
    setup()
    end_with_parent()
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    attempt(*arguments)
    signal.setitimer(signal.ITIMER_REAL, 0)


def _ended(status: int, seconds: int) -> str:
    if status == -signal.SIGALRM:
        return f"its decoder does not come to an end ({seconds} s)"
    if status == -signal.SIGKILL:
        return "its decoder was killed, perhaps for lack of memory"
    if status < 0:
        return f"its decoder crashes ({signal.Signals(-status).name})"
    return f"its decoder ends the process (status {status})"


# Of a worker process: what it does to its tasks, how long an item may take, where it
# tells what it begins, the file that stands for the right to hold a large image, the
# task it is at.
_function = _seconds = _tell = _turn = _at = None


@contextlib.contextmanager
def large() -> Iterator[None]:
    """Held while an image is decoded that no two workers should hold at once.

    A lock of the file system, since one in memory would stay with a worker that dies.
    """
    if _turn is None:
        yield
        return
    with open(_turn, "rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def end_with_parent():
    """Ends this process once the one that started it is gone, however that ended."""
    parent = multiprocessing.parent_process().sentinel

    def watch():  # a killed command must not leave workers that go on writing
        multiprocessing.connection.wait([parent])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class _Stopped(BaseException):
    """The work has failed elsewhere or was interrupted."""


def _start(function: Callable, seconds: int, tell, turn: str):
    global _function, _seconds, _tell, _turn
    _function, _seconds, _tell, _turn = function, seconds, tell, turn
    setup()
    end_with_parent()
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _stop(*_):
    if _at is None:
        os._exit(1)
    raise _Stopped  # so that nothing half-written stays


def _task(index: int, task: tuple):
    global _at
    _at = index
    *arguments, rejected = task
    try:
        return _function(*arguments, _begin, rejected)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        _at = None


def _begin(item: int):
    signal.setitimer(signal.ITIMER_REAL, _seconds)
    _tell.send_bytes(_BEGUN.pack(os.getpid(), _at, item))

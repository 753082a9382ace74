"""Worker processes with limits of time and memory, for whatever parses strange files.

A worker that crashes, hangs or wants too much memory costs the one line it was at.
"""

import multiprocessing
import resource
import signal
from collections.abc import Callable
from concurrent.futures import TimeoutError

import pebble

from sdfl_jax.data.setup import setup
from sdfl_jax.data.workers import end_with_parent
from sdfl_jax.errors import InputError
from sdfl_jax.examine.finding import text

SECONDS = 120  # of one line of one photograph
MEGABYTES = 3000  # of address space, beyond what an idle worker has


class Workers:
    """A pool whose tasks end after `seconds`, and whose processes hold so much memory.

    The processes start at once, and end when the context is left.
    """

    def __init__(
        self, count: int, *, seconds: float = SECONDS, megabytes: int = MEGABYTES
    ):
        self._seconds, self._megabytes = seconds, megabytes
        self._pool = pebble.ProcessPool(
            max_workers=count,
            context=multiprocessing.get_context("spawn"),  # safe beside any thread
            initializer=_limit,
            initargs=(megabytes,),
        )
        _ = self._pool.active  # asked, it starts them

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._pool.stop()
        self._pool.join()

    def start(self, function: Callable, *arguments):
        """A future of `function(*arguments)`, to be asked by `result`."""
        return self._pool.schedule(function, arguments, timeout=self._seconds)

    def result(self, future):
        """What the function gave back; `InputError` says in one line why there is none.

        Whatever it raised counts as the file's fault: libraries that are fed with
        broken files raise almost anything.
        """
        try:
            return future.result()
        except InputError:
            raise
        except TimeoutError:
            reason = f"it took more than {self._seconds:g} seconds"
        except MemoryError:
            reason = f"it needs more than {self._megabytes:,} MB of memory"
        except pebble.ProcessExpired as error:
            reason = f"its parser {_ending(error.exitcode)}"
        except Exception as error:
            reason = text(error) or type(error).__name__
        raise InputError(f"{reason}.")


def _ending(status: int | None) -> str:
    if status is not None and status < 0:
        return f"crashed ({signal.Signals(-status).name})"
    return f"ended the process (status {status})"


def _limit(megabytes: int):
    setup()
    end_with_parent()
    # What starts threads, and so reserves far more than it uses, is loaded first.
    import sdfl_jax.examine.evidence  # noqa: F401

    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    limit = now + megabytes * 1_000_000
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

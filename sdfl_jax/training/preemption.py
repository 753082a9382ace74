"""SIGTERM, or Ctrl-C, ends a run after the step under way, which is saved."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run stopped at `step`, saved; the same command goes on from there."""

    def __init__(self, step: int, by: str = "SIGTERM"):
        super().__init__(f"Stopped by {by} after step {step}, which is saved.")
        self.step = step


class Preemption:
    """Notices SIGTERM and SIGINT while it is entered as a context.

    Ctrl-C ends a run at once where there is no step yet to save, and the second time.
    One process stops at its next step. Several agree on one: JAX's coordination service
    hears of the signal that any of them got and picks a step that none has passed.
    """

    def __init__(self):
        self._alone = jax.process_count() == 1
        self._signalled = False
        self._asked = 0  # before the first step and after each
        self._before = {}
        self.by = "SIGTERM"

    def __enter__(self):
        if self._alone and threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._notice)
        return self

    def __exit__(self, *_):
        for number, before in self._before.items():
            signal.signal(number, before)

    def _notice(self, number, _):
        if number == signal.SIGINT:
            if self._signalled or self._asked < 2:
                raise KeyboardInterrupt
            self.by = "Ctrl-C"
        self._signalled = True

    @property
    def now(self) -> bool:
        """Whether to leave even within a step; never where several must agree."""
        return self._signalled

    def after(self, step: int) -> bool:
        """Whether to stop after `step`; every process asks after each of its steps."""
        self._asked += 1
        if self._alone:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)

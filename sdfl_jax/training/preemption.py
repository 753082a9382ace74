"""The machine is wanted by others: SIGTERM ends a run after the step under way."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Preempted(Exception):
    """The run stopped at `step`, saved; the same command goes on from there."""

    def __init__(self, step: int):
        super().__init__(f"Stopped by SIGTERM after step {step}, which is saved.")
        self.step = step


class Preemption:
    """Notices SIGTERM while it is entered as a context.

    One process stops at its next step. Several agree on one: JAX's coordination service
    hears of the signal that any of them got and picks a step that none has passed.
    """

    def __init__(self):
        self._alone = jax.process_count() == 1
        self._signalled = False
        self._before = None

    def __enter__(self):
        if self._alone and threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_):
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, *_):
        self._signalled = True

    @property
    def now(self) -> bool:
        """Whether to leave even within a step; never where several must agree."""
        return self._signalled

    def after(self, step: int) -> bool:
        """Whether to stop after `step`; every process asks after each of its steps."""
        if self._alone:
            return self._signalled
        return multihost_utils.reached_preemption_sync_point(step)

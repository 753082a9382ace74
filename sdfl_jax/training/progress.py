"""What one sees of a run while it goes on, and when it is over."""

import collections
import contextlib
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils
from tqdm import tqdm

from sdfl_jax.devices.processes import Held, first_does, is_first
from sdfl_jax.errors import InputError
from sdfl_jax.files import write_json
from sdfl_jax.report import Log

# A batch now and then may overflow; a run whose every batch does has diverged.
MOST_SKIPPED_IN_ROW = 10


class Diverged(InputError):
    """The loss or its gradient stayed not finite; `trace` says on which examples."""

    def __init__(self, message: str, trace: dict):
        super().__init__(message)
        self.trace = trace

    def written(self, workdir: str) -> InputError:
        """The error to end with, once WORKDIR/diverged.json holds the trace."""
        path = Path(workdir) / "diverged.json"
        if jax.process_index() == 0:
            write_json(path, self.trace)
        return InputError(f"{self} The weights are saved; {path} names the examples.")


class Progress:
    """Progress bar and log, read one step late so that the device never waits.

    Args:
      log: gets the scalars of every `log_every`-th step.
      held: keeps what goes wrong there until `flush`, where all processes are.
      step, total_steps: where the run stands, and where it ends.
      batch_size: images of a step, over all processes.
      origin: what else says which examples a step took, for `Diverged.trace`.
    """

    def __init__(
        self,
        log: Log,
        held: Held,
        *,
        step: int,
        total_steps: int,
        batch_size: int,
        log_every: int,
        origin: dict,
    ):
        self._log, self._held = log, held
        self._batch_size, self._log_every = batch_size, log_every
        self._origin = origin
        self._first = step
        self._pending = None
        self._batches = collections.deque(maxlen=MOST_SKIPPED_IN_ROW)
        self._skipped = 0
        self._started = self._since = time.perf_counter()
        self._waited = 0.0
        self._steady = _Stopwatch()  # training alone: no compilation, no validation
        self._bar = tqdm(
            total=total_steps,
            initial=step,
            unit="step",
            dynamic_ncols=True,
            disable=jax.process_index() != 0,
        )

    def wait_for(self, batches) -> dict:
        """The next batch; the time it took counts as waiting for data."""
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def after_step(self, step: int, scalars: dict, index: np.ndarray):
        """Shows the step before, which is done by now.

        `index`: places in the shards of the examples of this process's part.
        """
        self._show()
        self._pending = step, scalars
        self._batches.append((step, index))
        self._steady.lap()

    def flush(self):
        """Waits for the step under way and shows it; training pauses here.

        Raises, in every process, what was held back in any of them.
        """
        self._show()
        self._steady.pause()
        self._held.meet()

    def _show(self):
        if self._pending is None:
            return
        (step, scalars), self._pending = self._pending, None
        scalars = {name: float(x) for name, x in jax.device_get(scalars).items()}
        self._skipped += scalars["skipped_in_row"] > 0
        self._bar.set_postfix_str(
            f"{self._steady.rate() * self._batch_size:.1f} images/s, "
            f"loss {scalars['loss']:.4f}",
            refresh=False,
        )
        self._bar.update()
        if scalars["skipped_in_row"] >= MOST_SKIPPED_IN_ROW:
            raise self._diverged(step)
        if step % self._log_every == 0:
            now = time.perf_counter()
            scalars["wait_share"] = self._waited / (now - self._since)
            self._waited, self._since = 0.0, now
            with self._held.back():
                self._log.write(step, scalars)

    def _diverged(self, step: int) -> Diverged:
        steps = [
            {"step": number, "index": _of_all_processes(index)}
            for number, index in self._batches
            if number <= step
        ]
        trace = {"step": step, **self._origin, "skipped": steps}
        return Diverged(
            f"Step {step}: the loss or its gradient was not finite "
            f"{MOST_SKIPPED_IN_ROW} times in a row (no such step was applied); try "
            "a smaller config.optimizer.lr or config.optimizer.clip=5.",
            trace,
        )

    def close(self):
        """Ends the line of the progress bar."""
        self._bar.close()

    def summary(self, step: int) -> dict:
        """What this start of the run did up to `step`; seconds and images a second.

        The rate is that of training alone, from this start's second step on.
        """
        return {
            "step": step,
            "steps_of_this_start": step - self._first,
            "seconds_of_this_start": time.perf_counter() - self._started,
            "images_per_second": self._steady.rate() * self._batch_size or None,
            "skipped_steps_of_this_start": self._skipped,
        }


class _Stopwatch:
    """Laps a second, without the first lap of all and without the pauses."""

    def __init__(self):
        self._seconds, self._laps, self._last = 0.0, 0, None

    def lap(self):
        now = time.perf_counter()
        if self._last is not None:
            self._seconds += now - self._last
            self._laps += 1
        self._last = now

    def pause(self):
        self._last = None

    def rate(self) -> float:
        return self._laps / self._seconds if self._seconds else 0.0


def _of_all_processes(index: np.ndarray) -> list[int]:
    """A batch's places in the shards, from each process's part of them."""
    return np.ravel(multihost_utils.process_allgather(index)).tolist()


@contextlib.contextmanager
def no_silent_copies(on: bool = True) -> Iterator[None]:
    """Makes a copy between host and devices that nobody asked for an error, if `on`.

    Such a copy (an array of NumPy in a compiled step, `float` of an array) holds up
    every step. What is asked for, by `device_put` and `device_get`, is free.
    """
    rule = "disallow" if on else "allow"
    with (
        jax.transfer_guard_host_to_device(rule),
        jax.transfer_guard_device_to_host(rule),
    ):
        yield


class Profile:
    """Traces `steps` steps into WORKDIR/profile, for TensorBoard and Perfetto.

    The first two steps of a start are left out: they compile and fill the pipeline.
    """

    def __init__(self, workdir: str, steps: int):
        self._folder = str(Path(workdir) / "profile")
        self._left = steps
        self._before = 2
        self._on = False

    def before_step(self):
        """Starts the trace when it is time."""
        if self._left and not self._on:
            if self._before == 0:
                start = jax.profiler.start_trace
                first_does(lambda: start(self._folder, create_perfetto_trace=True))
                self._on = True
            self._before -= 1

    def annotated(self, step: int) -> AbstractContextManager:
        """Marks what it holds as `step` in a trace, by which tools count steps."""
        return jax.profiler.StepTraceAnnotation("train", step_num=step)

    def after_step(self, scalars: dict):
        """Ends the trace when its steps are done."""
        if self._on:
            self._left -= 1
            if self._left == 0:
                jax.block_until_ready(scalars)
                first_does(self.close)
                self._on = False

    def close(self):
        """Ends a trace that the run's end cut short."""
        if self._on and is_first():
            jax.profiler.stop_trace()
            self._on, self._left = False, 0
            tqdm.write(f"Profile: {self._folder} (tensorboard --logdir shows it)")


def write_summary(workdir: str, summary: dict):
    """Prints what a run came to and where it lies, and writes WORKDIR/summary.json."""
    best = Path(workdir) / "checkpoints" / "best" / str(summary.get("best_step"))
    summary = summary | {
        "latest_checkpoints": f"{workdir}/checkpoints/latest",
        "best_checkpoint": str(best) if best.is_dir() else None,
        "log": f"{workdir}/metrics.jsonl",
        "tensorboard": f"{workdir}/tensorboard",
    }
    write_json(Path(workdir) / "summary.json", summary)
    width = max(map(len, summary))
    for name, value in summary.items():
        if isinstance(value, float):
            value = f"{value:.4g}"
        print(f"{name.replace('_', ' '):{width}}  {'-' if value is None else value}")

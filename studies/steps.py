"""Commands that need one another: each runs once, and again when something changes.

A step is one Python module with its flags, and it fills one folder. What it depends on
(its flags, what they name outside, the steps before it) is its key; a step whose key
stands in its mark is done. One that was interrupted goes on if its key is the same, for
all the commands here resume; otherwise its folder is emptied first.
"""

import dataclasses
import functools
import hashlib
import json
import os
import resource
import runpy
import shlex
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from tqdm import tqdm

from sdfl_jax.errors import InputError
from sdfl_jax.files import write_json

# A thread of tqdm's own must not be there when this process forks.
tqdm.monitor_interval = 0


@dataclasses.dataclass(frozen=True)
class Step:
    """A command that fills the folder `out`; without a module, a folder that is given.

    `late`, called when the steps before have run, adds flags that follow from what they
    measured. `stamp` says what lies behind the flags, such as a folder's content.
    """

    out: Path
    module: str = ""
    flags: tuple[str, ...] = ()
    needs: tuple["Step", ...] = ()
    late: Callable[[], Sequence[str]] | None = None
    stamp: str = ""


def ordered(steps: Iterable[Step]) -> list[Step]:
    """The steps and all that they need, each once and after what it needs."""
    found: dict[Path, Step] = {}

    def add(step: Step):
        if step.out in found:
            return
        for needed in step.needs:
            add(needed)
        found[step.out] = step

    for step in steps:
        add(step)
    return list(found.values())


_OFTEN = 0.05  # seconds between looks at what runs
OVER = 124  # exit status of a command that took longer than it may


class Child:
    """A command that runs in a process of its own; see `fork`."""

    def __init__(self, pid: int):
        self._pid = pid

    def poll(self, wait: bool = False) -> tuple[int, float] | None:
        """Its exit status and seconds of processor time, or None while it runs."""
        pid, status, used = os.wait4(self._pid, 0 if wait else os.WNOHANG)
        if not pid:
            return None
        return os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime

    def stop(self) -> None:
        """Asks it to save what it has and end; `poll(wait=True)` waits for that."""
        os.kill(self._pid, signal.SIGTERM)


def fork(
    module: str,
    flags: Sequence[str],
    log: Path,
    limit: int = 0,
    core: int | None = None,
) -> Child:
    """Begins `python -m MODULE FLAGS`, whose output goes to `log`.

    A child of this process has its imports already, which a new Python would take
    seconds for; this process must not have started a device. It keeps to `core`, if one
    is given. After `limit` seconds of processor time, where there is one, it is asked
    to stop (a training saves what it has) and its status is `OVER`. It is asked as well
    when this process has ended, however that was.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    ends = _pipe()
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child == 0:
        if core is not None:
            os.sched_setaffinity(0, {core})
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        threading.Thread(target=_watch, args=ends, daemon=True).start()
        _become(module, flags, log, limit)
    return Child(child)


@functools.cache
def _pipe() -> tuple[int, int]:
    """Whose writing end this process alone keeps, as long as it is there."""
    return os.pipe()


def _watch(reading: int, writing: int):
    # `workers.end_with_parent` knows children of multiprocessing, and asks nobody.
    os.close(writing)
    os.read(reading, 1)  # comes back when the last who could write is gone
    os.kill(os.getpid(), signal.SIGTERM)


def _become(module: str, flags: Sequence[str], log: Path, limit: int):
    status, over = 1, False

    def ask_to_stop(*_):
        nonlocal over
        if over:
            return
        over = True
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            os._exit(OVER)
        os.kill(os.getpid(), signal.SIGTERM)

    try:
        if limit:
            signal.signal(signal.SIGXCPU, ask_to_stop)
            # Killed a minute later if it cannot listen, as in a long compilation.
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 60))
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        for stream in (1, 2):
            os.dup2(out, stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.argv = [module, *flags]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        status = 0
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        os._exit(OVER if over else status)


@dataclasses.dataclass
class _Running:
    """A step in work."""

    step: Step
    key: str
    log: Path
    core: int | None
    child: Child
    began: float  # of the clock
    ended: tuple[int, float] | None = None  # as `Child.poll`

    def has_ended(self) -> bool:
        self.ended = self.child.poll()
        return self.ended is not None


class Runner:
    """Runs steps below `folder`, one on each of `cores` at once; `command` as `fork`.

    Without cores one step at a time has the whole machine. No step may take more than
    `limit` seconds of processor time, if that is not 0.
    """

    def __init__(
        self,
        folder: Path,
        command: Callable = fork,
        limit: int = 0,
        cores: Sequence[int] = (),
    ):
        self.folder, self._command, self._limit = folder, command, limit
        self.cores = tuple(cores)

    def run(self, steps: Sequence[Step]) -> None:
        """Runs what is not done, under one progress line.

        Where a step fails, those that need it are left out and the others go on;
        `InputError` names the first in the end, and its log.
        """
        failed: dict[Path, InputError] = {}
        left, free = list(steps), list(self.cores) or [None]
        running: list[_Running] = []
        with tqdm(total=len(steps), unit="step", dynamic_ncols=True) as bar:
            try:
                while left or running:
                    step = _ready(left, running) if free else None
                    if step:
                        left.remove(step)
                        begun = self._begin(step, free[0], failed)
                        if begun:
                            running.append(begun)
                            free.pop(0)
                            names = [self._name(one.step) for one in running]
                            bar.set_description_str(" + ".join(names))
                        else:
                            bar.update()
                        continue
                    ended = [one for one in running if one.has_ended()]
                    for one in ended:
                        running.remove(one)
                        free.append(one.core)
                        self._end(one, failed)
                        bar.update()
                    if not ended:
                        time.sleep(_OFTEN)
            except BaseException:
                for one in running:
                    one.child.stop()
                for one in running:
                    one.child.poll(wait=True)
                raise
            bar.set_description_str("done")
        for error in failed.values():
            raise error

    def done(self, steps: Iterable[Step]) -> bool:
        """Whether all of the steps, in order, have run as they are."""
        try:
            return all(self._done(step, self.flags(step)) for step in steps)
        except InputError:  # of flags that follow from what did not run
            return False

    def _done(self, step: Step, flags: Sequence[str]) -> bool:
        told = _read(self._mark(step))
        ran = told.get("key") == self.key(step, flags) and "seconds" in told
        return (ran or not step.module) and step.out.exists()

    def _begin(
        self, step: Step, core: int | None, failed: dict[Path, InputError]
    ) -> _Running | None:
        """Starts what is not done; why it cannot be goes to `failed`."""
        try:
            for needed in step.needs:
                if needed.out in failed:
                    raise failed[needed.out]
            if not step.module:
                if not step.out.exists():
                    raise InputError(
                        f"{step.out}: no such folder; --print says of what."
                    )
                return None
            flags = self.flags(step)
        except InputError as error:
            failed[step.out] = error
            return None
        if self._done(step, flags):
            return None
        key, mark = self.key(step, flags), self._mark(step)
        if _read(mark).get("key") != key and step.out.exists():
            shutil.rmtree(step.out)
        write_json(mark, {"key": key})
        log = self.folder / "logs" / f"{self._name(step).replace('/', '-')}.txt"
        child = self._command(step.module, flags, log, self._limit, core)
        return _Running(step, key, log, core, child, time.time())

    def _end(self, one: _Running, failed: dict[Path, InputError]) -> None:
        """Marks a step that has ended as done, or notes in `failed` that it is not."""
        name, (status, processor) = self._name(one.step), one.ended
        if status == OVER:
            failed[one.step.out] = InputError(
                f"{name} took more than {self._limit} s of processor time and was "
                f"stopped ({one.log}). The same command goes on from there; "
                "studies/plan.py has sizes."
            )
        elif status or not one.step.out.exists():
            failed[one.step.out] = InputError(
                f"{name} failed ({one.log}): {_last_line(one.log)} The same command "
                "goes on from there."
            )
        else:
            now = time.time()
            taken = {"seconds": now - one.began, "processor": processor, "ended": now}
            taken = {name: round(value, 1) for name, value in taken.items()}
            write_json(self._mark(one.step), {"key": one.key} | taken)

    def flags(self, step: Step) -> list[str]:
        """All flags of a step; those that are measured only where they are known."""
        return [*step.flags, *(step.late() if step.late else ())]

    def key(self, step: Step, flags: Sequence[str]) -> str:
        """What the step's result follows from, hashed; places of DIR do not matter."""
        known = [_read(self._mark(needed)).get("key") for needed in step.needs]
        here = str(self.folder)
        text = [flag.replace(here, "DIR") for flag in flags]
        said = json.dumps([step.module, text, step.stamp, known])
        return hashlib.sha256(said.encode()).hexdigest()

    def seconds(self, steps: Iterable[Step], of: str = "seconds") -> list[float]:
        """How long each of the steps took that were run; `of` may be `processor`."""
        return [mark[of] for mark in self._marks(steps) if of in mark]

    def hours(self, steps: Iterable[Step]) -> float:
        """How long at least one of the steps was running."""
        spans = sorted(
            (mark["ended"] - mark["seconds"], mark["ended"])
            for mark in self._marks(steps)
            if "ended" in mark
        )
        total, until = 0.0, 0.0
        for start, end in spans:
            total += max(0.0, end - max(start, until))
            until = max(until, end)
        return total / 3600

    def _marks(self, steps: Iterable[Step]) -> list[dict]:
        return [_read(self._mark(step)) for step in steps if step.module]

    def shown(self, step: Step) -> str:
        """The command of a step as a reader would give it, with DIR for the folder."""
        flags = list(step.flags)
        if step.late:
            try:
                flags = self.flags(step)
            except (InputError, OSError):
                flags.append("...  # and what the steps before it measured")
        here = str(self.folder)
        words = [flag.replace(here, "DIR") for flag in flags]
        if not step.module:
            return f"# given: {str(step.out).replace(here, 'DIR')}"
        return " ".join(["python -m", step.module, *map(shlex.quote, words)])

    def _name(self, step: Step) -> str:
        return step.out.relative_to(self.folder).as_posix()

    def _mark(self, step: Step) -> Path:
        return self.folder / ".done" / f"{self._name(step)}.json"


def _ready(left: Sequence[Step], running: Sequence[_Running]) -> Step | None:
    """The first step whose needs have all ended."""
    awaited = {step.out for step in left} | {one.step.out for one in running}
    for step in left:
        if not any(needed.out in awaited for needed in step.needs):
            return step
    return None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n") if log.exists() else []
    last = [line for line in lines if line.strip()][-1:] or ["it said nothing"]
    return last[0].split("\r")[-1]


def _read(mark: Path) -> dict:
    try:
        return json.loads(mark.read_text())
    except (FileNotFoundError, ValueError):
        return {}

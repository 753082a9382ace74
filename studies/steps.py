"""Commands that need one another: each runs once, and again when something changes.

A step is one Python module with its flags, and it fills one folder. What it depends on
(its flags, what they name outside, the steps before it) is its key; a step whose key
stands in its mark is done. One that was interrupted goes on if its key is the same, for
all the commands here resume; otherwise its folder is emptied first.
"""

import dataclasses
import hashlib
import json
import os
import resource
import runpy
import shlex
import shutil
import signal
import sys
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


OVER = 124  # exit status of a command that took longer than it may


def fork(module: str, flags: Sequence[str], log: Path, limit: int = 0) -> int:
    """Exit status of `python -m MODULE FLAGS`, whose output goes to `log`.

    A child of this process has its imports already, which a new Python would take
    seconds for; this process must not have started a device. After `limit` seconds of
    processor time, where there is one, it is asked to stop (a training saves what it
    has) and its status is `OVER`.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush(), sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _become(module, flags, log, limit)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    except BaseException:
        os.kill(child, 15)  # it saves what it has
        os.waitpid(child, 0)
        raise


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


class Runner:
    """Runs steps below `folder`; `command` as `fork`, but for tests.

    No step may take more than `limit` seconds of processor time, if that is not 0.
    """

    def __init__(self, folder: Path, command: Callable = fork, limit: int = 0):
        self.folder, self._command, self._limit = folder, command, limit

    def run(self, steps: Sequence[Step]) -> None:
        """Runs what is not done, under one progress line.

        Where a step fails, those that need it are left out and the others go on;
        `InputError` names the first in the end, and its log.
        """
        failed: dict[Path, InputError] = {}
        with tqdm(total=len(steps), unit="step", dynamic_ncols=True) as bar:
            for step in steps:
                bar.set_description_str(self._name(step))
                spoiled = [failed[n.out] for n in step.needs if n.out in failed]
                try:
                    if spoiled:
                        raise spoiled[0]
                    self._run(step)
                except InputError as error:
                    failed[step.out] = error
                bar.update()
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

    def _run(self, step: Step):
        if not step.module:
            if not step.out.exists():
                raise InputError(f"{step.out}: no such folder; --print says of what.")
            return
        flags = self.flags(step)
        key, mark = self.key(step, flags), self._mark(step)
        if self._done(step, flags):
            return
        if _read(mark).get("key") != key and step.out.exists():
            shutil.rmtree(step.out)
        write_json(mark, {"key": key})
        log = self.folder / "logs" / f"{self._name(step).replace('/', '-')}.txt"
        start, cpu = time.monotonic(), _children_seconds()
        status = self._command(step.module, flags, log, self._limit)
        if status == OVER:
            raise InputError(
                f"{self._name(step)} took more than {self._limit} s of processor "
                f"time and was stopped ({log}). The same command goes on "
                "from there; studies/plan.py has sizes."
            )
        if status or not step.out.exists():
            lines = log.read_text(errors="replace").split("\n") if log.exists() else []
            last = [line for line in lines if line.strip()][-1:] or ["it said nothing"]
            raise InputError(
                f"{self._name(step)} failed ({log}): {last[0].split(chr(13))[-1]} The "
                "same command goes on from there."
            )
        taken = {
            "seconds": time.monotonic() - start,
            "processor": _children_seconds() - cpu,
        }
        write_json(mark, {"key": key} | {k: round(v, 1) for k, v in taken.items()})

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
        told = (_read(self._mark(step)) for step in steps if step.module)
        return [mark[of] for mark in told if of in mark]

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


def _children_seconds() -> float:
    """Processor time of all children that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _read(mark: Path) -> dict:
    try:
        return json.loads(mark.read_text())
    except (FileNotFoundError, ValueError):
        return {}

"""Where the tools' work is done: in processes of this machine, or by Apache Beam.

`workers` is a number of processes for most of what reads images, and may be an `Engine`
instead: `Beam` cuts the same tasks into elements, which its runner spreads over
machines, and on each of them the processes of `workers` do the tasks. So an image that
crashes its decoder, or an error, comes out as it does here.

What the machines need, and what they found, lies in files below Beam's own
`--temp_location`: nothing of a long list travels inside the pipeline. A result is there
whole or not at all, so an element that a runner tries again, or a command that was
killed and is given again, does only what is missing.
"""

import argparse
import concurrent.futures
import contextlib
import copy
import dataclasses
import hashlib
import io
import os
import pickle
import shlex
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from tqdm import tqdm

from sdfl_jax import stores
from sdfl_jax.data import workers as processes
from sdfl_jax.data.setup import setup
from sdfl_jax.errors import InputError, valid
from sdfl_jax.files import replacing

ENGINES = ("local", "beam")

REQUESTS = 32  # to a store at once

_TASKS = 4  # of each process in an element, for processes start with each
_ELEMENTS = 1000  # at least so many for other machines, where there are tasks enough

# Runs in this process; `DirectRunner` itself would first fetch another from the net.
_HERE = "apache_beam.runners.portability.fn_api_runner.FnApiRunner"
_DIRECT = ("", "DirectRunner", "direct")


def add_arguments(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    workers: int | None = None,
):
    """`--workers`, all cores by default, and the engine that may spread their work."""
    add = parser.add_argument
    workers = os.cpu_count() or 1 if workers is None else workers
    add("--workers", type=int, default=workers, help="processes that read images")
    add("--engine", default="local", help="local (the default), or beam: many machines")
    options = "of Apache Beam, such as '--runner=FlinkRunner --flink_master=HOST:8081'"
    add("--engine_options", default="", metavar="OPTIONS", help=options)


def parse(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """The arguments, `workers` among them being what `add_arguments` asked for.

    Raises `InputError` for what no engine can be made of.
    """
    flags = parser.parse_args(argv)
    name, options = flags.engine, flags.engine_options
    del flags.engine, flags.engine_options
    if flags.workers < 0:
        raise InputError(f"--workers={flags.workers}: 0 or more is expected.")
    if name not in ENGINES:
        raise InputError(f"--engine={name}: no such engine; {valid(name, ENGINES)}")
    if name == "beam":
        flags.workers = Beam(options, workers=flags.workers)
    elif options:
        raise InputError("--engine_options: they are for --engine=beam.")
    return flags


class Beam(processes.Engine):
    """Apache Beam, with its options as its own programs take them.

    Without a runner among them all is done in this process (its `DirectRunner`), each
    task by `workers` processes. `InputError` where Beam is not installed, for options
    that it does not have, and for another runner without `--temp_location`.
    """

    def __init__(self, options: str = "", *, workers: int = 0):
        try:
            from apache_beam.options import pipeline_options
            from apache_beam.runners import runner
        except ImportError:
            raise InputError(
                "--engine=beam: Apache Beam is not installed; pip install "
                '"sdfl-jax[beam]" brings it.'
            ) from None
        self.workers = workers
        self._options = _parsed(options, pipeline_options)
        view = pipeline_options.StandardOptions
        self._runner = self._options.view_as(view).runner or ""
        if self._runner in _DIRECT:
            self._runner = _HERE
        try:
            runner.create_runner(self._runner)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"--runner={self._runner}: {error}") from None
        view = pipeline_options.GoogleCloudOptions
        self._folder = self._options.view_as(view).temp_location
        if self._runner != _HERE and not self._folder:
            raise InputError(
                f"--engine_options: --runner={self._runner} needs --temp_location, a "
                "folder that all machines see."
            )
        if self._folder:
            stores.store(self._folder)

    def alone(self) -> "Beam":
        other = copy.copy(self)
        other.workers = 0
        return other

    def work(
        self,
        function: Callable,
        tasks: Sequence[tuple],
        *,
        attempt: Callable,
        bar: tqdm,
        seconds: int | None = None,
    ) -> Iterator[tuple[int, object]]:
        """As `workers.work`, but in order, and an error is raised behind the rest."""
        with contextlib.ExitStack() as stack:
            folder = self._folder
            if not folder:
                temporary = tempfile.TemporaryDirectory(prefix="sdfl-beam-")
                folder = stack.enter_context(temporary)
            results = stores.join(folder, "sdfl-results")
            run = stores.join(folder, f"sdfl-run-{uuid.uuid4().hex}")
            stack.callback(stores.remove, run)
            keys = _keys(function, tasks)
            done = set(stores.names(results))
            todo = {
                key: task
                for key, task in zip(keys, tasks, strict=True)
                if key not in done
            }
            if todo:
                how = _How(function, attempt, seconds, self.workers, results)
                _write(stores.join(run, "how"), how)
                count = max(1, self.workers)
                elements = 1 if self._runner == _HERE else _ELEMENTS
                size = count * tasks_of_each(len(todo), count, elements)
                self._run(_elements(run, todo, size), run)
            failed, paths = None, [stores.join(results, key) for key in keys]
            for index, (path, data) in enumerate(_at_once(stores.read, paths)):
                count, outcome = pickle.loads(data)
                if isinstance(outcome, _Failed):
                    failed = failed or outcome.error
                    stores.remove(path)  # the next run tries again
                else:
                    bar.update(count)
                    yield index, outcome
            if failed:
                raise failed
            for _ in _at_once(stores.remove, paths):
                pass

    def _run(self, elements: list[str], run: str):
        import apache_beam as beam

        try:
            with beam.Pipeline(runner=self._runner, options=self._options) as pipeline:
                (
                    pipeline
                    | beam.Create(elements)
                    | beam.Reshuffle()
                    | beam.Map(partial(_do, run=run))
                )
        except Exception as error:  # a runner's own, whatever that raises
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reason = lines[-1].removesuffix(".")
            raise processes.WorkersDie(
                f"--engine=beam: the pipeline failed: {reason}."
            ) from error


def _parsed(text: str, pipeline_options):
    """The options that Beam makes of a text; `InputError` where it has no such ones."""
    try:
        flags = shlex.split(text)
    except ValueError as error:
        raise InputError(f"--engine_options={text}: {error}.") from None
    for flag in flags:
        if not flag.startswith("--"):
            raise InputError(f"--engine_options: {flag!r}: --NAME=VALUE is expected.")
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            options = pipeline_options.PipelineOptions(flags)
            known = options.get_all_options()
            given = options.get_all_options(retain_unknown_options=True)
    except SystemExit:  # how argparse refuses a value
        reason = said.getvalue().strip().splitlines()[-1].split("error: ")[-1]
        raise InputError(f"--engine_options: {reason}.") from None
    for name in given.keys() - known.keys():
        raise InputError(
            f"--engine_options: Apache Beam has no --{name}; {_near(name, known)}"
        )
    return options


def _near(name: str, known) -> str:
    """`errors.valid` without its list, which is of 150 options here."""
    _, hint, match = valid(name, known).partition("did you mean ")
    return f"{hint}{match}" if match else "its documentation names those that it has."


@dataclasses.dataclass(frozen=True)
class _How:
    """What all elements of a run share."""

    function: Callable
    attempt: Callable
    seconds: int | None
    workers: int
    results: str


@dataclasses.dataclass(frozen=True)
class _Failed:
    """The result of a task that failed as often as it was tried."""

    error: Exception


@dataclasses.dataclass(frozen=True)
class _Tried:
    """A function for `workers.work`: how many items it began, and what it gave."""

    function: Callable

    def __call__(self, *arguments) -> tuple[int, object]:
        *task, begin, rejected = arguments
        begun = 0

        def counting(item: int):
            nonlocal begun
            begun += 1
            begin(item)

        for tried in range(1, stores.TRIES + 1):
            begun = 0
            try:
                return begun, self.function(*task, counting, rejected)
            except InputError as error:  # would be so again
                return begun, _Failed(InputError(str(error)))
            except Exception as error:
                if tried == stores.TRIES:
                    return begun, _Failed(_sendable(error))
                time.sleep(stores.PAUSE * 2 ** (tried - 1))


def _sendable(error: Exception) -> Exception:
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")


def _keys(function: Callable, tasks: Sequence[tuple]) -> list[str]:
    """A name for each task's result, the same in another run of the same command."""
    first = hashlib.sha256(pickle.dumps(function)).hexdigest()[:16]
    digests = (hashlib.sha256(pickle.dumps(task)).hexdigest()[:32] for task in tasks)
    return [f"{first}-{digest}" for digest in digests]


def _at_once(ask: Callable, paths: list[str]) -> Iterator[tuple[str, object]]:
    """Each path and what is answered, for a store takes its time with each."""
    with concurrent.futures.ThreadPoolExecutor(REQUESTS) as threads:
        for start in range(0, len(paths), 100 * REQUESTS):
            some = paths[start : start + 100 * REQUESTS]
            yield from zip(some, threads.map(ask, some), strict=True)


def tasks_of_each(tasks: int, workers: int, elements: int = _ELEMENTS) -> int:
    """How many tasks each process of an element does one after the other."""
    return min(_TASKS, max(1, tasks // (elements * workers)))


def _elements(run: str, todo: dict[str, tuple], size: int) -> list[str]:
    """Writes the tasks, `size` of them to a file; the files' paths."""
    keys, paths = list(todo), []
    for start in range(0, len(keys), size):
        paths.append(stores.join(run, f"{start:09d}"))
        _write(paths[-1], [(key, todo[key]) for key in keys[start : start + size]])
    return paths


def _write(path: str, value):
    with replacing(path) as beside:
        beside.write_bytes(pickle.dumps(value))


def _do(element: str, run: str):
    """Does the tasks of an element that are not done, on the machine that got it."""
    setup()
    how: _How = pickle.loads(stores.read(stores.join(run, "how")))
    path = {}
    todo = []
    for key, task in pickle.loads(stores.read(element)):
        result = stores.join(how.results, key)
        if not stores.exists(result):
            path[len(todo)] = result
            todo.append(task)
    with tqdm(disable=True) as bar:
        found = processes.work(
            _Tried(how.function),
            todo,
            attempt=how.attempt,
            workers=how.workers,
            bar=bar,
            seconds=how.seconds,
        )
        try:
            for place, result in found:
                _write(path.pop(place), result)
        except processes.WorkersDie as error:
            for left in path.values():
                _write(left, (0, _Failed(error)))

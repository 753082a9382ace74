"""Training in processes of their own, to be killed.

Importing JAX takes seconds, so one process imports everything and then forks for each
run, before JAX starts any device; what the first run compiled serves the others.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax

REPOSITORY = Path(__file__).parent.parent


class Runs:
    """Starts `sdfl_jax.main` with the network of `tests.tiny`."""

    def __init__(self, folder: Path, devices: int = 1):
        self._folder = folder
        self._count = 0
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "true",
            "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", "tests.processes"],
            cwd=REPOSITORY,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: str, devices: int = 0, **environment: str) -> "Run":
        """A run with these arguments beside `--config`.

        `devices`: other than those of all runs; `environment`: variables to add.
        """
        self._count += 1
        output = self._folder / f"output{self._count}.txt"
        argv = ["--config=tests/tiny_config.py", *arguments]
        pid = self.ask("run", [*argv], str(output), devices, environment)
        return Run(self, pid, output)

    def ask(self, *request):
        self._server.stdin.write(json.dumps(request) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self):
        self._server.stdin.close()
        self._server.wait()


class Run:
    """One process."""

    def __init__(self, runs: Runs, pid: int, output: Path):
        self._runs, self.pid, self._output = runs, pid, output
        self._status = None

    @property
    def output(self) -> str:
        if not self._output.exists():  # forked a moment ago
            return ""
        return self._output.read_text(errors="replace")

    def send(self, number: int):
        """Sends a signal, unless the process is gone."""
        if self.status() is None:
            os.kill(self.pid, number)

    def status(self) -> int | None:
        """The exit status (a signal's number negated); None while it runs."""
        if self._status is None:
            self._status = self._runs.ask("status", self.pid)
        return self._status

    def wait(self, seconds: float = 300) -> int:
        """The exit status, once there is one."""
        self.until(lambda: self.status() is not None, seconds)
        return self.status()

    def until(self, happened, seconds: float = 300):
        """Waits until `happened()` or the end of the process."""
        end = time.monotonic() + seconds
        while not happened() and self.status() is None:
            if time.monotonic() > end:
                self.send(signal.SIGKILL)
                raise TimeoutError(self.output)
            time.sleep(0.002)


def _serve():
    # What a run imports, so that forks have it already.
    import sdfl_jax.train  # noqa: F401
    from sdfl_jax.main import main
    from tests import tiny  # noqa: F401

    for line in sys.stdin:
        command, *rest = json.loads(line)
        if command == "run":
            answer = os.fork()
            if answer == 0:
                _become_run(main, *rest)
        elif command == "usage":
            import resource

            answer = resource.getrusage(resource.RUSAGE_CHILDREN)[:2]
        else:
            pid, status = os.waitpid(rest[0], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        print(json.dumps(answer), flush=True)


def _become_run(
    main, argv: list[str], output: str, devices: int, environment: dict[str, str]
):
    file = os.open(output, os.O_WRONLY | os.O_CREAT)
    for stream in (1, 2):
        os.dup2(file, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.environ.update(environment)
    if devices:
        jax.config.update("jax_num_cpu_devices", devices)
    sys.argv = ["sdfl_jax.main", *argv]  # the config's flags look here for overrides
    main()
    sys.exit()


if __name__ == "__main__":
    _serve()

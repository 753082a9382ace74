"""A training's process has large pages, and keeps them from step to step."""

import os
import platform
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

from sdfl_jax.devices import memory

CONFIG = """
import os
import sys

def get_config():
    print(os.getpid(), os.environ.get("GLIBC_TUNABLES"), *sys.argv[3:])
"""


@pytest.mark.parametrize("given", [None, "glibc.malloc.check=0"])
def test_the_process_starts_over_once_unless_its_memory_is_set_up_already(
    tmp_path, given
):
    (tmp_path / "config.py").write_text(CONFIG)
    environment = os.environ | {"GLIBC_TUNABLES": given or ""}
    if given is None:
        del environment["GLIBC_TUNABLES"]
    flags = [f"--config={tmp_path}/config.py", "--workdir=a b", "--dry_run"]
    run = subprocess.Popen(
        [sys.executable, "-m", "sdfl_jax.main", *flags],
        cwd=Path(__file__).parent.parent,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    told = run.communicate()[0].split("\n")[0]
    glibc = platform.libc_ver()[0] == "glibc"  # elsewhere nothing happens
    setting = given or ("glibc.malloc.hugetlb=1" if glibc else None)
    assert told == f"{run.pid} {setting} {' '.join(flags[2:])}"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_after_a_long_compilation_its_memory_goes_back_and_the_steps_stays(monkeypatch):
    asked = []
    library = types.SimpleNamespace(
        malloc_trim=lambda pad: asked.append(("trim", pad)),
        mallopt=lambda *setting: asked.append(setting),
    )
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: library)
    memory.keep_steps()
    try:
        jax.jit(lambda x: x * 3 + 1)(np.ones(7))
        assert not asked  # a short one
        monkeypatch.setattr(memory, "_LONG", 0.0)
        jax.jit(lambda x: x * 5 + 2)(np.ones(7))
        assert asked[:1] == [("trim", 0)]
        kept = jax.default_backend() == "cpu"
        assert set(asked[1:3]) == ({(-4, 0), (-1, -1)} if kept else set())
    finally:
        jax.monitoring.unregister_event_duration_listener(memory._after)


STEPS = """
import resource

import jax
import jax.numpy as jnp

from sdfl_jax.devices import memory

memory.keep_steps()
memory._LONG = 0.0
step = jax.jit(lambda x: jnp.dot(jnp.dot(x, x), x).sum())
x = jnp.ones((3000, 3000))  # 34 MiB, more than the C library keeps by itself
for _ in range(3):
    step(x).block_until_ready()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
before = faults()
for _ in range(4):
    step(x).block_until_ready()
print(faults() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")
def test_a_step_takes_the_memory_that_the_last_one_left():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    run = subprocess.run(
        [sys.executable, "-c", STEPS],
        cwd=Path(__file__).parent.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(run.stdout) < 200_000  # pages; else over a million

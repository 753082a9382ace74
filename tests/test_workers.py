"""Workers that crash, hang or are killed end neither a build nor another tool."""

import csv
import ctypes
import functools
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
from tqdm import tqdm

from sdfl_jax import files
from sdfl_jax.data import workers
from sdfl_jax.data.build import __main__ as build_command
from tests.pictures import (
    build_here,
    content,
    edit_list,
    environment,
    examples,
    make_list,
)


@pytest.fixture
def long_list(tmp_path):
    """Sixty lines."""
    make_list(tmp_path)
    edit_list(tmp_path, lambda lines: lines.extend(lines[1:] * 4))
    return tmp_path


def run_with(folder, what: str, item_seconds=300) -> subprocess.CompletedProcess:
    """Builds with two workers in which reading line 50 does `what`."""
    script = folder / "patched.py"
    script.write_text(
        "import ctypes, glob, os, signal, sys, time, traceback\n"
        "from sdfl_jax import errors\n"
        "from sdfl_jax.data import workers\n"
        "from sdfl_jax.data.build import builder, shards\n"
        "make_record = shards.make_record\n"
        f"workers.ITEM_SECONDS = {item_seconds}\n"
        "def siblings():\n"
        "    tasks = glob.glob(f'/proc/{os.getppid()}/task/*/children')\n"
        "    processes = {p for task in tasks for p in open(task).read().split()}\n"
        "    started = [open(f'/proc/{p}/cmdline').read() for p in processes]\n"
        "    return sum('spawn_main' in command for command in started) > 1\n"
        "def patched(entry, settings):\n"
        "    if entry.line == 50:\n"
        f"        {what}\n"
        "    return make_record(entry, settings)\n"
        "shards.make_record = patched  # spawned workers import this file as well\n"
        "if __name__ == '__main__':\n"
        "    errors.one_line(builder.build)(sys.argv[1], sys.argv[2], workers=2,\n"
        "        lines_per_shard=8)\n"
    )
    return subprocess.run(
        [sys.executable, str(script), str(folder / "list.csv"), str(folder / "out")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize(
    "what, reason",
    [
        ("ctypes.string_at(0)", "its decoder crashes (SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "perhaps for lack of memory"),
        ("time.sleep(1000)", "does not come to an end (3 s)"),
    ],
)
def test_image_that_ends_its_worker_is_rejected_and_the_rest_goes_on(
    long_list, what, reason
):
    run = run_with(long_list, what, item_seconds=3 if "sleep" in what else 300)
    assert run.returncode == 0, run.stderr
    with open(long_list / "out" / "rejected.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["line"]) for row in rows] == [50]
    assert all(reason in row["reason"] for row in rows)
    assert len(examples(long_list / "out")) == 59


def test_workers_that_only_fail_side_by_side_get_fewer(long_list):
    # Stands for memory that suffices one of them: alone, the image can be read.
    assert run_with(long_list, "siblings() and os._exit(1)").returncode == 0
    build_here(long_list, "whole", lines_per_shard=8)
    assert content(long_list / "out") == content(long_list / "whole")


def test_workers_that_die_for_no_image_are_one_line_and_shards_stay(long_list):
    in_a_build = "any(f.name == 'write_shard' for f in traceback.extract_stack())"
    run = run_with(long_list, f"{in_a_build} and os._exit(1)")
    assert run.returncode == 2
    assert run.stderr.strip().splitlines()[-1].startswith("Error: ")
    assert "worker processes die" in run.stderr
    assert list((long_list / "out").glob("*.array_record"))
    build_here(long_list, lines_per_shard=8)
    build_here(long_list, "whole", lines_per_shard=8)
    assert content(long_list / "out") == content(long_list / "whole")


def test_what_a_killed_worker_had_begun_to_write_does_not_stay(long_list):
    what = "open(sys.argv[2] + '/.data.1.partial', 'w').close(); os._exit(1)"
    assert run_with(long_list, what).returncode == 0
    assert len(examples(long_list / "out")) == 59
    assert not list((long_list / "out").glob(".*"))


def crash(item: int) -> int:
    """Squares; 3 crashes, 7 hangs."""
    if item == 3:
        ctypes.string_at(0)
    if item == 7:
        time.sleep(1000)
    return item**2


def lost(item: int, reason: str) -> str:
    return f"{item}: {reason}"


def test_results_come_in_order_and_what_is_lost_is_named():
    with tqdm(total=20, disable=True) as bar:
        how = {"workers": 2, "chunk": 4, "seconds": 2, "bar": bar}
        results = list(workers.each(crash, range(20), lost=lost, **how))
    expected = [item**2 for item in range(20)]
    expected[3] = "3: its decoder crashes (SIGSEGV)"
    expected[7] = "7: its decoder does not come to an end (2 s)"
    assert results == expected


def test_an_error_ends_the_others_work(tmp_path):
    begun = time.monotonic()
    with tqdm(disable=True) as bar, pytest.raises(ZeroDivisionError):
        for _ in workers.each(
            functools.partial(fail_or_wait, folder=tmp_path),
            range(2),
            **{"lost": lost, "workers": 2, "chunk": 1, "bar": bar},
        ):
            pass
    assert time.monotonic() - begun < 60
    assert not list(tmp_path.iterdir())  # nothing half-written


def fail_or_wait(item: int, folder: Path):
    with files.replacing(folder / str(item)) as beside:
        beside.touch()
        if item == 0:
            while len(list(folder.iterdir())) < 2:
                time.sleep(0.01)
            return 1 / item
        time.sleep(1000)


slow = pytest.mark.slow
TOOLS = {
    "audit": (["--train={}/list.csv", "--out={}/out"], "findings.csv"),
    "explore": (["--paths_file={}/list.csv", "--out={}/out"], "index.html"),
    "layouts": (["paths_file", "--root={}/list.csv", "--out={}/out"], "rejected.csv"),
    "forge": (
        ["--photos={}", "--out={}/out", "--count=1", "--size=16"]
        + ["--count_val=0", "--count_test=0", "--kinds=inpainting"],
        "left_out.csv",
    ),
}


@pytest.mark.parametrize(
    "tool",
    ["audit", "layouts"] + [pytest.param(t, marks=slow) for t in ("explore", "forge")],
)
def test_image_that_crashes_its_decoder_is_named_by_every_tool(tmp_path, tool):
    make_list(tmp_path)
    arguments, report = TOOLS[tool]
    script = tmp_path / "patched.py"
    script.write_text(
        "import ctypes, sys\n"
        "from sdfl_jax.data import images\n"
        "from sdfl_jax.data.layouts import masks\n"
        f"from sdfl_jax.data.{tool}.__main__ import main\n"
        "def crashing(read):\n"
        "    def patched(path, *rest):\n"
        "        if str(path).endswith('/5.png'):\n"
        "            ctypes.string_at(0)\n"
        "        return read(path, *rest)\n"
        "    return patched\n"
        "images.read_bytes = crashing(images.read_bytes)\n"
        "masks.images.upright_size = crashing(masks.images.upright_size)\n"
        "if __name__ == '__main__':\n"
        "    main(sys.argv[1:])\n"
    )
    arguments = [argument.format(tmp_path) for argument in arguments]
    run = subprocess.run(
        [sys.executable, str(script), *arguments, "--workers=2"],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    text = (tmp_path / "out" / report).read_text()
    assert text.count("its decoder crashes (SIGSEGV)") == 1
    assert ("5.png" in text) == (tool != "explore")  # which names no file


STARTS = {
    "data": "workers.each(tell, range(2), lost=None, workers=2, chunk=1, bar=bar)",
    "examine": "(lambda w: [w.result(w.start(tell, i)) for i in (0, 1)])(Workers(2))",
}


@pytest.mark.parametrize("room", ["data", pytest.param("examine", marks=slow)])
def test_workers_end_with_the_process_that_started_them(tmp_path, room):
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, time\n"
        "from tqdm import tqdm\n"
        "from sdfl_jax.data import workers\n"
        "from sdfl_jax.examine.isolation import Workers\n"
        "def tell(item):\n"
        f"    open('{tmp_path}/' + str(os.getpid()), 'w').close()\n"
        "    time.sleep(1000)\n"
        "if __name__ == '__main__':\n"
        "    bar = tqdm(disable=True)\n"
        f"    list({STARTS[room]})\n"
    )
    parent = subprocess.Popen([sys.executable, str(script)], env=environment())
    alone = lambda: [Path("/proc", p.name) for p in tmp_path.glob("[0-9]*")]
    wait_until(lambda: alone())
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    wait_until(lambda: not any(process.exists() for process in alone()))


def wait_until(happened, seconds: float = 120):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def threads(item: int) -> int:
    return cv2.getNumThreads()


def test_commands_and_workers_set_up_their_process(tmp_path):
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(3)
        with tqdm(disable=True) as bar:
            how = {"lost": lost, "workers": 1, "chunk": 1, "bar": bar}
            assert list(workers.each(threads, range(1), **how)) == [1]
        assert cv2.getNumThreads() == 3
        with pytest.raises(SystemExit):
            build_command.main([f"--out={tmp_path}", "--verify"])
        assert cv2.getNumThreads() == 1
    finally:
        cv2.setNumThreads(before)


def test_importing_the_package_changes_nothing_of_the_process():
    script = (
        "import ctypes, gc, logging, os, warnings\n"
        "import cv2, grain, imagecodecs, imagehash, jax, matplotlib, numpy, PIL.Image\n"
        "import array_record, msgpack, pebble, scipy.special, simplejpeg, tifffile\n"
        "import tensorflow_datasets\n"
        "asked = []\n"
        "class Library(ctypes.CDLL):\n"
        "    def __getattr__(self, name):\n"
        "        asked.append(name)\n"
        "        return super().__getattr__(name)\n"
        "ctypes.CDLL = Library\n"
        "def state():\n"
        "    names = ('tifffile', 'imagecodecs', '')\n"
        "    levels = [logging.getLogger(name).level for name in names]\n"
        "    limits = (PIL.Image.MAX_IMAGE_PIXELS, cv2.getNumThreads())\n"
        "    return limits, levels, gc.isenabled(), list(warnings.filters), asked[:]\n"
        "before = state()\n"
        "import importlib, pkgutil, sdfl_jax.data\n"
        "where = (sdfl_jax.data.__path__, 'sdfl_jax.data.')\n"
        "for module in pkgutil.walk_packages(*where):\n"
        "    importlib.import_module(module.name)\n"
        "assert before == state(), (before, state())\n"
    )
    run = [sys.executable, "-c", script]
    done = subprocess.run(run, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

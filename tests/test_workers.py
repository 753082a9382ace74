"""Workers that crash, hang or are killed do not end a build."""

import csv
import subprocess
import sys

import pytest

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
    """Builds with two workers in which reading line 50 does `what`.

    The time of an item counts the start of the process in which it is tried alone, so
    that a short one is for what hangs.
    """
    script = folder / "patched.py"
    script.write_text(
        "import ctypes, os, signal, sys, time\n"
        "from sdfl_jax import errors\n"
        "from sdfl_jax.data import workers\n"
        "from sdfl_jax.data.build import builder, shards\n"
        "make_record = shards.make_record\n"
        f"workers.ITEM_SECONDS = {item_seconds}\n"
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
        timeout=120,
    )


@pytest.mark.parametrize(
    "what, reason",
    [
        ("ctypes.string_at(0)", "its decoder crashes (SIGSEGV)"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "perhaps for lack of memory"),
        ("time.sleep(1000)", "does not come to an end (8 s)"),
    ],
)
def test_image_that_ends_its_worker_is_rejected_and_the_rest_goes_on(
    long_list, what, reason
):
    run = run_with(long_list, what, item_seconds=8 if "sleep" in what else 300)
    assert run.returncode == 0, run.stderr
    with open(long_list / "out" / "rejected.csv") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["line"]) for row in rows] == [50]
    assert all(reason in row["reason"] for row in rows)
    assert len(examples(long_list / "out")) == 59


def test_workers_that_only_fail_side_by_side_get_fewer(long_list):
    # Stands for memory that suffices one of them: alone, the image can be read.
    what = (
        "os.environ.get('x') or workers._row is not None "
        "and workers._row > 0 and os._exit(1)"
    )
    assert run_with(long_list, what).returncode == 0
    build_here(long_list, "whole", lines_per_shard=8)
    assert content(long_list / "out") == content(long_list / "whole")


def test_workers_that_die_for_no_image_are_one_line_and_shards_stay(long_list):
    run = run_with(long_list, "workers._row is not None and os._exit(1)")
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

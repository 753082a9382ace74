"""`sdfl_jax.main` starts over with large pages, as the same process."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

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

"""What runs once there is a GPU works the first time; its results make the table."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import results

ROOT = Path(__file__).parent.parent

TABLE = {"batch": 32, "precision": "bfloat16", "ratios": {"compiled torch": 0.5}}
TABLE["results"] = {"sdfl_jax": {"median": 0.16, "peak_memory": 20.0}}
FIGURES = {
    "train": {"network": "sdfl", "image_size": 512, "tables": [TABLE]},
    "evaluate": {
        "network": "sdfl",
        "image_size": 512,
        "images_per_second": {"network": [700, 710, 720], "end to end": [400]},
    },
}


def test_results_of_devices_make_the_table_and_a_cpu_is_none(tmp_path):
    assert results.table(tmp_path) == results.NOTHING
    for device in ("cpu", "NVIDIA H100"):
        parts = {
            n: {"status": 0, "seconds": 1, "figures": f} for n, f in FIGURES.items()
        }
        text = json.dumps(
            {"device": device, "parts": parts | {"kernel": {"status": 1}}}
        )
        (tmp_path / f"{device[:3]}.json").write_text(text)
    lines = results.table(tmp_path).splitlines()
    assert len(lines) == 4 and "cpu" not in "".join(lines)
    assert "200.0 images/s, 20.0 GiB; 2.00 times compiled torch" in lines[2]
    assert "710 images/s the network, 400 end to end" in lines[3]


def test_the_table_in_the_readme_is_what_the_results_say():
    (found,) = results._MARKS.finditer((ROOT / "README.md").read_text())
    assert found[0].split("\n", 1)[1].rpartition("\n")[0] == results.table(
        results.RESULTS
    )


@pytest.mark.slow
def test_the_script_runs_through_on_a_cpu(tmp_path):
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "--dry", f"--out={tmp_path}"],
        cwd=ROOT,
        env=os.environ | {"PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "cpu.json").read_text())
    assert {n: p["status"] for n, p in found["parts"].items()} == dict.fromkeys(
        ["kernel", "train", "pooling", "evaluate"], 0
    ), done.stdout + done.stderr
    told = " ".join(what for what, _ in results.lines(found))
    assert "training demo" in told and "evaluation" in told


def test_it_asks_for_what_it_takes():
    done = subprocess.run(
        ["bash", "benchmarks/gpu.sh", "--what"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2 and done.stderr.startswith("Error: --what: takes")

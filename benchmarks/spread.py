"""What it takes to prepare and to look at ten million photographs, 40 TB.

python -m benchmarks.spread                     # minutes
python -m benchmarks.spread --photographs=4 --turns=1 --steps=build

Makes photographs of 4000x3000, 4 MB each, and measures on this machine the CPU seconds
of each step beyond its start, what the machine that starts the command does for each
task and each line, and the photographs per second of a build with 1 and 2 processes, by
either engine. What follows for more machines is a simulation: tasks go to whichever
process is free, machines differ in speed, some tasks fail and are done again, and the
network of a machine and the store as a whole have a bandwidth.
"""

import argparse
import contextlib
import heapq
import io
import json
import os
import platform
import resource
import statistics
import tempfile
import time
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
from tqdm import tqdm

from sdfl_jax.data import engine, workers
from sdfl_jax.data.audit.auditor import look
from sdfl_jax.data.build.builder import LINES_PER_SHARD, build
from sdfl_jax.data.lists import read_list
from sdfl_jax.data.setup import setup

IMAGES, BYTES = 10_000_000, 4e6
# Photographs of a task, and MB that it writes for each beside what it reads.
STEPS = {
    "audit": (32, 0),
    "build": (LINES_PER_SHARD, 4),
    "predict": (64, 0),
    "examine": (8, 0),
}


def photographs(folder: Path, count: int) -> str:
    """JPEG files of about 4 MB; the path of their list."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (75, 100, 3), np.uint8)
    clouds = cv2.resize(coarse, (4000, 3000), interpolation=cv2.INTER_CUBIC)
    lines = ["image,label"]
    for number in range(count):
        grain = rng.normal(0, 5, (3000, 4000, 1))
        pixels = np.clip(clouds + grain, 0, 255).astype(np.uint8)
        cv2.imwrite(
            str(folder / f"{number}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 92]
        )
        lines.append(f"{number}.jpg,{number % 2}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "list.csv")


def cpu() -> float:
    """CPU seconds of this process and of its children that have ended."""
    of = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return sum(sum(resource.getrusage(who)[:2]) for who in of)


def step_of(name: str, listed: str, folder: Path):
    """What does a step with the first n photographs, in this process."""
    entries, _ = read_list(listed)
    if name == "audit":
        return lambda n: look(entries[:n], progress=False)
    if name == "build":
        return lambda n: built(_first(listed, n), 0)
    if name == "predict":
        from sdfl_jax.predict.predictor import load

        network = load("starter")
        return lambda n: list(network.predict_many([e.image for e in entries[:n]]))
    from sdfl_jax.examine.case import Case

    files = [entry.image for entry in entries]
    with_none = lambda n: list(Case(tempfile.mkdtemp(dir=folder)).examine(files[:n]))
    return with_none


def _first(listed: str, count: int) -> str:
    path = Path(listed).with_name(f"first{count}.csv")
    lines = Path(listed).read_text().splitlines()[: count + 1]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def built(listed: str, count: workers.Workers) -> float:
    """Seconds of a build of two lines a shard."""
    with tempfile.TemporaryDirectory() as out:
        start = time.perf_counter()
        with contextlib.redirect_stdout(io.StringIO()):
            build(listed, f"{out}/x", workers=count, lines_per_shard=2, progress=False)
        return time.perf_counter() - start


def cost(step, few: int, many: int) -> float:
    """CPU seconds of a photograph, beyond what a step takes to start."""
    step(few)  # libraries and programs are loaded
    spent = []
    for count in (few, many):
        start = cpu()
        step(count)
        spent.append(cpu() - start)
    return (spent[1] - spent[0]) / (many - few)


def driver_costs(folder: Path) -> dict[str, float]:
    """Of the machine that starts all: seconds a task and a line, bytes a line."""
    beam = engine.Beam()
    spent = []
    for tasks in (100, 500):
        with tqdm(disable=True) as bar:
            how = {"lost": None, "workers": beam, "chunk": 1, "bar": bar}
            start = time.perf_counter()
            list(workers.each(abs, range(tasks), **how))
            spent.append(time.perf_counter() - start)
    lines = 100_000
    path = folder / "long.csv"
    names = (f"folder/of/photographs/{n:08d}.jpg,{n % 2}\n" for n in range(lines))
    path.write_text("image,label\n" + "".join(names))
    start = time.perf_counter()
    read_list(path)
    seconds = time.perf_counter() - start
    tracemalloc.start()
    entries = read_list(path)[0]
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return {
        "task": (spent[1] - spent[0]) / 400,
        "line": seconds / lines,
        "line_bytes": size / len(entries),
    }


def simulate(seconds: float, name: str, machines: int, given) -> dict[str, float]:
    """Hours of a step of all photographs, and what the free processes waited for."""
    size, writes = STEPS[name]
    processes = machines * given.cores
    share = min(given.machine_gbs / given.cores, given.store_gbs / processes) * 1e9
    moving = (BYTES + writes * 1e6) / share
    rng = np.random.default_rng(0)
    speed = rng.normal(1, 0.1, machines).clip(0.5)
    per_task = size * max(seconds, moving)  # the next is read while one is decoded
    tasks = -(-IMAGES // size)
    together = engine.tasks_of_each(tasks, given.cores)
    left = -(-tasks // (together * given.cores))
    free = [(0.0, machine) for machine in range(machines)]
    while left:
        when, machine = heapq.heappop(free)
        # One that fails does so anywhere, and all of its element is asked for again.
        lost = rng.random() * (rng.random() < given.failing)
        took = (1 + lost) * together * per_task / speed[machine] + given.start
        heapq.heappush(free, (when + took, machine))
        left -= 1
    work = max(when for when, _ in free)
    driver = (
        tasks * (given.task + 2 * given.latency / engine.REQUESTS) + IMAGES * given.line
    )
    return {
        "hours": (work + driver) / 3600,
        "driver": driver / 3600,
        "ideal": IMAGES * max(seconds, moving) / processes / 3600,
        "bound": "network" if moving > seconds else "CPU",
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--photographs", type=int, default=12)
    add("--turns", type=int, default=3)
    add("--steps", default=",".join(STEPS))
    add("--cores", type=int, default=16, help="of a machine")
    add("--machine_gbs", type=float, default=1.25, help="GB/s of a machine's network")
    add("--store_gbs", type=float, default=50, help="GB/s of the store as a whole")
    add("--latency", type=float, default=0.03, help="seconds of one request to it")
    add("--failing", type=float, default=0.001, help="share of elements that fail")
    add("--start", type=float, default=10, help="seconds an element takes to start")
    add("--json", help="file to write the figures to")
    given = parser.parse_args()
    setup()
    found = {"machine": platform.platform(), "cores": os.cpu_count(), "cpu_seconds": {}}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        listed = photographs(folder, given.photographs)
        size = (folder / "0.jpg").stat().st_size
        print(f"{given.photographs} photographs of 4000x3000, {size / 1e6:.1f} MB each")
        for name in given.steps.split(","):
            few = 1 if name in ("predict", "examine") else 2
            many = 3 if name in ("predict", "examine") else given.photographs
            seconds = cost(
                step_of(name, listed, folder), few, min(many, given.photographs)
            )
            found["cpu_seconds"][name] = seconds
            print(f"{name}: {seconds:.3f} CPU seconds a photograph", flush=True)
        costs = driver_costs(folder)
        found["driver"] = costs
        given.task, given.line = costs["task"], costs["line"]
        print(
            f"the machine that starts it: {1e3 * costs['task']:.1f} ms a task, "
            f"{1e6 * costs['line']:.0f} us and {costs['line_bytes']:.0f} bytes a line"
        )
        ways = {
            "local, 1 process": 1,
            "local, 2 processes": 2,
            "beam, 1 process": engine.Beam(workers=1),
            "beam, 2 processes": engine.Beam(workers=2),
        }
        took = {name: [] for name in ways}
        for _ in range(given.turns):
            for name, count in ways.items():
                took[name].append(built(listed, count))
    found["build"] = {n: statistics.median(seconds) for n, seconds in took.items()}
    for name, seconds in found["build"].items():
        print(f"build, {name}: {given.photographs / seconds:.2f} photographs/s")
    print("\n| step | machines | hours | of these the starting machine | bound by |")
    print("| --- " * 5 + "|")
    for name, machines in (
        (name, m) for name in found["cpu_seconds"] for m in (1, 10, 100, 1000)
    ):
        row = simulate(found["cpu_seconds"][name], name, machines, given)
        found.setdefault("simulated", {})[f"{name}, {machines}"] = row
        bound = row["bound"] if row["ideal"] > 0.5 * row["hours"] else "start and ends"
        print(
            f"| {name} | {machines} | {row['hours']:.1f} | {row['driver']:.1f} | "
            f"{bound} |"
        )
    if given.json:
        Path(given.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Time and memory of a build of many images and of reading it again.

python -m benchmarks.build --images=30000 --side=64 --workers=2
python -m benchmarks.build --images=600 --side=1500 --workers=2

Makes JPEG files with PNG masks (links to 50 different ones), builds shards of them,
builds once more after the build is killed halfway, and verifies. Memory is the largest
sum over the main process and its workers, as resident (`/proc`), sampled ten times a
second, and the largest of any one of them.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np


def make_list(folder: Path, images: int, side: int, kinds: int = 50):
    rng = np.random.default_rng(0)
    (folder / "images").mkdir()
    lines = []
    for kind in range(min(kinds, images)):
        coarse = rng.integers(0, 256, (side // 8 + 1, side // 8 + 1, 3), np.uint8)
        image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{kind}.jpg"), image)
        mask = np.zeros((side, side), np.uint8)
        mask[side // 4 : side // 2, side // 4 : side // 2 + kind] = 255
        cv2.imwrite(str(folder / f"{kind}.png"), mask)
    for index in range(images):
        kind, label = index % kinds, index % 2
        image, mask = folder / "images" / f"{index}.jpg", "None"
        os.link(folder / f"{kind}.jpg", image)
        if label:
            mask = folder / "images" / f"{index}.png"
            os.link(folder / f"{kind}.png", mask)
        lines.append(f"{image} {mask} None {label}\n")
    (folder / "list.txt").write_text("".join(lines))


def processes(pid: int) -> dict[int, int]:
    """Resident bytes of a process and its children, by pid."""
    found, waiting = {}, [pid]
    while waiting:
        pid = waiting.pop()
        try:
            pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
            tasks = Path(f"/proc/{pid}/task").glob("*/children")
            children = [child for task in tasks for child in task.read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        found[pid] = int(pages) * os.sysconf("SC_PAGE_SIZE")
        waiting += map(int, children)
    return found


def run(command: list[str], until=lambda: False) -> dict:
    """Seconds and peak memory of a command, killed once `until` says so."""
    start, together, main, worker = time.monotonic(), 0, 0, 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    while process.poll() is None:
        sizes = processes(process.pid)
        together = max(together, sum(sizes.values()))
        main = max(main, sizes.pop(process.pid, 0))
        worker = max([worker, *sizes.values()])
        if until():
            process.send_signal(signal.SIGKILL)
        time.sleep(0.1)
    return {
        "seconds": time.monotonic() - start,
        "together": together,
        "main": main,
        "worker": worker,
        "status": process.returncode,
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--images", type=int, default=30_000)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    parser.add_argument("--storage", default="original")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    out = folder / "shards"
    build = [sys.executable, "-m", "sdfl_jax.data.build", f"--out={out}"]
    build += [f"--workers={arguments.workers}"]
    listed = [f"--paths_file={folder}/list.txt", f"--storage={arguments.storage}"]
    shards = -(-arguments.images // 256)

    def half() -> bool:
        return out.exists() and len(list(out.glob("*.array_record"))) >= shards // 2

    try:
        make_list(folder, arguments.images, arguments.side)
        rows = {
            "build": run(build + listed),
            "verify": run([*build, "--verify"]),
        }
        first = (out / "manifest.json").read_bytes()
        shutil.rmtree(out)
        rows["killed at half"] = run(build + listed, until=half)
        time.sleep(1)
        rows["the rest"] = run(build + listed)
        same = first == (out / "manifest.json").read_bytes()
        size = sum(path.stat().st_size for path in out.iterdir())
    finally:
        shutil.rmtree(folder)
    print(f"{arguments.images} images, {size / 1e6:.0f} MB of shards; MB of memory:")
    print("| | seconds | images/s | all | main | largest worker |\n|" + " --- |" * 6)
    for name, row in rows.items():
        whole = name in ("build", "verify")
        rate = f"{arguments.images / row['seconds']:.0f}" if whole else ""
        memory = " | ".join(
            f"{row[k] / 1e6:.0f}" for k in ("together", "main", "worker")
        )
        print(f"| {name} | {row['seconds']:.1f} | {rate} | {memory} |")
    print(f"Checksums after the kill are {'the same' if same else 'DIFFERENT'}.")
    print("Status:", {name: row["status"] for name, row in rows.items()})


if __name__ == "__main__":
    main()

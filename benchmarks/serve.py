"""Throughput, latency and memory of the page's server under load.

python -m benchmarks.serve --workdir=DIR                 # a training run's network

Clients on this machine ask over loopback, each its next photo when the last one is
answered; who is turned away (503) comes back a second later and counts as turned away.
Memory is the server's, which runs in a process of its own.
"""

import argparse
import concurrent.futures
import http.client
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np


def photo(side: int) -> bytes:
    coarse = np.random.default_rng(0).integers(0, 256, (12, 16, 3), np.uint8)
    image = cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)
    return cv2.imencode(".jpg", image)[1].tobytes()


def ask(port: int, data: bytes) -> tuple[float, int]:
    """Seconds to the answer, and how often the server asked to come back."""
    start, turned_away = time.perf_counter(), 0
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        connection.request("POST", "/predict", body=data)
        reply = connection.getresponse()
        answer = json.loads(reply.read())
        connection.close()
        if reply.status == 200:
            assert answer["width"] and answer["mask"]
            return time.perf_counter() - start, turned_away
        assert reply.status == 503, answer
        turned_away += 1
        time.sleep(1)


def load(port: int, data: bytes, clients: int, requests: int) -> dict:
    """`requests` photos by `clients` at once."""
    start = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(clients) as pool:
        asked = list(pool.map(lambda _: ask(port, data), range(requests)))
    seconds = sorted(each for each, _ in asked)
    return {
        "clients": clients,
        "photos/s": round(requests / (time.perf_counter() - start), 2),
        "median s": round(statistics.median(seconds), 3),
        "95 % s": round(seconds[int(0.95 * len(seconds))], 3),
        "turned away": sum(times for _, times in asked),
    }


def memory(pid: int) -> float:
    """Resident MiB of a process."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--workdir", required=True, help="folder of a training run")
    add("--side", type=int, default=256, help="of the photos, pixels")
    add("--clients", type=int, nargs="+", default=[1, 8, 32])
    add("--requests", type=int, default=200, help="for each number of clients")
    add("--json", help="file to write the figures to")
    args = parser.parse_args()
    data = photo(args.side)
    command = [sys.executable, "-m", "sdfl_jax.predict", f"--workdir={args.workdir}"]
    server = subprocess.Popen(
        [*command, "--serve", "--port=0"], stdout=subprocess.PIPE, text=True
    )
    try:
        port = int(re.search(r":(\d+)/", server.stdout.readline())[1])
        load(port, data, 16, 32)  # compiles what batches need
        rows = []
        for clients in args.clients:
            rows.append(load(port, data, clients, args.requests))
            rows[-1]["MiB"] = round(memory(server.pid))
            print("  ".join(f"{name} {value}" for name, value in rows[-1].items()))
    finally:
        server.terminate()
        server.wait()
    if args.json:
        Path(args.json).write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()

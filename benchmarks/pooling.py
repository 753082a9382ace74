r"""Pooling a pyramid of grids from whole maps, beside what others do.

python -m benchmarks.pooling --json=pooling.json           # all shapes: minutes
python -m benchmarks.pooling --batches=1,8 --sizes=16 --dtypes=float32

Each version pools 1, 2, 3 and 6 bins from B x H x H x 2048 features, forward and
forward with gradient. In every turn each version runs for a moment, so that all meet
the same disturbances; times are medians over turns, ratios medians of a turn's ratios
to the implementation that `auto` takes. A version that needs more than `--slow` seconds
takes one turn only, and none where a smaller batch says that it needs more than
`--limit`. On a GPU the table also holds the bytes that must move over the time, as a
share of what a large copy on the device reaches in the same turns.
"""

import argparse
import functools
import importlib.util
import json
import math
import os
import platform
import statistics
import time
from importlib.metadata import version

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # PyTorch's threads sleep between
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # PyTorch needs some

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from sdfl_jax.ops import pooling, pooling_kernel, pyramid_pool
from sdfl_jax.ops.atoms import integrals

BINS = (1, 2, 3, 6)
CHANNELS = 2048
# The gathered samples of peer (b) lie in memory several times.
SAMPLES_LIMIT = 2**26  # features, on a CPU
COPY_BYTES = 2**31  # on a GPU alone: on a CPU such a copy measures page faults


def average_pools(x):
    """Peer (a): a windowed average per grid, as layers for pooling do it."""
    cells = []
    for g in BINS:
        strides = [size // g for size in x.shape[1:3]]
        window = [
            size - (g - 1) * s for size, s in zip(x.shape[1:3], strides, strict=True)
        ]
        cells.append(nn.avg_pool(x, tuple(window), tuple(strides)))
    return tuple(cells)


def means_of_slices(x):
    """Peer (a) written by hand: a mean per cell, from and to whole rows and columns."""
    edges = lambda size, g: [
        slice(i * size // g, -(-(i + 1) * size // g)) for i in range(g)
    ]
    return tuple(
        jnp.stack(
            [
                jnp.stack([x[:, r, c].mean((1, 2)) for c in edges(x.shape[2], g)], 1)
                for r in edges(x.shape[1], g)
            ],
            axis=1,
        )
        for g in BINS
    )


def box_samples(x, boxes):
    """Peer (b): bilinear samples gathered for each box, about one a position.

    As RoIAlign does with its own choice of samples. `boxes` is B 5, known when it runs.
    """
    H, W = x.shape[1:3]

    def cells(box, g):
        index = box[0].astype(jnp.int32)

        def positions(start, end, size):
            count = g * math.ceil(size / g)
            at = start + (jnp.arange(count) + 0.5) * ((end - start) / count)
            low = jnp.clip(jnp.floor(at).astype(jnp.int32), 0, size - 1)
            high = jnp.minimum(low + 1, size - 1)
            part = jnp.clip(at - low, 0, 1)
            return [(low, 1 - part), (high, part)]

        rows, columns = positions(box[2], box[4], H), positions(box[1], box[3], W)
        samples = sum(
            x[index, y[:, None], z[None]] * (v[:, None] * w[None])[..., None]
            for y, v in rows
            for z, w in columns
        )
        count, C = len(samples) // g, x.shape[3]
        parts = samples.reshape(g, count, g, samples.shape[1] // g, C)
        return parts.mean((1, 3)).astype(x.dtype)

    return tuple(jax.vmap(lambda box, g=g: cells(box, g))(boxes) for g in BINS)


def jax_versions(features, gradients, channels: list[int]) -> dict:
    """Name to (forward, forward with gradient): functions that return when done."""
    B, H = features.shape[:2]
    boxes = jnp.array([[i, 0, 0, H, H] for i in range(B)], jnp.float32)
    pools = {"xla": functools.partial(pyramid_pool, bins=BINS, implementation="xla")}
    if not pooling_kernel.missing():
        for count in channels:
            pools[f"pallas, {count} channels"] = functools.partial(
                pooling_kernel.pyramid_pool, bins=BINS, channels=count
            )
    pools["(a) average pools"] = average_pools
    pools["(a) means of slices"] = means_of_slices
    if jax.default_backend() != "cpu" or features.size <= SAMPLES_LIMIT:
        pools["(b) samples of boxes"] = lambda x: box_samples(x, boxes)

    def versions(pool):
        def both(x, gradients):
            cells, transpose = jax.vjp(pool, x)
            return cells, transpose(gradients)

        forward, both = jax.jit(pool), jax.jit(both)
        return (
            repeated(lambda: forward(features), jax.block_until_ready),
            repeated(lambda: both(features, gradients), jax.block_until_ready),
        )

    return {name: versions(pool) for name, pool in pools.items()}


def torch_versions(features, gradients, compiled: bool) -> dict:
    """Peer (c), on the same numbers, in PyTorch's layout unless it says otherwise."""
    import torch
    import torch.nn.functional as F

    tensor = lambda x: torch.from_dlpack(x).permute(0, 3, 1, 2)
    last = tensor(features)
    first = last.contiguous()
    last_gradients = [tensor(x) for x in gradients]
    first_gradients = [x.contiguous() for x in last_gradients]
    size = features.shape[1]
    matrices = [
        torch.tensor(
            integrals(np.arange(g + 1) * (size / g), size, np) * (g / size),
            dtype=torch.float32,
            device=first.device,
        )
        for g in BINS
    ]

    def adaptive(x):
        return [F.adaptive_avg_pool2d(x, g) for g in BINS]

    def closed(x):
        return [
            torch.einsum("bchw,gh,kw->bcgk", x.float(), m, m).to(x.dtype)
            for m in matrices
        ]

    def wait(_):
        if first.is_cuda:
            torch.cuda.synchronize()

    def versions(pool, x, gradients):
        def forward():
            with torch.no_grad():
                return pool(x)

        def both():
            y = x.detach().requires_grad_()
            return torch.autograd.grad(pool(y), y, gradients)

        return repeated(forward, wait), repeated(both, wait)

    found = {
        "(c) adaptive_avg_pool2d": versions(adaptive, first, first_gradients),
        "(c) the same, channels last": versions(adaptive, last, last_gradients),
        "(c) closed form, eager": versions(closed, first, first_gradients),
    }
    if compiled:
        found["(c) closed form, compiled"] = versions(
            torch.compile(closed), first, first_gradients
        )
    return found


def repeated(call, wait):
    """`run(times)`: the call, so often, until the last one is done."""

    def run(times: int):
        for _ in range(times):
            result = call()
        wait(result)

    return run


def measure(runs: dict, expected: dict, args) -> dict:
    """Seconds of each run, a list of one number a turn; `expected` leaves some out."""
    times, counts = {}, {}
    for name, run in runs.items():
        if expected.get(name, 0) > args.limit:
            print(f"{name} left out: {expected[name]:.0f} s expected", flush=True)
            continue
        try:
            run(1)  # compiles
        except RuntimeError as error:  # no memory, or no C++ compiler for PyTorch
            print(f"{name} left out: {str(error).splitlines()[0][:100]}", flush=True)
            continue
        start = time.perf_counter()
        run(1)
        once = time.perf_counter() - start
        counts[name] = max(1, round(args.moment / once))
        times[name] = [once] if once > args.slow else []
    for _ in range(args.turns):
        for name, count in counts.items():
            if times[name] and times[name][0] > args.slow:
                continue
            start = time.perf_counter()
            runs[name](count)
            times[name].append((time.perf_counter() - start) / count)
    return times


def moved_bytes(features, with_gradient: bool) -> int:
    """The least that must move: features read and cells written, then the reverse."""
    B, H, W, C = features.shape
    values = features.size + sum(B * g * g * C for g in BINS)
    return values * features.dtype.itemsize * (2 if with_gradient else 1)


def benchmark(B: int, size: int, dtype: str, known: list[dict], args) -> list[dict]:
    """A row for each version and mode on features of one shape.

    `known` holds the rows of smaller batches.
    """
    keys = jax.random.split(jax.random.key(0), 1 + len(BINS))
    features = jax.random.normal(keys[0], (B, size, size, CHANNELS), dtype)
    gradients = tuple(
        jax.random.normal(key, (B, g, g, CHANNELS), dtype)
        for key, g in zip(keys[1:], BINS, strict=True)
    )
    versions = jax_versions(features, gradients, args.channels)
    if args.torch:
        versions |= torch_versions(features, gradients, args.compiled)
    on_gpu = jax.default_backend() == "gpu"
    if on_gpu:
        block, copy = jnp.zeros(COPY_BYTES // 4, jnp.float32), jax.jit(jnp.copy)
    ours = pooling.chosen("auto")
    if ours == "pallas":
        ours = f"pallas, {pooling_kernel.CHANNELS} channels"

    rows = []
    for mode, with_gradient in (("forward", False), ("with gradient", True)):
        runs = {name: pair[with_gradient] for name, pair in versions.items()}
        if on_gpu:
            runs["copy"] = repeated(lambda: copy(block), jax.block_until_ready)
        expected = {
            row["version"]: row["seconds"] * B / row["shape"][0]
            for row in known
            if (row["mode"], row["dtype"], row["shape"][1]) == (mode, dtype, size)
        }
        times = measure(runs, expected, args)
        bandwidth = None
        if on_gpu:
            bandwidth = 2 * block.nbytes / statistics.median(times.pop("copy"))
        least = moved_bytes(features, with_gradient)
        for name, turns in times.items():
            seconds = statistics.median(turns)
            base = times[ours] if len(turns) > 1 else [statistics.median(times[ours])]
            ratios = [a / b for a, b in zip(turns, base, strict=False)]
            rows.append(
                {
                    "shape": [B, size, size, CHANNELS],
                    "dtype": dtype,
                    "mode": mode,
                    "version": name,
                    "seconds": seconds,
                    "turns": turns,
                    "times_ours": statistics.median(ratios),
                    "bytes": least,
                    "copy_bytes_per_s": bandwidth,
                    "share_of_copy": on_gpu and least / seconds / bandwidth,
                }
            )
    return rows


def show(rows: list[dict]):
    """One shape's table: milliseconds, times ours, share of a copy's bandwidth."""
    B, H, W, C = rows[0]["shape"]
    title, on_gpu = f"{B}x{H}x{W}x{C} {rows[0]['dtype']}", rows[0]["copy_bytes_per_s"]
    if on_gpu:
        title += f" (copy: {on_gpu / 1e9:.0f} GB/s)"
    heads = ["ms", "times ours"] + ["of copy"] * bool(on_gpu)
    print(f"\n{title}\n\n| | forward {' | '.join(heads)} | with gradient", end=" ")
    print(f"{' | '.join(heads)} |\n{'| --- ' * (1 + 2 * len(heads))}|")
    for name in dict.fromkeys(row["version"] for row in rows):
        cells = [name]
        for mode in ("forward", "with gradient"):
            found = [r for r in rows if (r["version"], r["mode"]) == (name, mode)]
            for row in found:
                cells += [f"{row['seconds'] * 1e3:.3g}", f"{row['times_ours']:.2f}"]
                cells += [f"{row['share_of_copy']:.0%}"] * bool(on_gpu)
            cells += [] if found else ["-"] * len(heads)
        print("| " + " | ".join(cells) + " |", flush=True)


def summary(rows: list[dict]):
    """The smallest ratio of each kind of peer: above 1, ours is faster everywhere."""
    print("\nPeers against ours, least ratio over all shapes:")
    for mode in ("forward", "with gradient"):
        for kind in ("pallas", "(a)", "(b)", "(c)"):
            found = [
                row
                for row in rows
                if row["mode"] == mode and row["version"].startswith(kind)
            ]
            if found:
                row = min(found, key=lambda row: row["times_ours"])
                B, H, W, C = row["shape"]
                print(
                    f"  {mode}, {row['version']}: {row['times_ours']:.2f} "
                    f"({B}x{H}x{W}x{C} {row['dtype']})"
                )


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def main(argv=None):
    has_torch = importlib.util.find_spec("torch") is not None
    on_gpu = jax.default_backend() == "gpu"
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batches", type=numbers, default=[1, 8, 64])
    parser.add_argument("--sizes", type=numbers, default=[16, 32])
    parser.add_argument("--dtypes", type=lambda text: text.split(","), default=None)
    parser.add_argument("--channels", type=numbers, default=[32, 64, 128])
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--moment", type=float, default=0.05, help="seconds a turn")
    parser.add_argument("--slow", type=float, default=1.0, help="seconds")
    parser.add_argument("--limit", type=float, default=4.0, help="seconds")
    parser.add_argument(
        "--torch", action=argparse.BooleanOptionalAction, default=has_torch
    )
    parser.add_argument(
        "--compiled",
        action=argparse.BooleanOptionalAction,
        default=on_gpu,
        help="the closed form by torch.compile as well (minutes on a CPU)",
    )
    parser.add_argument("--json", help="file for all figures")
    args = parser.parse_args(argv)

    rows = []
    for dtype in args.dtypes or ["float32", "bfloat16"]:
        for size in args.sizes:
            for B in args.batches:
                found = benchmark(B, size, dtype, rows, args)
                show(found)
                rows += found
                if args.json:  # what was measured stays where a later one is stopped
                    write(args, rows)
    summary(rows)


def write(args, rows: list[dict]):
    about = {
        "device": jax.local_devices()[0].device_kind,
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "torch": version("torch") if args.torch else None,
        "auto": pooling.chosen("auto"),
    }
    with open(args.json, "w") as file:
        json.dump({"about": about, "rows": rows}, file, indent=1)


if __name__ == "__main__":
    main()

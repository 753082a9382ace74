r"""Seconds per training step, beside the same network in PyTorch.

python -m benchmarks.train                          # sdfl, batch 2 at 512x512, float32
python -m benchmarks.train --batches=8,16,32,64 --precisions=float32,bfloat16  # a GPU
python -m benchmarks.train --network=demo  # batch 8 at 128x128; has no peer

One step is forward, backward and AdamW on one random batch that stays in memory. Each
side runs in a process of its own, and the sides take turns, so that all meet the same
disturbances, or with --alone one after the other, so that none waits in memory while
another computes. Without PyTorch only our own side runs. PyTorch runs eagerly in
float32, as the reference does, and, on a GPU or with --torch_compile, compiled with
channels last and mixed precision where a smaller precision is asked for.

Peak memory is the device's on a GPU and the process's on a CPU; the CPU's seconds,
summed over cores, tell more than the clock where others use the machine. The share of
the peak is what the network's products need (6 operations per multiply-add of the
forward pass: 0.96 TFLOP per image of sdfl at 512x512) over what one large matrix
product reached in the same process and precision.
"""

import argparse
import functools
import importlib
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import time
from importlib.metadata import version

import numpy as np

from sdfl_jax.devices import memory

# Two processes share a GPU's memory here; ours would take most of it at once.
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")

CONFIGS = {
    "sdfl": "sdfl_jax.configs.sdfl",
    "demo": "configs.demo",
    "starter": "configs.starter",
}
SIZES = {"sdfl": (2, 512), "demo": (8, 128), "starter": (8, 192)}  # batch, side
# Multiply-adds of the forward pass per pixel of the input: 159.4 G at 512x512.
MACS_PER_PIXEL = {"sdfl": 159.4e9 / 512**2}


def random_batch(size: int, image_size: int) -> dict:
    """What the pipeline delivers, with noise for images and masks."""
    rng = np.random.default_rng(0)
    shape = (size, image_size, image_size)
    return {
        "image": rng.integers(0, 256, (*shape, 3), dtype=np.uint8),
        "mask": rng.integers(0, 2, (*shape, 1), dtype=np.uint8) * 255,
        "label": np.ones(size, np.float32),
        "has_mask": np.ones(size, np.float32),
    }


def lowered_step(network: str, batch: dict, precision: str, **fields):
    """The project's own train step, ready to be compiled; its state and batch.

    `fields`: more of the config's.
    """
    from sdfl_jax.config import check
    from sdfl_jax.devices import sharding
    from sdfl_jax.training import experiment

    memory.keep_steps()  # as `sdfl_jax.main` does

    config = importlib.import_module(CONFIGS[network]).get_config()
    config.batch_size, config.image_size = batch["image"].shape[:2]
    config.precision = precision
    config.update(fields)
    for part in config.init_encoders:
        config.init_encoders[part] = ""  # the weights' values do not matter here
    config = check(config)
    built = experiment.build(config, total_steps=1000)
    state = built.state(experiment.first_variables(config, built.model))
    batch = sharding.to_global(batch, built.mesh)
    return built.train_step.lower(state, batch), state, batch


def our_step(network: str, batch: dict, precision: str, **fields):
    """The project's own train step; what it took to compile and what it reaches."""
    import jax
    import jax.numpy as jnp

    from sdfl_jax.steps import DTYPES

    lowered, state, batch = lowered_step(network, batch, precision, **fields)
    start = time.perf_counter()
    train_step = lowered.compile()
    about = {"compile": time.perf_counter() - start}

    side = product_side(jax.default_backend() == "gpu")
    matrix = jnp.ones((side, side), DTYPES[precision])
    product = jax.jit(jnp.dot)
    about["peak"] = product_rate(
        side, lambda: product(matrix, matrix).block_until_ready()
    )

    def step():
        nonlocal state
        state, scalars = train_step(state, batch)
        return float(scalars["loss"])

    def memory():
        stats = jax.local_devices()[0].memory_stats()
        return stats["peak_bytes_in_use"] if stats else process_memory()

    return step, memory, about


def peer_step(network: str, batch: dict, precision: str, compiled: bool):
    """The same step of `torch_sdfl`: eager in float32, or compiled in `precision`."""
    import torch

    from benchmarks.torch_sdfl import Sdfl, loss

    device = "cuda" if torch.cuda.is_available() else "cpu"
    layout = torch.channels_last if compiled else torch.contiguous_format
    dtype = getattr(torch, precision if compiled else "float32")
    model = Sdfl().train().to(device, memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-2)
    image, mask = (
        (torch.tensor(batch[name]).permute(0, 3, 1, 2).contiguous() / 255).to(
            device, memory_format=layout
        )
        for name in ("image", "mask")
    )
    label = torch.tensor(batch["label"]).to(device)
    scaler = torch.amp.GradScaler(device, enabled=dtype == torch.float16)
    forward = torch.compile(model) if compiled else model

    def step():
        optimizer.zero_grad()
        with torch.autocast(device, dtype, enabled=dtype != torch.float32):
            outputs = forward(image)
        total = loss(*(x.float() for x in outputs), mask, label)
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        return total.item()

    start = time.perf_counter()
    step()
    about = {"compile": time.perf_counter() - start if compiled else None}
    side = product_side(device == "cuda")
    matrix = torch.ones(side, side, device=device, dtype=dtype)
    about["peak"] = product_rate(side, lambda: (matrix @ matrix)[0, 0].item())

    def memory():
        on_gpu = device == "cuda"
        return torch.cuda.max_memory_allocated() if on_gpu else process_memory()

    return step, memory, about


def product_side(gpu: bool) -> int:
    """Of a matrix whose product takes long enough to time."""
    return 8192 if gpu else 2048


def product_rate(side: int, multiply) -> float:
    """Operations a second of a product of square matrices, the best of ten."""
    seconds = []
    for _ in range(11):
        start = time.perf_counter()
        multiply()
        seconds.append(time.perf_counter() - start)
    return 2 * side**3 / min(seconds[1:])


def process_memory() -> int:
    """The peak of this process in bytes; kilobytes are what Linux counts in."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def worker(pipe, make_step, *arguments):
    """Answers each message with one step's seconds, by the clock and of the CPU."""
    step, memory, about = make_step(*arguments)
    step()  # the first one also fills caches and allocators
    pipe.send(about)
    while pipe.recv() == "step":
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        cpu_seconds = time.process_time() - cpu_start
        pipe.send((time.perf_counter() - start, cpu_seconds))
    pipe.send(memory() / 2**30)


class Stopped(Exception):
    """A side ended before it had answered."""


def answer(name: str, pipe):
    """The worker's next message."""
    try:
        return pipe.recv()
    except EOFError:
        raise Stopped(
            f"{name} stopped; without a traceback above, for want of memory "
            "(a step of sdfl at 512x512 takes 7 GiB here and 6 GiB in PyTorch)."
        ) from None


def measure(sides: dict, steps: int, *arguments) -> dict:
    """Runs `steps` steps of every side in turn; times in seconds, memory in GiB."""
    context = multiprocessing.get_context("spawn")
    pipes, results = {}, {}
    for name, make_step in sides.items():
        pipes[name], end = context.Pipe()
        args = (end, make_step, *arguments)
        context.Process(target=worker, args=args, daemon=True).start()
        end.close()
        results[name] = answer(name, pipes[name]) | {"steps": [], "cpu": []}
    for _ in range(steps):
        for name, pipe in pipes.items():
            pipe.send("step")
            seconds, cpu_seconds = answer(name, pipe)
            results[name]["steps"].append(seconds)
            results[name]["cpu"].append(cpu_seconds)
    for name, pipe in pipes.items():
        pipe.send("end")
        results[name]["peak_memory"] = answer(name, pipe)
        results[name]["median"] = statistics.median(results[name]["steps"])
    return results


def compare(args, size: int, precision: str) -> dict:
    """Measures and prints one batch size in one precision."""
    fields = {"remat": args.remat, "accumulate_steps": args.accumulate}
    sides = {"sdfl_jax": functools.partial(our_step, **fields)}
    if args.network in MACS_PER_PIXEL and importlib.util.find_spec("torch"):
        import torch

        if precision == "float32":
            sides["torch"] = functools.partial(peer_step, compiled=False)
        if args.torch_compile or torch.cuda.is_available():
            sides["compiled torch"] = functools.partial(peer_step, compiled=True)
    batch = random_batch(size, args.image_size)
    together = [{name: side} for name, side in sides.items()] if args.alone else [sides]
    results = {}
    for some in together:
        results |= measure(some, args.steps, args.network, batch, precision)

    print(
        f"\n{args.network}, batch {size}, {args.image_size}x{args.image_size}, ", end=""
    )
    more = ", remat" * args.remat
    if args.accumulate > 1:
        more += f", batches in {args.accumulate} parts"
    print(f"{precision}, {args.steps} steps{more}")
    columns = ("median s", "images/s", "of peak", "CPU s", "compile s", "peak GiB")
    print(" " * 14 + "".join(f"{column:>11}" for column in columns))
    operations = 6 * MACS_PER_PIXEL.get(args.network, 0) * args.image_size**2 * size
    for name, result in results.items():
        result["share_of_peak"] = operations / result["median"] / result["peak"] or None
        share, compiled = result["share_of_peak"], result["compile"]
        print(
            f"{name:14}{result['median']:11.3f}{size / result['median']:11.2f}"
            f"{f'{share:.0%}' if share else '-':>11}"
            f"{statistics.median(result['cpu']):11.2f}"
            f"{f'{compiled:.1f}' if compiled else '-':>11}{result['peak_memory']:11.1f}"
        )
    ratios = {}
    for name in sides.keys() - {"sdfl_jax"}:
        turns = zip(results["sdfl_jax"]["steps"], results[name]["steps"], strict=True)
        ratios[name] = sorted(ours / peer for ours, peer in turns)
        least, most = ratios[name][0], ratios[name][-1]
        print(
            f"Ours takes {statistics.median(ratios[name]):.2f} times as long as {name} "
            f"({'steps' if args.alone else 'turns'}: {least:.2f} to {most:.2f})."
        )
    return {
        "batch": size,
        "precision": precision,
        "results": results,
        "ratios": {name: statistics.median(turns) for name, turns in ratios.items()},
    }


def main():
    numbers = lambda text: [int(number) for number in text.split(",")]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=CONFIGS, default="sdfl")
    parser.add_argument("--batches", type=numbers, help="2 for sdfl, 8 for demo")
    parser.add_argument("--image_size", type=int, help="512 for sdfl, 128 for demo")
    parser.add_argument(
        "--precisions",
        type=lambda text: text.split(","),
        default=["float32"],
        help="float32,bfloat16,float16",
    )
    parser.add_argument("--remat", action="store_true", help="see config.remat")
    parser.add_argument(
        "--accumulate", type=int, default=1, help="see config.accumulate_steps"
    )
    parser.add_argument("--torch_compile", action="store_true", help="on a CPU as well")
    parser.add_argument("--alone", action="store_true", help="not in turns")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    size, image_size = SIZES[args.network]
    args.image_size = args.image_size or image_size
    if args.network not in MACS_PER_PIXEL:
        print("No peer for this network.")
    elif importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: no peer to compare with.")
    tables = []
    for precision in args.precisions:
        for batch in args.batches or [size]:
            try:
                tables.append(compare(args, batch, precision))
            except Stopped as error:
                print(f"Batch {batch}, {precision}: {error}")
                continue
            if args.json:  # what was measured stays where a later one is stopped
                write(args, tables)
    if not tables:
        raise SystemExit(1)


def write(args, tables: list[dict]):
    figures = {
        "network": args.network,
        "image_size": args.image_size,
        "remat": args.remat,
        "accumulate_steps": args.accumulate,
        "machine": platform.processor() or platform.machine(),
        "jax": version("jax"),
        "tables": tables,
    }
    if importlib.util.find_spec("torch"):
        figures["torch"] = version("torch")
    with open(args.json, "w") as file:
        json.dump(figures, file, indent=2)


if __name__ == "__main__":
    memory.restart()  # as `sdfl_jax.main` does, here for every side
    main()

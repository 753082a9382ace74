r"""Seconds per training step, beside the same network in PyTorch.

python -m benchmarks.train --batch=2 --image_size=512
python -m benchmarks.train --network=demo  # batch 8 at 128x128; has no peer

One step is forward, backward and AdamW on one random batch that stays in memory. Each
side runs in a process of its own, and the two take turns, so that both meet the same
disturbances. Without PyTorch only our own side runs. Peak memory is the process's; the
CPU's seconds, summed over cores, tell more than the clock where others use the machine.
"""

import argparse
import importlib.util
import json
import multiprocessing
import platform
import resource
import statistics
import time
from importlib.metadata import version

import numpy as np

CONFIGS = {"sdfl": "configs.sdfl", "demo": "configs.demo"}


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


def our_step(network: str, batch: dict):
    """The project's own train step; returns it with the seconds it took to compile."""
    import jax

    from sdfl_jax import models, optim, sharding
    from sdfl_jax.state import init_state, init_variables
    from sdfl_jax.steps import make_train_step

    config = importlib.import_module(CONFIGS[network]).get_config()
    mesh = sharding.data_mesh()
    model = models.build(**config.model)
    tx = optim.make_optimizer(config.optimizer, config.schedule, 1000)
    size = batch["image"].shape[1]
    variables = jax.jit(lambda rng: init_variables(model, size, rng))(jax.random.key(0))
    state = jax.device_put(init_state(variables, tx), sharding.everywhere(mesh))
    batch = sharding.to_global(batch, mesh)
    settings = {
        "weights": config.loss_weights.to_dict(),
        "mask_losses": tuple(config.mask_losses),
        "dice": config.dice,
    }
    start = time.perf_counter()
    train_step = make_train_step(model, tx, mesh, **settings)
    train_step = train_step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - start

    def step():
        nonlocal state
        state, scalars = train_step(state, batch)
        return float(scalars["loss"])

    return step, compile_seconds


def peer_step(network: str, batch: dict):
    """The same step of `torch_sdfl`, eager as the reference runs it."""
    import torch

    from benchmarks.torch_sdfl import Sdfl, loss

    model = Sdfl().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=1e-2)
    image = torch.tensor(batch["image"]).permute(0, 3, 1, 2).contiguous() / 255
    mask = torch.tensor(batch["mask"]).permute(0, 3, 1, 2).contiguous() / 255
    label = torch.tensor(batch["label"])

    def step():
        optimizer.zero_grad()
        total = loss(*model(image), mask, label)
        total.backward()
        optimizer.step()
        return total.item()

    return step, None


def worker(pipe, make_step, network: str, batch: dict):
    """Answers each message with one step's seconds, by the clock and of the CPU."""
    step, compile_seconds = make_step(network, batch)
    step()  # the first one also fills caches and allocators
    pipe.send(compile_seconds)
    while pipe.recv() == "step":
        start, cpu_start = time.perf_counter(), time.process_time()
        step()
        cpu_seconds = time.process_time() - cpu_start
        pipe.send((time.perf_counter() - start, cpu_seconds))
    # kilobytes on Linux
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)


def answer(name: str, pipe):
    """The worker's next message; a worker that is gone ends the benchmark."""
    try:
        return pipe.recv()
    except EOFError:
        raise SystemExit(
            f"Error: {name} stopped; without a traceback above, for want of memory "
            "(a step of sdfl at 512x512 takes 11 GiB here and 6 GiB in PyTorch)."
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
        results[name] = {"compile": answer(name, pipes[name]), "steps": [], "cpu": []}
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", choices=CONFIGS, default="sdfl")
    parser.add_argument("--batch", type=int, help="2 for sdfl, 8 for demo")
    parser.add_argument("--image_size", type=int, help="512 for sdfl, 128 for demo")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    size, image_size = {"sdfl": (2, 512), "demo": (8, 128)}[args.network]
    size, image_size = args.batch or size, args.image_size or image_size

    sides = {"sdfl_jax": our_step}
    if args.network != "sdfl":
        print("No peer for this network.")
    elif importlib.util.find_spec("torch") is None:
        print("PyTorch is not installed: no peer to compare with.")
    else:
        sides["torch"] = peer_step
    results = measure(sides, args.steps, args.network, random_batch(size, image_size))

    print(
        f"{args.network}, batch {size}, {image_size}x{image_size}, {args.steps} steps"
    )
    columns = ("median s", "least s", "CPU s", "compile s", "peak GiB")
    print(" " * 10 + "".join(f"{column:>11}" for column in columns))
    for name, result in results.items():
        compiled = f"{result['compile']:.1f}" if result["compile"] else "-"
        print(
            f"{name:10}{result['median']:11.2f}{min(result['steps']):11.2f}"
            f"{statistics.median(result['cpu']):11.2f}"
            f"{compiled:>11}{result['peak_memory']:11.1f}"
        )
    figures = {
        "network": args.network,
        "batch": size,
        "image_size": image_size,
        "machine": platform.processor() or platform.machine(),
        "jax": version("jax"),
        "results": results,
    }
    if "torch" in results:
        turns = zip(*(result["steps"] for result in results.values()), strict=True)
        ratios = [ours / peer for ours, peer in turns]
        figures |= {"torch": version("torch"), "ratio": statistics.median(ratios)}
        print(
            f"Ours takes {figures['ratio']:.2f} times as long as PyTorch "
            f"{figures['torch']} (turns: {min(ratios):.2f} to {max(ratios):.2f})."
        )
    if args.json:
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()

r"""Every network and encoder: parameters, work, memory and speed, beside PyTorch's.

python -m benchmarks.networks --plot=networks.png --json=networks.json
python -m benchmarks.networks --networks=unet,xception --image_size=256 --batch=2
python -m benchmarks.networks --quality --train=demo/shards/train --val=demo/shards/val

An encoder is measured as an image-level network of two classes, whose counterparts
torchvision, timm and transformers have, with random weights. A training step is
forward, backward and AdamW on a random batch that stays in memory; work is what the
compiler counts for the forward pass, two operations a multiply-add; memory is what it
plans for a training step. Each side runs in a process of its own, and the two take
turns. On a GPU both compute in `--dtype`, and PyTorch compiled and with channels last.

`--quality` trains each encoder from fresh weights under the decoder of
`configs/demo.py`, the same number of steps on the same shards, and sets pixel F1 on
the validation data against parameters.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version

from benchmarks.train import answer, random_batch

NETWORKS = {
    name: {"name": name} for name in ("sdfl", "upernet", "mvssnet", "unet", "simplenet")
}
ENCODERS = (
    "convnext_tiny",
    "densenet121",
    "efficientnet_lite0",
    "resnet18",
    "resnet50",
    "resnet50_deep",
    "resnet101",
    "xception",
    "mit_b2",
    "vit_small_patch14_dinov2",
    "vit_small_patch16_dinov3",
)
NETWORKS |= {name: {"name": "classifier", "encoder": name} for name in ENCODERS}
NETWORKS["xception"] = {"name": "xception"}  # with the study's head
FIELD = ("segformer", "vit_lora", "catnet", "mesorch")
NETWORKS |= {name: {"name": name} for name in FIELD}
NETWORKS["trufor"] = {"name": "trufor", "phase": 2}  # which trains its encoder


def filled(shapes: dict) -> dict:
    """Weights of the usual size, without compiling a network's own initialisation."""
    import jax
    import numpy as np

    rng = np.random.default_rng(0)

    def fill(leaf):
        if len(leaf.shape) < 2:
            return np.ones(leaf.shape, np.float32)
        scale = np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return np.float32(scale) * rng.standard_normal(leaf.shape, np.float32)

    return jax.tree.map(fill, shapes)


def our_sides(name: str, batch: dict, dtype: str) -> tuple:
    """A training step and a forward pass to call, and what the compiler says."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from sdfl_jax import models, optim
    from sdfl_jax.config import check, of_network
    from sdfl_jax.devices import sharding
    from sdfl_jax.state import init_state
    from sdfl_jax.steps import make_train_step

    size, side = batch["image"].shape[:2]
    settings = NETWORKS[name] | {"dtype": dtype}
    model = models.build(
        **settings, **({"image_size": side} if name == "simplenet" else {})
    )
    config = of_network(NETWORKS[name]["name"])
    config.total_steps, config.schedule.name = 1000, "constant"
    config = check(config)
    tx = optim.make_optimizer(
        config.optimizer.to_dict(),
        config.schedule.to_dict(),
        config.total_steps,
        freeze=tuple(config.freeze),
    )
    mesh = sharding.data_mesh()
    variables = filled(
        jax.eval_shape(lambda: models.init_variables(model, side, jax.random.key(0)))
    )
    state = jax.device_put(init_state(variables, tx), sharding.everywhere(mesh))
    rng = np.random.default_rng(0)
    for key, blank in models.blank_inputs(model, side, size).items():
        if key != "image":  # a JPEG's coefficients and table
            batch[key] = rng.integers(0, 9, blank.shape).astype(blank.dtype)
    inputs = jax.device_put({"image": batch["image"]} | models.inputs_of(batch))
    batch = sharding.to_global(batch, mesh)
    weights = {"mask": 0.16, "label": 0.04, "edge": 0.8 * (name == "mvssnet")}

    start = time.perf_counter()
    freeze = tuple(config.freeze)
    train_step = make_train_step(model, tx, mesh, freeze=freeze, weights=weights)
    train_step = train_step.lower(state, batch).compile()
    compile_seconds = time.perf_counter() - start

    def forward(variables, inputs):
        image = inputs["image"].astype(jnp.float32) / 255
        outputs = model.apply(variables, image, **models.inputs_of(inputs), train=False)
        return outputs.image_score(), outputs.mask_logits

    predict = jax.jit(forward).lower(variables, inputs).compile()
    memory = train_step.memory_analysis()
    about = {
        "parameters": sum(x.size for x in jax.tree.leaves(variables["params"])),
        "gmac": predict.cost_analysis()["flops"] / 2 / size / 1e9,
        "gib": (memory.temp_size_in_bytes + memory.argument_size_in_bytes) / 2**30,
        "compile": compile_seconds,
        "device": jax.devices()[0].device_kind,
    }

    def train():
        nonlocal state
        state, scalars = train_step(state, batch)
        np.asarray(scalars["loss"])

    def infer():
        jax.block_until_ready(predict(state.variables, inputs))

    return {"train": train, "infer": infer}, about


def peer_sides(name: str, batch: dict, dtype: str) -> tuple:
    """The same in PyTorch: eager on a CPU, compiled on a GPU."""
    import torch

    from benchmarks.torch_networks import PEERS, loss

    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    layout = torch.channels_last if gpu else torch.contiguous_format
    network = PEERS[name](batch["image"].shape[1]).to(device, memory_format=layout)
    count = sum(p.numel() for p in network.parameters())
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, weight_decay=1e-2)
    forward = torch.compile(network) if gpu else network

    def planes(array):
        array = torch.tensor(array).permute(0, 3, 1, 2).to(device)
        return (array / 255).contiguous(memory_format=layout)

    image, mask = planes(batch["image"]), planes(batch["mask"])
    label = torch.tensor(batch["label"]).to(device)
    inputs = [image]
    if hasattr(network, "random_inputs"):
        inputs += [
            x.to(device) for x in network.random_inputs(*batch["image"].shape[:2])
        ]
    autocast = torch.autocast(
        device.type, dtype=getattr(torch, dtype), enabled=dtype != "float32"
    )
    scaler = torch.amp.GradScaler(device.type, enabled=dtype == "float16")

    def train():
        network.train()
        optimizer.zero_grad()
        with autocast:
            outputs = forward(*inputs)
        outputs = [None if x is None else x.float() for x in outputs]
        total = loss(*outputs, mask, label)
        scaler.scale(total).backward()
        scaler.step(optimizer)
        scaler.update()
        total.item()

    @torch.no_grad()
    def infer():
        network.eval()
        with autocast:
            forward(*inputs)[1].cpu()

    return {"train": train, "infer": infer}, {"parameters": count}


SIDES = {"sdfl_jax": our_sides, "torch": peer_sides}


def worker(pipe, side: str, *arguments):
    """Answers "train" and "infer" with the seconds of one, by the clock and the CPU."""
    calls, about = SIDES[side](*arguments)
    for call in calls.values():
        call()  # the first one also fills caches and allocators
    pipe.send(about)
    while (kind := pipe.recv()) in calls:
        start, cpu_start = time.perf_counter(), time.process_time()
        calls[kind]()
        cpu_seconds = time.process_time() - cpu_start
        pipe.send((time.perf_counter() - start, cpu_seconds))
    # kilobytes on Linux
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2)


def measure(name: str, peers: dict, turns: int, batch: dict, dtype: str) -> dict:
    """What each side says of itself, and its turns' seconds."""
    context = multiprocessing.get_context("spawn")
    sides = ["sdfl_jax", "torch"] if peers.get(name) else ["sdfl_jax"]
    pipes, workers, results = {}, [], {}
    for side in sides:
        pipes[side], end = context.Pipe()
        arguments = (end, side, name, batch, dtype)
        workers.append(context.Process(target=worker, args=arguments, daemon=True))
        workers[-1].start()
        end.close()
        about = answer(f"{name} ({side})", pipes[side])
        kinds = ("train", "infer", "train_cpu", "infer_cpu")
        results[side] = about | {kind: [] for kind in kinds}
    for kind in ("train", "infer"):
        for _ in range(turns):
            for side, pipe in pipes.items():
                pipe.send(kind)
                seconds, cpu_seconds = answer(f"{name} ({side})", pipe)
                results[side][kind].append(seconds)
                results[side][f"{kind}_cpu"].append(cpu_seconds)
    for side, pipe in pipes.items():
        pipe.send("end")
        results[side]["resident_gib"] = answer(f"{name} ({side})", pipe)
    for process in workers:
        process.join()
    return results


def ratio(results: dict, kind: str) -> float | None:
    """How many times PyTorch's speed ours is: the median over turns."""
    if "torch" not in results:
        return None
    turns = zip(results["torch"][kind], results["sdfl_jax"][kind], strict=True)
    return statistics.median(peer / ours for peer, ours in turns)


def row(name: str, results: dict, size: int) -> dict:
    """The table's figures of one network; speeds in images a second."""
    ours = results["sdfl_jax"]
    return {
        "network": name,
        "M parameters": ours["parameters"] / 1e6,
        "GMAC": ours["gmac"],
        "GiB": ours["gib"],
        "compile s": ours["compile"],
        "train/s": size / statistics.median(ours["train"]),
        "x PyTorch": ratio(results, "train"),
        "x in CPU s": ratio(results, "train_cpu"),
        "infer/s": size / statistics.median(ours["infer"]),
        "x PyTorch ": ratio(results, "infer"),
        "torch M": results.get("torch", {}).get("parameters", 0) / 1e6 or None,
    }


def printed(values) -> str:
    """One line of the table: the name, then numbers."""
    name, *others = values
    cells = [
        f"{'-' if x is None else x if isinstance(x, str) else format(x, '.2f'):>13}"
        for x in others
    ]
    return f"{name:20}" + "".join(cells)


def available_peers() -> dict:
    """Whether PyTorch and what a network's counterpart needs are installed."""
    has = lambda package: importlib.util.find_spec(package) is not None
    if not has("torch"):
        print("PyTorch is not installed: no peers to compare with.")
        return {}
    from benchmarks.torch_networks import PEERS

    of_timm = ("xception", "efficientnet_lite0", "vit_lora", "mesorch")
    needs = dict.fromkeys(of_timm, "timm")
    needs |= {name: "timm" for name in ENCODERS if name.startswith("vit_")}
    needs |= {name: "transformers" for name in ("mit_b2", "segformer")}
    needs |= {name: "torchvision" for name in ENCODERS if name not in needs}
    needs["resnet50_deep"] = "torch"
    return {name: has(needs.get(name, "torch")) for name in PEERS}


def plot(path: str, rows: list[dict], title: str):
    """Images a second in training and in inference against the work for one."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 5), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, kind, times in zip(
        panels, ("train/s", "infer/s"), ("x PyTorch", "x PyTorch "), strict=True
    ):
        for entry in rows:
            x, y = entry["GMAC"], entry[kind]
            axes.scatter(x, y, s=8 * entry["M parameters"] + 10, color="C0", alpha=0.6)
            axes.annotate(entry["network"], (x, y), fontsize=8)
            if entry[times]:
                axes.plot([x, x], [y, y / entry[times]], "_-", color="C1", lw=1)
        axes.set(xscale="log", yscale="log", xlabel="GMAC per image")
        axes.set_ylabel("images/s in " + {"t": "training", "i": "inference"}[kind[0]])
        axes.grid(alpha=0.3)
    figure.suptitle(f"{title}; area: parameters, orange: PyTorch", fontsize=10)
    figure.savefig(path, dpi=120)


def quality(encoders: list[str], args) -> list[dict]:
    """Pixel F1 of each encoder under the demo's decoder after the same steps."""
    import jax
    import jax.numpy as jnp

    from sdfl_jax import models

    rows = []
    print(printed(["encoder", "M parameters", "pixel F1", "minutes"]))
    for name in encoders:
        with tempfile.TemporaryDirectory() as workdir:
            command = [
                *(sys.executable, "-m", "sdfl_jax.main", "--config=configs/demo.py"),
                f"--workdir={workdir}",
                f"--config.model.encoder={name}",
                "--config.model.freeze_encoder_bn=False",
                "--config.init_encoders.encoder=",
                f"--config.data.train={args.train}",
                f"--config.data.val={args.val}",
                f"--config.total_steps={args.steps}",
                f"--config.validate_every={args.steps}",
                f"--config.save_every={args.steps}",
            ]
            start = time.perf_counter()
            if subprocess.run(command, stdout=subprocess.DEVNULL).returncode:
                raise SystemExit(f"Error: the training with {name} failed: see above.")
            minutes = (time.perf_counter() - start) / 60
            lines = pathlib.Path(workdir, "metrics.jsonl").read_text().splitlines()
        found = {key: x for line in lines for key, x in json.loads(line).items()}
        encoder = models.ENCODERS[name]()
        shapes = jax.eval_shape(
            lambda encoder=encoder: encoder.init(
                jax.random.key(0), jnp.zeros((1, 64, 64, 3)), train=False
            )
        )
        entry = {
            "encoder": name,
            "M parameters": sum(x.size for x in jax.tree.leaves(shapes["params"]))
            / 1e6,
            "pixel F1": found["val/pixel_f1_manipulated"],
            "minutes": minutes,
        }
        rows.append(entry)
        print(printed(entry.values()), flush=True)
    return rows


def plot_quality(path: str, rows: list[dict], title: str):
    """Pixel F1 against parameters."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for entry in rows:
        place = entry["M parameters"], entry["pixel F1"]
        axes.scatter(*place, color="C0")
        axes.annotate(entry["encoder"], place, fontsize=8)
    axes.set(xscale="log", xlabel="million parameters", ylabel="pixel F1", title=title)
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", help="comma-separated; all by default")
    parser.add_argument("--image_size", type=int, default=128)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16", "float16"), default="float32"
    )
    parser.add_argument("--quality", action="store_true")
    parser.add_argument("--train", help="for --quality: a folder of shards")
    parser.add_argument("--val", help="for --quality: a folder of shards")
    parser.add_argument("--steps", type=int, default=100, help="for --quality")
    parser.add_argument("--plot", help="picture to draw")
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()
    known = ENCODERS if args.quality else NETWORKS
    names = args.networks.split(",") if args.networks else list(known)
    for name in names:
        if name not in known:
            parser.error(f"--networks: no {name!r}; there are {', '.join(known)}.")

    if args.quality:
        if not (args.train and args.val):
            parser.error("--quality needs --train and --val, folders of shards.")
        rows = quality(names, args)
        if args.plot:
            plot_quality(args.plot, rows, f"{args.steps} steps on {args.train}")
        figures = {"steps": args.steps, "train": args.train, "val": args.val}
    else:
        # Waiting threads that spin would take the other side's turn.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        title = f"batch {args.batch}, {args.image_size}x{args.image_size}, {args.dtype}"
        batch = random_batch(args.batch, args.image_size)
        peers, rows, raw = available_peers(), [], {}
        for name in names:
            raw[name] = measure(name, peers, args.turns, batch, args.dtype)
            rows.append(row(name, raw[name], args.batch))
            if len(rows) == 1:
                title += f", {raw[name]['sdfl_jax']['device']}"
                print(title)
                print(printed(rows[0]))
            print(printed(rows[-1].values()), flush=True)
        if args.plot:
            plot(args.plot, rows, title)
        figures = {"setting": title, "raw": raw}
    if args.json:
        packages = ("jax", "torch", "torchvision", "timm")
        installed = [p for p in packages if importlib.util.find_spec(p)]
        figures |= {"rows": rows, "versions": {p: version(p) for p in installed}}
        pathlib.Path(args.json).write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()

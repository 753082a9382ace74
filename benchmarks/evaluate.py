r"""Images per second of evaluation: the network alone, everything else, end to end.

python -m benchmarks.evaluate                                # the demo's network
python -m benchmarks.evaluate --network=sdfl --image_size=512 --images=16

Weights are drawn, images are made-up photographs (JPEG), every other one with a mask.
"network" is the compiled step on batches that lie ready; "host" is everything else with
a step that answers at once: reading and decoding, joining maps, counting pixels,
writing masks; "end to end" is both, as `python -m sdfl_jax.evaluate` runs them. They
take turns. "report" is what comes once at the end: figures, intervals, page.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import jax
import numpy as np

from benchmarks.input import made_up_photographs
from sdfl_jax import models, report
from sdfl_jax.checkpoints.checkpoint import Trained
from sdfl_jax.config import check
from sdfl_jax.data import eval_sources
from sdfl_jax.data.build.builder import build
from sdfl_jax.data.forge.regions import random_region
from sdfl_jax.data.setup import setup
from sdfl_jax.evaluate import scorers, scoring
from sdfl_jax.evaluate.options import Options
from sdfl_jax.evaluate.writer import Writer
from sdfl_jax.files import write_json

GOAL = 0.2  # of the network's time that all else may add, on a CPU
PHOTOGRAPHS = 32  # that are made up; more images repeat them


def write_shards(work: Path, images: int, image_size: int) -> str:
    """JPEG files of `image_size`, as they are, in a folder of shards."""
    rng = np.random.default_rng(0)
    photos = made_up_photographs(work / "photos", min(images, PHOTOGRAPHS))
    lines = ["image,mask,label"]
    for number in range(images):
        photo = cv2.imread(str(photos[number % len(photos)]))
        image = cv2.resize(photo, (image_size, image_size))
        cv2.imwrite(str(work / f"{number}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])
        mask = ""
        if number % 2:
            mask = f"{number}_mask.png"
            cv2.imwrite(str(work / mask), random_region(image_size, image_size, rng)[0])
        lines.append(f"{number}.jpg,{mask},{number % 2}")
    (work / "list.csv").write_text("\n".join(lines) + "\n")
    build(work / "list.csv", work / "shards", progress=False)
    return str(work / "shards")


def drawn_network(network: str, image_size: int) -> Trained:
    """A network of a config with weights as they are drawn."""
    if network == "demo":
        from sdfl_jax.configs.demo import get_config
    else:
        from sdfl_jax.configs.sdfl import get_config
    config = get_config()
    config.image_size = image_size
    config = check(config)
    model = models.build(**config.model)
    variables = jax.jit(lambda rng: models.init_variables(model, image_size, rng))(
        jax.random.key(0, impl="rbg")
    )
    return Trained(config, model, variables, step=0, progress={})


class Answered:
    """A scorer whose network answers at once, with what it once answered."""

    def __init__(self, network: scorers.Network, sets):
        self.batches = network.batches
        self.variables = network.variables
        self.calibrated = None
        batch = next(iter(ready_batches(network, sets)))
        self._answer = jax.tree.map(np.asarray, network.step(self.variables, batch))

    def step(self, variables, arrays):
        return self._answer


def ready_batches(network: scorers.Network, sets) -> list[dict]:
    prepared = eval_sources.Prepared(sets[0].source)
    return [b.arrays for b in network.batches(prepared, "set", keep_images=False)]


def forward(network, batches: list[dict]):
    """The network over all batches; the next one is sent while one is computed."""
    pending = None
    for arrays in batches:
        outputs = network.step(network.variables, arrays)
        if pending is not None:
            jax.block_until_ready(pending)
        pending = outputs
    jax.block_until_ready(pending)


def whole(scorer, sets, options: Options) -> Writer:
    """What evaluation does with every image; its writer, for the report."""
    with tempfile.TemporaryDirectory() as folder:
        with Writer(Path(folder), sets, options.threshold, 0, 1) as writer:
            evaluation, _ = scoring.score(scorer, sets, options, writer=writer)
    return evaluation, writer


def finish(evaluation, writer: Writer):
    """Figures and report."""
    with tempfile.TemporaryDirectory() as folder:
        setting = {"version": "", "config": {}}
        scores = evaluation.scores() | {"setting": setting, "data": []}
        write_json(Path(folder) / "metrics.json", scores)
        evaluation.save(folder)
        report.write_report(folder, gallery=writer.gallery)


def seconds(function, *arguments) -> tuple[float, float]:
    """Wall and CPU seconds of this process."""
    wall, cpu = time.perf_counter(), time.process_time()
    function(*arguments)
    return time.perf_counter() - wall, time.process_time() - cpu


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--network", choices=("demo", "sdfl"), default="demo")
    add("--image_size", type=int, default=0, help="default: the network's own")
    add("--images", type=int, default=256)
    add("--batch", type=int, default=8)
    add("--turns", type=int, default=5)
    add("--json", help="file to write the figures to")
    args = parser.parse_args()
    setup()
    size = args.image_size or {"demo": 128, "sdfl": 512}[args.network]

    with tempfile.TemporaryDirectory() as work:
        data = write_shards(Path(work), args.images, size)
        sets = eval_sources.shard_sets(f"set={data}")
        options = Options(out=work, workdir=work, data=data, batch_size=args.batch)
        network = scorers.Network(drawn_network(args.network, size), options)
        batches = ready_batches(network, sets)
        answered = Answered(network, sets)
        sides = {
            "network": (forward, network, batches),
            "host": (whole, answered, sets, options),
            "end to end": (whole, network, sets, options),
        }
        for side in sides.values():  # compiled and warm
            seconds(*side)
        turns = {name: [] for name in sides}
        for _ in range(args.turns):
            for name, side in sides.items():
                turns[name].append(seconds(*side))
        last = seconds(finish, *whole(answered, sets, options))

    n = args.images
    walls = {name: [wall for wall, _ in found] for name, found in turns.items()}
    pairs = list(zip(walls["network"], walls["end to end"], strict=True))
    added = [(both - alone) / alone for alone, both in pairs]
    cpus = {name: statistics.median(c for _, c in f) for name, f in turns.items()}
    figures = {
        "network": args.network,
        "image_size": size,
        "images": n,
        "batch": args.batch,
        "devices": [device.device_kind for device in jax.devices()],
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "jax": jax.__version__,
        "images_per_second": {
            name: [n / wall for wall in found] for name, found in walls.items()
        },
        "cpu_ms_per_image": {
            name: [1e3 * cpu / n for _, cpu in found] for name, found in turns.items()
        },
        "added_to_network": added,
        "cpu_added_to_network": cpus["end to end"] / cpus["network"] - 1,
        "report_seconds": last[0],
    }
    devices = f"{len(jax.devices())} x {jax.devices()[0].device_kind}"
    print(
        f"{args.network}, {size}x{size}, {n} images, batch {args.batch}, "
        f"{figures['cores']} cores, {devices}, {args.turns} turns (medians)"
    )
    print(f"{'':12}{'images/s':>10}{'CPU ms/image':>14}")
    for name in sides:
        rate = statistics.median(figures["images_per_second"][name])
        cpu = statistics.median(figures["cpu_ms_per_image"][name])
        print(f"{name:12}{rate:10.1f}{cpu:14.2f}")
    print(
        f"end to end adds {statistics.median(added):.0%} to the network's time "
        f"({min(added):.0%} to {max(added):.0%}) and "
        f"{figures['cpu_added_to_network']:.0%} to its CPU time; goal on a CPU: at "
        f"most {GOAL:.0%}"
    )
    print(f"report: {last[0]:.1f} s, once")
    if args.json:
        write_json(args.json, figures)


if __name__ == "__main__":
    main()

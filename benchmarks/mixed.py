r"""Pixels per second of a folder of mixed sizes, beside a folder of one size.

python -m benchmarks.mixed                     # 200 photographs, EfficientNet-Lite0
python -m benchmarks.mixed --images=20 --scale=0.25 --encoder=resnet18   # minutes

Each folder is evaluated by a process of its own with an empty cache of compiled
programs, as `sdfl evaluate` does it; seconds hold everything but Python's start. The
mixed folder has photographs of 3:2, 4:3 and 1:1, lying and standing, of about 500x375;
the other one only 600x600. Weights are drawn. `--plain` also evaluates the mixed folder
with one program per size, as networks without `on_canvas` are.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import jax
import numpy as np

from benchmarks.input import made_up_photographs
from sdfl_jax import models
from sdfl_jax.checkpoints.checkpoint import Trained
from sdfl_jax.config import check, defaults
from sdfl_jax.data import eval_sources
from sdfl_jax.data.setup import setup
from sdfl_jax.evaluate import scorers, scoring
from sdfl_jax.evaluate.options import Options
from sdfl_jax.files import write_json
from sdfl_jax.models import canvas

GOAL = 0.7  # times the pixels per second of one size
ONE_SIZE = [(600, 600)]
MIXED = [(375, 500), (333, 500), (500, 375), (500, 333), (400, 600), (450, 450)]


def write_folder(folder: Path, sizes, images: int, scale: float) -> tuple[str, int]:
    """JPEG files and their list; the list's path and how many pixels they have."""
    rng = np.random.default_rng(0)
    photos = made_up_photographs(folder, 8)
    lines, pixels = ["image,mask,label"], 0
    for number in range(images):
        height, width = sizes[number % len(sizes)]
        if len(sizes) > 1:  # no two photographs need be alike
            height, width = (n + int(rng.integers(-30, 30)) for n in (height, width))
        height, width = round(height * scale), round(width * scale)
        photo = cv2.imread(str(photos[number % len(photos)]))
        cv2.imwrite(str(folder / f"{number}.jpg"), cv2.resize(photo, (width, height)))
        lines.append(f"{number}.jpg,,0")
        pixels += height * width
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return str(folder / "list.csv"), pixels


def evaluate(listed: str, encoder: str, batch: int) -> dict:
    """Seconds and programs of an evaluation of that list."""
    setup()
    config = defaults()
    config.image_size = 192
    config.total_steps = 1  # of a training that never runs
    config.data.geometry = "crop"
    config.model = {"name": "upernet", "encoder": encoder, "width": 48}
    config.model["pyramid_width"] = 48
    config = check(config)
    model = models.build(**config.model)
    variables = jax.jit(
        lambda rng: models.init_variables(model, config.image_size, rng)
    )(jax.random.key(0, impl="rbg"))
    jax.block_until_ready(variables)

    start = time.perf_counter()
    sets = eval_sources.list_sets(listed)
    trained = Trained(config, model, variables, step=0, progress={})
    options = Options(out="", workdir="", data=listed, batch_size=batch)
    network = scorers.Network(trained, options)
    step, shapes = network.step, set()

    def counted(variables, arrays):
        shapes.add(arrays["image"].shape[1:3])
        return step(variables, arrays)

    network.step = counted
    scoring.score(network, sets, options)
    return {"seconds": time.perf_counter() - start, "programs": sorted(shapes)}


def in_own_process(*arguments: str) -> dict:
    with tempfile.TemporaryDirectory() as cache:
        environment = os.environ | {"JAX_COMPILATION_CACHE_DIR": cache}
        told = subprocess.run(
            [sys.executable, "-m", "benchmarks.mixed", *arguments],
            env=environment,
            check=True,
            stdout=subprocess.PIPE,
            text=True,
        )
    return json.loads(told.stdout.splitlines()[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--images", type=int, default=200, help="of each folder")
    add("--scale", type=float, default=1.0, help="of all sides")
    add("--encoder", default="efficientnet_lite0")
    add("--batch", type=int, default=8)
    add("--turns", type=int, default=1)
    add("--plain", action="store_true", help="the mixed folder size by size, too")
    add("--json", help="file to write the figures to")
    add("--list", help=argparse.SUPPRESS)  # what a process of its own evaluates
    add("--size_by_size", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.list:
        if args.size_by_size:
            canvas.fits = lambda model: False
        print(json.dumps(evaluate(args.list, args.encoder, args.batch)))
        return

    found = {"one size": [], "mixed": []} | ({"plain": []} if args.plain else {})
    with tempfile.TemporaryDirectory() as work:
        made = [
            write_folder(Path(work) / str(i), sizes, args.images, args.scale)
            for i, sizes in enumerate((ONE_SIZE, MIXED))
        ]
        sides = dict(zip(found, [*made, made[1]], strict=False))
        for _ in range(args.turns):
            for name, (listed, pixels) in sides.items():
                given = [f"--list={listed}", f"--encoder={args.encoder}"]
                given += [f"--batch={args.batch}"]
                given += ["--size_by_size"] * (name == "plain")
                one = in_own_process(*given)
                one["megapixels"] = pixels / 1e6
                one["rate"] = one["megapixels"] / one["seconds"]
                found[name].append(one)
                print(
                    f"{name:9}{one['megapixels']:7.1f} megapixels"
                    f"{one['seconds']:8.1f} s{one['rate']:7.2f} megapixels/s"
                    f"{len(one['programs']):4} programs",
                    flush=True,
                )
    ratios = {
        name: [
            other["rate"] / one["rate"]
            for one, other in zip(found["one size"], found[name], strict=True)
        ]
        for name in found
        if name != "one size"
    }
    for name, values in ratios.items():
        listed = ", ".join(f"{value:.2f}" for value in values)
        print(f"{name}: {listed} times the pixels per second of one size")
    print(f"goal: {GOAL} for mixed; {len(os.sched_getaffinity(0))} cores")
    if args.json:
        about = {"machine": platform.machine(), "jax": jax.__version__}
        about["devices"] = [device.device_kind for device in jax.devices()]
        write_json(args.json, about | {"turns": found, "ratios": ratios})


if __name__ == "__main__":
    main()

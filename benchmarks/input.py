r"""Images per second of the input pipeline, beside a PyTorch DataLoader.

python -m benchmarks.input                 # made-up photographs, 481x321 JPEG
python -m benchmarks.input --photos=DIR --json=FILE

Every side delivers the same uint8 batches: images and masks stretched to 512x512, with
flips. Ours reads shards (original files; resized raw; resized zstd), the peer the
original files with OpenCV and albumentations: in its own process, as it comes and with
one thread of PyTorch's, and with two workers. One side more makes forgeries while it
delivers them (`data.forge.stream`), and two cut windows of 256x256 from the original
files, one of them with the JPEG coefficients beside the pixels; nothing is compared
with these.
Each side runs in a process of its own and the sides take turns, so that all meet the
same disturbances. Before each turn a side empties what it had fetched ahead. Without
PyTorch and albumentations only our own sides run.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

OURS = {
    "original": {"storage": "original"},
    "resized raw": {"storage": "resized", "compression": "raw"},
    "resized zstd": {"storage": "resized", "compression": "zstd"},
}
# Workers, and threads of PyTorch's own in the main process (0: as it comes). Several of
# these take ten times as long to stack a batch where the cores are busy.
PEERS = {
    "torch, 0 workers": (0, 0),
    "torch, 2 workers": (2, 0),
    "torch, 0, 1 thread": (0, 1),
}
STOCK = ("torch, 0 workers", "torch, 2 workers")
GOALS = {"original": 1.5, "resized": 3.0}  # times the fastest peer
# Forgeries made in the pipeline, of the size that `configs/starter.py` trains on.
FORGED_SIDE = 192
FORGED = f"forged, {FORGED_SIDE}x{FORGED_SIDE}"
WINDOW = 256
WINDOWS = {
    f"window {WINDOW}": ("rgb",),
    f"window {WINDOW} + JPEG": ("rgb", "jpeg"),
}
AHEAD = 16  # batches that a side may have fetched while it waited
SUFFIXES = {".jpg", ".jpeg", ".png"}


def made_up_photographs(folder: Path, count: int) -> list[Path]:
    """Clouds of all sizes with a little grain, as JPEG files of 481x321 pixels."""
    import cv2

    rng = np.random.default_rng(0)
    folder.mkdir()
    paths = []
    for number in range(count):
        image = rng.normal(0, 4, (321, 481, 3))
        for side in (4, 12, 40, 120):
            clouds = rng.normal(0, 80 / side**0.4, (side * 2 // 3, side, 3))
            image += cv2.resize(clouds, (481, 321), interpolation=cv2.INTER_CUBIC)
        pixels = np.clip(image + 128, 0, 255).astype(np.uint8)
        paths.append(folder / f"{number:04d}.jpg")
        cv2.imwrite(str(paths[-1]), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
    return paths


def make_list(photos: list[Path], folder: Path) -> list[tuple[str, str | None]]:
    """A list of the photographs, half of them with a mask; (image, mask) of each."""
    import cv2

    from sdfl_jax.data.forge.regions import random_region
    from sdfl_jax.data.images import read_image

    rng = np.random.default_rng(0)
    pairs, lines = [], ["image,mask,edge,label"]
    for number, photo in enumerate(photos):
        mask = None
        if number % 2:
            mask = folder / f"mask{number}.png"
            region, _ = random_region(*read_image(photo).shape[:2], rng)
            cv2.imwrite(str(mask), region)
        pairs.append((str(photo), mask and str(mask)))
        lines.append(f"{photo},{mask},None,{number % 2}")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")
    return pairs


def our_batches(folder: str, batch: int, image_size: int):
    from sdfl_jax.data.pipeline import train_batches
    from sdfl_jax.data.setup import setup

    setup()
    settings = {"geometry": "resize", "image_size": image_size, "seed": 0}
    for arrays in train_batches(folder, batch_size=batch, **settings):
        yield arrays["image"], arrays["mask"]


def forged_batches(folder: str, batch: int, image_size: int):
    from sdfl_jax.data.forge.stream import train_batches

    settings = {"image_size": image_size, "seed": 0, "flips": False}
    for arrays in train_batches(f"forge:{folder}", batch_size=batch, **settings):
        yield arrays["image"], arrays["mask"]


def window_batches(folder: str, batch: int, inputs: tuple[str, ...]):
    from sdfl_jax.data.pipeline import train_batches
    from sdfl_jax.data.setup import setup

    setup()
    settings = {"geometry": "crop", "flips": False, "image_size": WINDOW, "seed": 0}
    settings |= {"batch_size": batch, "inputs": inputs}
    for arrays in train_batches(folder, **settings):
        yield arrays["image"], arrays["mask"]


class Peer:
    """A dataset as tutorials write it: OpenCV reads, albumentations changes."""

    def __init__(self, pairs: list[tuple[str, str | None]], image_size: int):
        import albumentations

        self.pairs = pairs
        self.change = albumentations.Compose(
            [
                albumentations.Resize(image_size, image_size),
                albumentations.HorizontalFlip(p=0.5),
                albumentations.VerticalFlip(p=0.5),
            ]
        )

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int):
        import cv2

        path, mask_path = self.pairs[index]
        image = cv2.cvtColor(cv2.imread(path), cv2.COLOR_BGR2RGB)
        if mask_path is None:
            mask = np.zeros(image.shape[:2], np.uint8)
        else:
            mask = cv2.imread(mask_path, cv2.IMREAD_GRAYSCALE)
        changed = self.change(image=image, mask=mask)
        label = np.float32(mask_path is not None)
        return changed["image"], changed["mask"][..., None], label


def peer_batches(pairs, workers: int, threads: int, batch: int, image_size: int):
    import torch
    from torch.utils.data import DataLoader

    if threads:
        torch.set_num_threads(threads)
    loader = DataLoader(
        Peer(pairs, image_size),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=workers,
        persistent_workers=workers > 0,  # else they would start anew with each epoch
    )
    while True:
        for image, mask, _ in loader:
            yield image.numpy(), mask.numpy()


def side(pipe, make_batches, *arguments):
    """Answers each number of batches with the images per second over them.

    And 0 with the most memory that the process had, in MiB.
    """
    batches = make_batches(*arguments)
    image, mask = next(batches)
    pipe.send([(*plane.shape, str(plane.dtype)) for plane in (image, mask)])
    while number := pipe.recv():
        for _ in range(AHEAD):
            next(batches)
        start = time.perf_counter()
        for _ in range(number):
            next(batches)
        pipe.send(number * len(image) / (time.perf_counter() - start))
    pipe.send(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


def measure(sides: dict, turns: int, batches: int) -> tuple[dict, dict]:
    """Images per second of every side, turn by turn, and the memory of each in MiB."""
    context = multiprocessing.get_context("spawn")
    pipes, processes, shapes = {}, [], {}
    for name, arguments in sides.items():
        pipes[name], end = context.Pipe()
        processes.append(context.Process(target=side, args=(end, *arguments)))
        processes[-1].start()
        end.close()
        shapes[name] = pipes[name].recv()
    compared = [shapes[name] for name in shapes if name in OURS or name in PEERS]
    assert all(shape == compared[0] for shape in compared), shapes
    speeds = {name: [] for name in sides}
    for _ in range(turns):
        for name, pipe in pipes.items():
            pipe.send(batches)
            speeds[name].append(pipe.recv())
    memory = {}
    for (name, pipe), process in zip(pipes.items(), processes, strict=True):
        pipe.send(0)
        memory[name] = pipe.recv()
        process.join(10)
        process.kill()  # a prefetching thread would not let go
    return speeds, memory


def ratios_of(speeds: dict[str, list[float]], name: str, peers) -> list[float]:
    """Turn by turn, a side's speed in terms of the fastest of `peers`."""
    turns = zip(speeds[name], *(speeds[peer] for peer in peers), strict=True)
    return [ours / max(others) for ours, *others in turns]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--photos", help="folder of JPEG or PNG; default: made up")
    parser.add_argument("--count", type=int, default=200, help="photographs, at most")
    parser.add_argument("--image_size", type=int, default=512)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--batches", type=int, default=40, help="measured per turn")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", help="file to write the figures to")
    args = parser.parse_args()

    from sdfl_jax.data.build.builder import build

    with tempfile.TemporaryDirectory() as work:
        work = Path(work)
        if args.photos:
            found = sorted(Path(args.photos).absolute().rglob("*"))
            photos = [p for p in found if p.suffix.lower() in SUFFIXES][: args.count]
            if len(photos) < 2 * args.batch:
                parser.error(f"--photos={args.photos} holds {len(photos)} photographs.")
        else:
            photos = made_up_photographs(work / "photos", args.count)
        pairs = make_list(photos, work)
        sides, size = {}, (args.batch, args.image_size)
        for name, storage in OURS.items():
            folder = str(work / name.replace(" ", "-"))
            settings = {"image_size": args.image_size, "progress": False} | storage
            build(work / "list.csv", folder, **settings)
            sides[name] = (our_batches, folder, *size)
        photographs = args.photos or str(work / "photos")
        for name, inputs in WINDOWS.items():
            sides[name] = (window_batches, str(work / "original"), args.batch, inputs)
        sides[FORGED] = (forged_batches, photographs, args.batch, FORGED_SIDE)
        missing = [
            name
            for name in ("torch", "albumentations")
            if importlib.util.find_spec(name) is None
        ]
        if missing:
            print(f"{' and '.join(missing)} not installed: no peer to compare with.")
        else:
            for name, settings in PEERS.items():
                sides[name] = (peer_batches, pairs, *settings, *size)
        speeds, memory = measure(sides, args.turns, args.batches)

    figures = {
        "photographs": args.photos or "made up",
        "count": len(photos),
        "image_size": args.image_size,
        "batch": args.batch,
        "cores": len(os.sched_getaffinity(0)),
        "machine": platform.processor() or platform.machine(),
        "images_per_second": speeds,
        "medians": {name: statistics.median(turns) for name, turns in speeds.items()},
        "memory_mib": memory,
        "ratios": {},
    }
    if not missing:
        figures |= {name: version(name) for name in ("torch", "albumentations")}
        figures["ratios"] = {
            against: {name: ratios_of(speeds, name, peers) for name in OURS}
            for against, peers in (("fastest", PEERS), ("stock", STOCK))
        }
    print(
        f"{len(photos)} photographs, batch {args.batch}, {args.image_size}x"
        f"{args.image_size}, {figures['cores']} cores, {args.turns} turns"
    )
    print(
        f"{'':20}{'images/s':>10}{'MiB':>7}{'times the fastest peer':>26}{'goal':>6}"
        f"{'times the faster stock peer':>30}"
    )
    for name, median in figures["medians"].items():
        line = f"{name:20}{median:10.0f}{figures['memory_mib'][name]:7.0f}"
        if missing or name not in OURS:
            print(line)
            continue
        fastest, stock = (
            f"{statistics.median(r):.2f} ({min(r):.2f} to {max(r):.2f})"
            for r in (figures["ratios"][k][name] for k in ("fastest", "stock"))
        )
        print(f"{line}{fastest:>26}{GOALS[name.split()[0]]:6.1f}{stock:>30}")
    if args.json:
        with open(args.json, "w") as file:
            json.dump(figures, file, indent=2)


if __name__ == "__main__":
    main()

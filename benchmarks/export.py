r"""Exported networks: how far from JAX, how large, how fast.

python -m benchmarks.export                                   # every network
python -m benchmarks.export --networks=starter --image_size=256,384 \
    --paths_file=LIST --images=60                             # and pixel F1
python -m benchmarks.export --networks=starter --image_size=1024 --browser

Each network with its own settings: `starter` with the weights that ship, all others
with drawn ones and the batch-norm statistics of four photographs. JAX, onnxruntime in
float32 and onnxruntime with weights quantised to int8 take turns on one image.
`--paths_file` is a list (image, mask, label), of which the first manipulated `--images`
are scored with the float32 and the int8 file: pixel F1 at the network's threshold, mean
over images. `--browser` shows a page of `--format=web` one photograph of the file's
size, twice, in a headless Chromium. `--json=FILE` keeps the figures, those of other
networks in it too, so that a few networks at a time make one table; `--table=FILE.md`
writes that table between the marks in FILE.
"""

import argparse
import functools
import inspect
import json
import re
import statistics
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

from benchmarks.browser import opened
from sdfl_jax import models
from sdfl_jax.data import images, lists
from sdfl_jax.data.setup import setup
from sdfl_jax.errors import InputError
from sdfl_jax.export import onnx as onnx_format
from sdfl_jax.export import subject, web
from sdfl_jax.files import write_json
from sdfl_jax.predict.exported import Exported

MARKS = "<!-- benchmarks.export -->", "<!-- /benchmarks.export -->"


def of_name(name: str, size: tuple[int, int]) -> subject.Subject:
    if name == "starter":
        return subject.read(name, image_size=size)
    # Statistics of real images, as a trained network has: with those that are drawn,
    # features grow from layer to layer, and so does rounding.
    takes = inspect.signature(models.MODELS[name]).parameters
    settings = {"bn_momentum": 0.0} if "bn_momentum" in takes else {}
    model = models.build(name, **settings)
    side = getattr(model, "image_size", None)
    size = (side, side) if side else size
    variables = jax.jit(lambda rng: models.init_variables(model, max(size), rng))(
        jax.random.key(0)
    )
    if "batch_stats" in variables:
        reads = getattr(model, "inputs", ("rgb",))
        _, (_, photos) = subject.check_inputs((4, *size, 3), reads)
        image = photos.pop("image") / np.float32(255)
        seen = functools.partial(model.apply, train=True, mutable=["batch_stats"])
        rngs = {"dropout": jax.random.key(1)}
        variables |= jax.jit(seen)(variables, image, **photos, rngs=rngs)[1]
    about = {"network": name, "image_size": list(size)}
    return subject.of_model(model, variables, (1, *size, 3), about)


def measure(name: str, size: tuple[int, int], turns: int, work: Path) -> dict:
    """One row: difference, bytes, images/s of each form; or why there are none."""
    whole = of_name(name, size)
    row = {"network": name, "size": list(whole.shape[1:3])}
    path = work / f"{name}.onnx"
    try:
        row |= onnx_format.write(path, whole)
    except InputError as error:
        return row | {"error": str(error)}
    small = quantised(path)
    row["int8 bytes"] = small.stat().st_size
    compiled = jax.jit(whole.call)
    forms = {
        "jax": lambda arrays: jax.block_until_ready(compiled(*arrays.values())),
        "onnx": onnx_format.runner(path.read_bytes()),
        "int8": onnx_format.runner(small.read_bytes()),
    }
    arrays = whole.examples[-1][1]
    seconds = {form: [] for form in forms}
    for turn in range(turns + 1):  # the first one compiles
        for form, run in forms.items():
            start = time.perf_counter()
            run(arrays)
            if turn:
                seconds[form].append(time.perf_counter() - start)
    rates = {form: 1 / statistics.median(each) for form, each in seconds.items()}
    pairs = zip(seconds["jax"], seconds["onnx"], strict=True)
    ratio = statistics.median(ours / theirs for ours, theirs in pairs)
    return row | {"images/s": rates, "onnx over jax": ratio}


def quantised(path: Path) -> Path:
    """The file with its weights as int8, activations quantised as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = path.with_suffix(".int8.onnx")
    quantize_dynamic(path, small, weight_type=QuantType.QUInt8)
    network = onnx.load(small)
    del network.metadata_props[:]  # the quantiser adds its own, which is no JSON
    network.metadata_props.extend(onnx.load(path).metadata_props)
    onnx.save(network, small)
    return small


def pixel_f1(path: Path, paths_file: str, most: int) -> dict:
    """Mean pixel F1 over the first manipulated images of a list."""
    network = Exported([path])
    scores = []
    entries, _ = lists.read_list(paths_file)
    for entry in [one for one in entries if one.label and one.mask][:most]:
        answer = network.predict(entry.image)
        true = images.read_mask(entry.mask)[..., 0] >= 128
        found = answer.mask
        both = np.count_nonzero(true & found)
        scores.append(2 * both / max(1, np.count_nonzero(true) + found.sum()))
    return {"pixel_f1": float(np.mean(scores)), "images": len(scores)}


def in_browser(name: str, size: tuple[int, int], work: Path) -> dict:
    """Seconds from a photograph to its mask: the first (network loaded), the next."""
    whole = of_name(name, size)
    folder = work / "page"
    told = web.write(folder, whole)
    names = ["first.png", "next.png"]
    for photo in names:
        images.write_png(folder / photo, whole.examples[-1][1]["image"][0])
    seen, _ = opened(folder, names, work / "profile", timeout=900)
    return {
        "folder bytes": told["bytes"],
        "model bytes": json.loads((folder / "model.json").read_text())["bytes"],
        "status": {photo["name"]: photo["status"] for photo in seen[2:]},
    }


def table(rows: list[dict]) -> str:
    lines = [
        "| network | image | exported | largest difference | MB | images/s: JAX | "
        "onnxruntime | int8 | onnxruntime over JAX |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        start = f"| `{row['network']}` | {row['size'][0]}x{row['size'][1]} | "
        if "error" in row:
            reason = row["error"].split(": ", 1)[-1].replace("|", "/")
            lines.append(f"{start}no: {reason} | | | | | | |")
            continue
        rates = row["images/s"]
        lines.append(
            f"{start}yes | {row['difference']:.1e} | {row['bytes'] / 1e6:.1f} | "
            f"{rates['jax']:.2f} | {rates['onnx']:.2f} | {rates['int8']:.2f} | "
            f"{row['onnx over jax']:.2f} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--networks", default=",".join(models.MODELS))
    add("--image_size", default="128", help="H,W of networks that take any")
    add("--turns", type=int, default=5)
    add("--paths_file", help="list to score float32 and int8 on")
    add("--images", type=int, default=60, help="of that list")
    add("--browser", action="store_true")
    add("--json", help="file to keep the figures in")
    add("--table", help="page to write the table to")
    args = parser.parse_args()
    setup()
    height, _, width = args.image_size.partition(",")
    size = int(height), int(width or height)
    names = args.networks.split(",")
    kept = []
    if args.json and Path(args.json).exists():
        kept = json.loads(Path(args.json).read_text())
    rows = [row for row in kept if row["network"] not in names]
    with tempfile.TemporaryDirectory() as work:
        for name in names:
            if args.browser:
                row = {"network": name, **in_browser(name, size, Path(work))}
            else:
                row = measure(name, size, args.turns, Path(work))
                if args.paths_file and "error" not in row:
                    for form in (f"{name}.onnx", f"{name}.int8.onnx"):
                        scored = pixel_f1(
                            Path(work, form), args.paths_file, args.images
                        )
                        row[f"pixel F1 of {form}"] = scored
            rows.append(row)
            if args.json:
                write_json(args.json, rows)
            print(json.dumps(row), flush=True)
    order = list(models.MODELS)
    rows.sort(key=lambda row: order.index(row["network"]))
    if not args.browser:
        print(table(rows))
    if args.table:
        page, (first, last) = Path(args.table), MARKS
        inside = f"{first}\n\n{table(rows)}\n\n{last}"
        text, found = re.subn(
            f"{first}.*?{last}", lambda _: inside, page.read_text(), flags=re.DOTALL
        )
        if not found:
            raise SystemExit(f"{page}: no {first} ... {last} in it.")
        page.write_text(text)


if __name__ == "__main__":
    main()

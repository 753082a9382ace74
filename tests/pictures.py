"""A folder of small pictures with their list, and what builds of it are asked."""

import hashlib
import os

import numpy as np
from PIL import Image

from sdfl_jax.data import records
from sdfl_jax.data.build.builder import build


def make_list(folder):
    """Twelve pictures, every third authentic, and their list."""
    rng = np.random.default_rng(0)
    lines = ["image,mask,label,source,group,kind"]
    for index in range(12):
        image = rng.integers(0, 256, (20 + index, 30, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{index}.png")
        mask = ""
        if index % 3:
            mask = f"{index}_gt.png"
            region = np.zeros((20 + index, 30), np.uint8)
            region[5:15, index : index + 9] = 255 - index
            Image.fromarray(region).save(folder / mask)
        source = "one" if index < 5 else "two"
        lines.append(f"{index}.png,{mask},{int(index % 3 > 0)},{source},g{index},k")
    (folder / "list.csv").write_text("\n".join(lines) + "\n")


def edit_list(folder, edit):
    lines = (folder / "list.csv").read_text().splitlines()
    edit(lines)
    (folder / "list.csv").write_text("\n".join(lines) + "\n")


def build_here(folder, out="out", **options):
    options = {"lines_per_shard": 5, "progress": False, **options}
    return build(folder / "list.csv", folder / out, **options)


def examples(out) -> list[dict]:
    source = records.RecordSource(out)
    return [records.decode(source[index]) for index in range(len(source))]


def content(out) -> dict[str, str]:
    """Every file of a folder by its checksum."""
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(out.iterdir())
    }


def environment():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    return {**os.environ, "PYTHONPATH": root}

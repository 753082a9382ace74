r"""Photographs that ship inside installed packages, as PNG files.

python -m sdfl_jax.data.photographs --out=DIR

Writes DIR/train, DIR/val and DIR/test out of the wheels of scikit-image, scikit-learn
and matplotlib; nothing is downloaded and no pixel is changed. The two motorcycle
pictures show one scene; the double underscore in their names says so. A second run
writes what is missing.
"""

import argparse
import importlib.util
from collections.abc import Sequence
from pathlib import Path

from sdfl_jax.data.images import read_image, write_png
from sdfl_jax.errors import InputError, one_line

_FOLDERS = {
    "skimage": ("scikit-image", "data"),
    "sklearn": ("scikit-learn", "datasets/images"),
    "matplotlib": ("matplotlib", "mpl-data/sample_data"),
}

# The four for the test are natural colour photographs, as those of a user would be.
# Left out: pages of text, drawings, and pictures with no texture (cell, clock).
PHOTOGRAPHS = {
    "train": {
        "brick": "skimage/brick.png",
        "camera": "skimage/camera.png",
        "chelsea": "skimage/chelsea.png",
        "china": "sklearn/china.jpg",
        "coins": "skimage/coins.png",
        "grass": "skimage/grass.png",
        "gravel": "skimage/gravel.png",
        "hubble": "skimage/hubble_deep_field.jpg",
        "moon": "skimage/moon.png",
        "motorcycle__left": "skimage/motorcycle_left.png",
        "motorcycle__right": "skimage/motorcycle_right.png",
        "retina": "skimage/retina.jpg",
    },
    "val": {
        "grace_hopper": "matplotlib/grace_hopper.jpg",
        "ihc": "skimage/ihc.png",
    },
    "test": {
        "astronaut": "skimage/astronaut.png",
        "coffee": "skimage/coffee.png",
        "flower": "sklearn/flower.jpg",
        "rocket": "skimage/rocket.jpg",
    },
}


def export(out: str | Path) -> dict[str, int]:
    """Writes the photographs below `out` and returns their number by split.

    Raises InputError where a package, or one of its photographs, is missing.
    """
    out = Path(out)
    sources = {
        out / split / f"{name}.png": _locate(source)
        for split, photographs in PHOTOGRAPHS.items()
        for name, source in photographs.items()
    }
    if out.exists():
        if not out.is_dir():
            raise InputError(f"--out={out} is a file; give a folder.")
        others = [p for p in out.rglob("*") if p.is_file() and p not in sources]
        if others:
            raise InputError(
                f"--out={out} holds other files ({others[0]}); give a new one."
            )
    for target, source in sources.items():
        if target.exists():
            continue
        write_png(target, read_image(source))
    return {split: len(photographs) for split, photographs in PHOTOGRAPHS.items()}


def path(name: str) -> Path:
    """Where the photograph `name` of `PHOTOGRAPHS` lies; InputError if it does not."""
    return _locate(next(p[name] for p in PHOTOGRAPHS.values() if name in p))


def _locate(source: str) -> Path:
    """The file inside its package, which is not imported: that would take seconds."""
    module, name = source.split("/")
    package, folder = _FOLDERS[module]
    found = importlib.util.find_spec(module)
    if found is None:
        raise InputError(
            f"{package} is not installed: pip install -r requirements.txt."
        )
    path = Path(found.submodule_search_locations[0], folder, name)
    if not path.is_file():
        raise InputError(
            f"{path} is missing: this {package} does not ship it; install the one "
            "requirements.txt asks for."
        )
    return path


@one_line
def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sdfl_jax.data.photographs",
        description=__doc__.split("\n\n")[0],
    )
    parser.add_argument("--out", required=True, help="folder for train, val and test")
    for split, number in export(parser.parse_args(argv).out).items():
        print(f"{split}: {number} photographs")


if __name__ == "__main__":
    main()

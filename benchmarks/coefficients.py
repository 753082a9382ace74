r"""A JPEG's pixels and coefficients: its file decoded twice, or once.

python -m benchmarks.coefficients                 # made-up photographs, 481x321
python -m benchmarks.coefficients --photos=DIR --json=FILE

`data.coefficients` lets simplejpeg decode the pixels and jpeglib the coefficients, so
that the entropy code of each file is read twice; no kept library gives both at once.
The other way is here: the coefficients read once, and the pixels computed from them
(dequantised, inverse cosine transform as two products of matrices, chroma enlarged,
colour turned by OpenCV), which is faster than SciPy's `idctn` and still not equal to
what libjpeg's whole-number transform gives. Processor time of one photograph, medians;
the sides take turns.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2
import jpeglib
import numpy as np

from benchmarks.input import made_up_photographs
from sdfl_jax.data import coefficients, images

# The inverse transform of a block x is COSINES.T @ x @ COSINES.
COSINES = np.array(
    [
        [
            np.sqrt((1 + (k > 0)) / 8) * np.cos((2 * n + 1) * k * np.pi / 16)
            for n in range(8)
        ]
        for k in range(8)
    ],
    np.float32,
)


def pixels(path: Path):
    return images.read_image(path.read_bytes())


def twice(path: Path):
    """As `data.coefficients.add` does with a JPEG."""
    data = path.read_bytes()
    return images.read_image(data), coefficients.read(data)


def once(path: Path):
    """Coefficients, and the pixels computed from them."""
    found = jpeglib.read_dct(str(path))
    planes = []
    for channel, table in ((found.Y, 0), (found.Cr, 1), (found.Cb, 1)):
        blocks = channel * found.qt[table].astype(np.float32)
        blocks = COSINES.T @ blocks @ COSINES
        rows, columns = blocks.shape[:2]
        planes.append(blocks.swapaxes(1, 2).reshape(8 * rows, 8 * columns) + 128)
    height, width = found.height, found.width
    for i, plane in enumerate(planes):  # whole blocks, of chroma at 1 or 1/2
        y, x = (round(a / b) for a, b in zip(planes[0].shape, plane.shape, strict=True))
        plane = cv2.resize(plane, None, fx=x, fy=y) if x * y > 1 else plane
        planes[i] = plane[:height, :width]
    colour = cv2.cvtColor(cv2.merge(planes) / 255, cv2.COLOR_YCrCb2RGB) * 255
    return np.clip(colour + 0.5, 0, 255).astype(np.uint8), found.Y


SIDES = {"pixels alone": pixels, "decoded twice": twice, "decoded once": once}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=Path, help="folder of photographs, *.jpg")
    parser.add_argument("--count", type=int, default=40)
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--json", type=Path, help="file for all figures")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.photos:
            files = sorted(args.photos.rglob("*.jpg"))[: args.count]
        else:
            files = made_up_photographs(Path(folder) / "photos", args.count)
        seconds = {name: [] for name in SIDES}
        for _ in range(args.turns):
            for name, side in SIDES.items():
                start = time.process_time()
                for path in files:
                    side(path)
                seconds[name].append((time.process_time() - start) / len(files))
        exact = [abs(once(p)[0].astype(int) - pixels(p)).max() for p in files]
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    for name, value in medians.items():
        print(f"{name:14} {value * 1e3:6.2f} ms")
    ratio = medians["decoded once"] / medians["decoded twice"]
    print(
        f"Once takes {ratio:.2f} times as long as twice; its pixels differ by up to "
        f"{max(exact)} of 255."
    )
    if args.json:
        told = {"seconds": medians, "ratio": ratio, "cpus": os.cpu_count()}
        args.json.write_text(json.dumps(told, indent=1))


if __name__ == "__main__":
    main()

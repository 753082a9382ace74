"""The lines of evidence that are drawn from a file, by name.

Each is a function of a path that gives a `Finding` or raises `InputError`, and runs in
an isolated worker process. A new one is a function and a line here. The network's line
is not among them: it runs where the network is, see `network`.
"""

import time
from collections.abc import Mapping
from pathlib import Path

import cv2

from sdfl_jax.devices import memory
from sdfl_jax.examine.aids import aids
from sdfl_jax.examine.compression import jpeg
from sdfl_jax.examine.copy_move import copy_move
from sdfl_jax.examine.finding import Finding
from sdfl_jax.examine.metadata import metadata
from sdfl_jax.examine.provenance import provenance
from sdfl_jax.examine.structure import file

# Workers run side by side; threads inside one would only compete.
cv2.setNumThreads(1)

EVIDENCE = {
    "file": file,
    "metadata": metadata,
    "jpeg": jpeg,
    "provenance": provenance,
    "copy_move": copy_move,
    "aids": aids,
}
TITLES = {
    "file": "The file",
    "metadata": "Metadata",
    "jpeg": "JPEG compression",
    "provenance": "Provenance",
    "copy_move": "Copy-move",
    "aids": "Aids for the eye",
    "network": "The network",
}


def examine_line(name: str, path: str, options: Mapping) -> tuple[Finding, float]:
    """The line of that name about a file, and its seconds: what a worker runs.

    `options` are the line's own, beyond the path.
    """
    start = time.monotonic()
    try:
        finding = EVIDENCE[name](Path(path), **options)
    finally:
        memory.give_back()  # a worker that waits need not hold what the largest took
    return finding, round(time.monotonic() - start, 2)

"""Writes maps beside the scoring, and the folder that all processes fill."""

import collections
import concurrent.futures
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from sdfl_jax import metrics, report
from sdfl_jax.data import eval_sources, images, search
from sdfl_jax.devices import processes
from sdfl_jax.files import new_folder

SHOWN_IMAGES = 12


_WRITERS = 4  # threads that encode maps


_WAITING = 64  # maps that may wait for them


class Writer:
    """Encodes and writes maps beside the scoring, and keeps images for the report."""

    def __init__(
        self,
        folder: Path,
        sets: Sequence[eval_sources.DataSet],
        threshold: float,
        place: int,
        count: int,
        *,
        silent: bool = False,
    ):
        """`place` and `count`: of the part that is scored here, see `scoring`."""
        self.folder = folder
        self._folder = folder / "masks"
        self._apart = len(sets) > 1
        self._first = place == 0
        total = -(-sum(len(part.source) for part in sets) // count)
        self._every = max(1, total // SHOWN_IMAGES)
        self._seen = 0
        self._bar = tqdm(
            total=total,
            unit=" images",
            dynamic_ncols=True,
            disable=silent or not self._first,
        )
        self._threads = concurrent.futures.ThreadPoolExecutor(_WRITERS)
        self._waiting = collections.deque()
        self.gallery = report.Gallery(threshold)
        self.pictures = []

    def add(self, data_set: str, example: dict, mask_probs: np.ndarray):
        path = self._folder / (data_set if self._apart else "")
        path /= images.png_name(example["name"])
        self._waiting.append(self._threads.submit(_write_map, path, mask_probs))
        if (confidence := example.get("confidence_map")) is not None:
            path = self._folder.parent / "confidence" / path.relative_to(self._folder)
            self._waiting.append(self._threads.submit(_write_map, path, confidence))
        while len(self._waiting) > _WAITING:
            self._waiting.popleft().result()
        if self._first and "image" in example:
            self._show(example | {"set": data_set}, mask_probs)
        self._bar.update()

    def _show(self, example, mask_probs):
        self.gallery.offer(example, mask_probs)
        if self._seen % self._every == 0 and len(self.pictures) < SHOWN_IMAGES:
            names = ("image", "name", "kind", "label", "has_mask")
            row = {name: example[name] for name in names}
            row |= {"mask": example["original_mask"], "mask_probs": mask_probs}
            self.pictures.append(row)
        self._seen += 1

    def __enter__(self):
        search.mark_output(self._folder)
        return self

    def __exit__(self, kind, error, trace):
        self._bar.close()
        self._threads.shutdown(cancel_futures=error is not None)
        if error is None:
            while self._waiting:
                self._waiting.popleft().result()


def _write_map(path: Path, mask_probs: np.ndarray):
    images.write_map(path, metrics.to_uint8(mask_probs))


@contextlib.contextmanager
def shared_folder(out: str) -> Iterator[Path]:
    """`new_folder`, made by the first process and filled by all of them.

    An error within it, in any of them, is raised in all.
    """
    with contextlib.ExitStack() as stack:
        made = lambda: stack.enter_context(new_folder(out, made_by="metrics.json"))
        folder, error = processes.first_decides(made), None
        try:
            yield folder
        except Exception as raised:
            error = raised

        def tell():
            if error is not None:
                raise error

        processes.together(tell)  # the first must not rename the folder before

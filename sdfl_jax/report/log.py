"""What a run writes while it trains: scalars and pictures, to files and TensorBoard."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import SupportsFloat

import numpy as np
from tensorboardX import SummaryWriter

from sdfl_jax.errors import InputError
from sdfl_jax.files import replacing


class Log:
    """Scalars to `metrics.jsonl` and TensorBoard, images to TensorBoard.

    Args:
      workdir: folder, made if it is not there; None logs nothing.
      resume_step: lines and events of later steps are dropped, so that a run which
        goes on from here tells each step once.
    """

    def __init__(self, workdir: str | os.PathLike | None, resume_step: int = 0):
        self._file = self._events = None
        if workdir is None:
            return
        workdir = Path(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        path = workdir / "metrics.jsonl"
        _drop_later_lines(path, resume_step)
        self._file = path.open("a", buffering=1)  # a line is on disk when it ends
        self._events = SummaryWriter(
            str(workdir / "tensorboard"),
            purge_step=resume_step + 1,
            max_queue=0,  # unlimited: see `_refuse_dead_writer`
            flush_secs=30,
        )
        self._events.file_writer.event_writer._event_queue.cancel_join_thread()

    def write(self, step: int, scalars: Mapping[str, SupportsFloat | None]) -> None:
        """Adds one line; None and values that are not finite become null."""
        if self._file is None:
            return
        self._refuse_dead_writer()
        line = {"step": int(step)}
        for name, value in scalars.items():
            value = None if value is None else float(value)
            finite = value is not None and math.isfinite(value)
            line[name] = value if finite else None
            if finite:
                self._events.add_scalar(name, value, int(step))
        self._file.write(json.dumps(line, allow_nan=False) + "\n")

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Shows uint8 images (B H W 3) as one grid, about as wide as high."""
        if self._events is None:
            return
        self._refuse_dead_writer()
        shown = grid(np.asarray(images))
        self._events.add_image(name, shown, int(step), dataformats="HWC")

    def _refuse_dead_writer(self) -> None:
        """tensorboardX writes in a thread that a full disk ends.

        A limited queue would then block this process forever, here or at its exit.
        """
        if not self._events.file_writer.event_writer._worker.is_alive():
            raise InputError(
                f"{self._events.logdir}: events can no longer be written; most likely "
                "the disk is full."
            )

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._events.close()


def grid(images: np.ndarray) -> np.ndarray:
    """Images (B H W 3) row by row with grey seams, uint8 H W 3."""
    count, height, width, _ = images.shape
    columns = max(1, round(math.sqrt(count * height / width)))
    rows = -(-count // columns)
    sheet = np.full((rows, height + 2, columns, width + 2, 3), 128, np.uint8)
    for i, image in enumerate(images):
        sheet[i // columns, 1:-1, i % columns, 1:-1] = image
    return sheet.reshape(rows * (height + 2), columns * (width + 2), 3)


def read_log(workdir: str | os.PathLike) -> list[dict]:
    """The lines of `metrics.jsonl`, none where there is no such file.

    A line that a kill cut short is left out.
    """
    path = Path(workdir) / "metrics.jsonl"
    lines = []
    for text in path.read_text().splitlines() if path.exists() else ():
        try:
            line = json.loads(text)
            line["step"] = int(line["step"])
        except (ValueError, KeyError, TypeError):
            continue
        lines.append(line)
    return lines


def _drop_later_lines(path: Path, step: int) -> None:
    """Keeps the whole lines up to `step`."""
    if path.exists():
        kept = [line for line in read_log(path.parent) if line["step"] <= step]
        with replacing(path) as beside:
            beside.write_text("".join(json.dumps(line) + "\n" for line in kept))

"""What a run writes while it trains: scalars and pictures, to files and TensorBoard."""

import json
import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import SupportsFloat

import numpy as np
from tensorboardX import RecordWriter, summary
from tensorboardX.proto.event_pb2 import Event, SessionLog

from sdfl_jax.files import replacing

_FLUSH_SECONDS = 30  # of events: TensorBoard shows them that late


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
        self._events = _Events(workdir / "tensorboard", resume_step)

    def write(self, step: int, scalars: Mapping[str, SupportsFloat | None]) -> None:
        """Adds one line; None and values that are not finite become null."""
        if self._file is None:
            return
        line = {"step": int(step)}
        for name, value in scalars.items():
            value = None if value is None else float(value)
            finite = value is not None and math.isfinite(value)
            line[name] = value if finite else None
            if finite:
                self._events.add(int(step), summary.scalar(name, value))
        self._file.write(json.dumps(line, allow_nan=False) + "\n")

    def images(self, step: int, name: str, images: np.ndarray) -> None:
        """Shows uint8 images (B H W 3) as one grid, about as wide as high."""
        if self._events is None:
            return
        shown = grid(np.asarray(images))
        self._events.add(int(step), summary.image(name, shown, dataformats="HWC"))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._events.close()


class _Events:
    """A file for TensorBoard, which drops what older files say of later steps.

    Written where it is called: tensorboardX's `SummaryWriter` has a thread for it, and
    one that a full disk has ended blocks the program.
    """

    def __init__(self, folder: Path, resume_step: int):
        folder.mkdir(exist_ok=True)
        # TensorBoard reads the files in the order of their names.
        self._writer = RecordWriter(
            str(folder / f"events.out.tfevents.{time.time():017.6f}.{os.getpid()}")
        )
        self._flushed = time.monotonic()
        self._write(file_version="brain.Event:2")
        start = SessionLog(status=SessionLog.START)
        self._write(step=resume_step + 1, session_log=start)

    def add(self, step: int, values) -> None:
        """Adds a summary of tensorboardX; raises `OSError` where the disk is full."""
        self._write(step=step, summary=values)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self._writer.flush()
            self._flushed = time.monotonic()

    def _write(self, **fields) -> None:
        event = Event(wall_time=time.time(), **fields)
        self._writer.write(event.SerializeToString())

    def close(self) -> None:
        self._writer.close()


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

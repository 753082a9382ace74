"""Videos, read frame by frame."""

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import cv2
from jaxtyping import UInt8
from numpy import ndarray

from sdfl_jax.errors import InputError

# What a folder is searched for.
SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv", ".flv"),
    *(".3gp", ".3g2", ".ts", ".mts", ".m2ts", ".vob", ".ogv"),
)


class Frame(NamedTuple):
    """One frame: its number from 0, its place in seconds, RGB."""

    number: int
    seconds: float
    image: UInt8[ndarray, "H W 3"]


def is_video(path: str | os.PathLike) -> bool:
    """Whether a file's name ends as a video's does."""
    return os.fspath(path).lower().endswith(SUFFIXES)


def frames(
    path: str | os.PathLike, *, every_frames: int = 1, every_seconds: float = 0
) -> Iterator[Frame]:
    """Every n-th frame, and of these the first one of each `every_seconds`.

    Frames lie as far apart as the file says, 1/25 s where it does not. Raises
    `InputError` for what is no video, and at the end of one that breaks off early.
    """
    if every_frames < 1 or every_seconds < 0:
        raise InputError(
            f"every_frames={every_frames}, every_seconds={every_seconds}: a frame in 1 "
            "or more, 0 seconds or more."
        )
    capture = _open(path)
    try:
        claimed = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        rate = capture.get(cv2.CAP_PROP_FPS)
        rate = rate if 0 < rate < 1000 else 25.0
        number, due = 0, 0.0
        while capture.grab():
            seconds = number / rate
            if number % every_frames == 0 and seconds > due - 1e-6:
                read, image = capture.retrieve()
                if not read or image is None:
                    break
                due += every_seconds
                yield Frame(number, seconds, cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
            number += 1
    finally:
        capture.release()
    if not number:
        raise InputError(f"{path}: cannot be decoded as a video.")
    # Containers count a frame or two too many; a file cut short lacks far more.
    if claimed - number > max(2, 0.02 * claimed):
        raise InputError(f"{path}: breaks off after {number} of {claimed:.0f} frames.")


def count(path: str | os.PathLike) -> int:
    """How many frames a file says it has; 0 for what is no video."""
    capture = _open(path)
    try:
        return int(capture.get(cv2.CAP_PROP_FRAME_COUNT)) if capture.isOpened() else 0
    finally:
        capture.release()


def read_at(
    path: str | os.PathLike, numbers: Sequence[int]
) -> Iterator[UInt8[ndarray, "H W 3"] | None]:
    """RGB of the frames `numbers` (ascending); None for each that cannot be decoded.

    Every frame up to the last is decoded, by one thread: a jump lands where the file
    says, which in some is a few frames off.
    """
    capture, position = _open(path, threads=1), 0
    try:
        for number in numbers:
            while position < number and capture.grab():
                position += 1
            read, image = capture.read() if position == number else (False, None)
            position += read
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB) if read else None
    finally:
        capture.release()


def _open(path: str | os.PathLike, threads: int = 0) -> cv2.VideoCapture:
    """ffmpeg's reader, silenced: what is wrong with a file is told once, by us."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    how = [cv2.CAP_PROP_N_THREADS, threads] if threads else []
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG, how)
    cv2.utils.logging.setLogLevel(before)
    return capture

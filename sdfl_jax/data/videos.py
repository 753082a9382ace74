"""Videos, read frame by frame."""

import os
from collections.abc import Iterator
from typing import NamedTuple

import cv2
from jaxtyping import UInt8
from numpy import ndarray

from sdfl_jax.errors import InputError

# What a folder is searched for.
SUFFIXES = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")


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
    # What is wrong with a file is told once, by us; ffmpeg would print lines of it.
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    capture = cv2.VideoCapture(os.fspath(path), cv2.CAP_FFMPEG)
    cv2.utils.logging.setLogLevel(before)
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

"""Photos of many askers at once: a bounded queue before one network.

What waits is answered in its order, as many photos of one shape together as a batch
takes. Who comes when the queue is full is told so at once instead of waiting.
"""

import collections
import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from jaxtyping import UInt8


class Full(Exception):
    """As many photos wait, or pixels of them, as may."""


class Waiting:
    """Answers photos in a thread of its own, in batches.

    A photo whose asker has gone (its future is
    cancelled) is not answered.

    Args:
      answer: of each of several images of one shape, in their order.
      most, most_pixels: photos, and pixels of them, that may wait; `Full` beyond them.
      batch_size: photos in a batch, at most.
      shape_of: of a photo's height and width; those for which it is the same can be
        answered together.
    """

    def __init__(
        self,
        answer: Callable[[Sequence[UInt8[np.ndarray, "H W 3"]]], Sequence],
        *,
        most: int,
        most_pixels: int,
        batch_size: int,
        shape_of: Callable[[tuple[int, int]], Hashable] = lambda size: size,
    ):
        self._answer, self._batch_size = answer, batch_size
        self._shape_of = shape_of
        self._most, self._most_pixels = most, most_pixels
        self._photos = collections.deque()
        self._changed = threading.Condition()
        self.closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def __len__(self) -> int:
        return len(self._photos)

    def ask(self, image: UInt8[np.ndarray, "H W 3"]) -> concurrent.futures.Future:
        """What the network says of an image, once it is there; raises `Full`."""
        future = concurrent.futures.Future()
        with self._changed:
            pixels = sum(photo.image[..., 0].size for photo in self._photos)
            pixels += image[..., 0].size
            if len(self._photos) >= self._most:
                raise Full
            if self._photos and pixels > self._most_pixels:
                raise Full
            self._photos.append(_Photo(image, future))
            self._changed.notify()
        return future

    def close(self):
        """Answers what is at work, and no more; those who still wait are told so."""
        with self._changed:
            self.closed = True
            self._changed.notify()
        self._thread.join()
        for photo in self._photos:
            photo.future.cancel()

    def _work(self):
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._photos or self.closed)
                if self.closed:
                    return
                photos = self._take()
            if not photos:  # all who waited have gone
                continue
            try:
                answers = self._answer([photo.image for photo in photos])
                for photo, answer in zip(photos, answers, strict=True):
                    photo.future.set_result(answer)
            except Exception as error:  # the askers' to tell; the next ones are served
                for photo in photos:
                    if not photo.future.done():
                        photo.future.set_exception(error)

    def _shape(self, photo: "_Photo") -> Hashable:
        return self._shape_of(photo.image.shape[:2])

    def _take(self) -> list["_Photo"]:
        """The first photo and the next ones of its shape."""
        there = [photo for photo in self._photos if not photo.future.cancelled()]
        alike = [p for p in there if self._shape(p) == self._shape(there[0])]
        taken = alike[: self._batch_size]
        self._photos = collections.deque(p for p in there if p not in taken)
        return [p for p in taken if p.future.set_running_or_notify_cancel()]


@dataclasses.dataclass(eq=False)
class _Photo:
    image: np.ndarray
    future: concurrent.futures.Future

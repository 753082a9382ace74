"""What a process that works on images sets for all of itself.

Nothing here happens on import: commands and worker processes call `setup`, programs
that import the package keep what they have. No pixel depends on it.
"""

import ctypes
import logging
import warnings

import cv2
from PIL import Image


def setup():
    """Sets limits, threads, loggers and memory of this process; again is no harm."""
    # `images.MAX_PIXELS` is checked before any decoding; Pillow's own limit is lower.
    Image.MAX_IMAGE_PIXELS = None
    # Remarks on odd metadata help nobody who prepares 30,000 images.
    warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
    for name in ("tifffile", "imagecodecs"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    # Images are decoded side by side; threads inside one resize would only compete.
    cv2.setNumThreads(1)
    _keep_freed_memory()


def give_back_memory():
    """Hands freed memory to the system, which `setup` lets a process keep."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _keep_freed_memory():
    """Lets glibc reuse the memory of freed planes instead of handing it back each time.

    Planes of some hundred kilobytes would otherwise be mapped anew, page fault by page
    fault, which took a third of the pipeline's CPU time.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-3, 32 << 20)  # M_MMAP_THRESHOLD: the largest value there is
        mallopt(-1, 64 << 20)  # M_TRIM_THRESHOLD

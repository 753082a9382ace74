"""What a process that works on images sets for all of itself.

Nothing here happens on import: commands and worker processes call `setup`, programs
that import the package keep what they have. No pixel depends on it.
"""

import logging
import warnings

import cv2
from PIL import Image

from sdfl_jax.devices import memory


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
    memory.keep_planes()

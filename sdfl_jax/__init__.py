"""Finds manipulated pixels in images: networks, training, evaluation, prediction.

`load` gives a trained network that answers for images, `metrics.report` scores masks of
any program, `models.build` makes a network and `weights.from_torch` fills it. Nothing
is imported before it is used.
"""

import lazy_loader

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

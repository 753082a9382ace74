"""Finds manipulated pixels in images: networks, training, evaluation, prediction."""

__version__ = "0.1.0"

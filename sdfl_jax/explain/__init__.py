"""Explanations of a network: which pixels its score depends on, maps of its layers.

Every function takes a network of `sdfl_jax.models`, its variables and images in [0, 1],
and runs under `jax.jit`. What is explained is the score of a class (`class_score`), by
default "manipulated".
"""

import lazy_loader

METHODS = ("saliency", "grad_cam", "integrated_gradients")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

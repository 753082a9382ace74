"""Explanations of a network: which pixels its score depends on, maps of its layers.

Every function takes a network of `sdfl_jax.models`, its variables and images in [0, 1],
and runs under `jax.jit`. What is explained is the score of a class (`class_score`), by
default "manipulated".
"""

from sdfl_jax.explain.grad_cam import default_layer, grad_cam
from sdfl_jax.explain.gradients import integrated_gradients, saliency
from sdfl_jax.explain.layers import IMAGE, find_layers, look, notable_layers
from sdfl_jax.explain.score import class_score, predicted_class

__all__ = [
    "IMAGE",
    "class_score",
    "default_layer",
    "find_layers",
    "grad_cam",
    "integrated_gradients",
    "look",
    "notable_layers",
    "predicted_class",
    "saliency",
]

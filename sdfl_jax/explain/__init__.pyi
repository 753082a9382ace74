from .activations import IMAGE, find_layers, look, notable_layers
from .cam import default_layer, grad_cam
from .gradients import integrated_gradients, saliency
from .score import class_score, predicted_class

METHODS: tuple[str, ...]

__all__ = [
    "IMAGE",
    "METHODS",
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

"""Encoders by name: RGB in, features at strides 4, 8, 16 and 32 out.

Each takes `norm` (a BatchNorm with its settings), `dtype` and `remat`, and declares
the `mean` and `std` of RGB in [0, 1] that its published weights expect.
"""

from sdfl_jax.models.encoders.convnext import convnext_tiny
from sdfl_jax.models.encoders.densenet import densenet121
from sdfl_jax.models.encoders.efficientnet_lite import efficientnet_lite0
from sdfl_jax.models.encoders.resnet import (
    resnet18,
    resnet50,
    resnet50_deep,
    resnet101,
)
from sdfl_jax.models.encoders.xception import Xception

ENCODERS = {
    "convnext_tiny": convnext_tiny,
    "densenet121": densenet121,
    "efficientnet_lite0": efficientnet_lite0,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet50_deep": resnet50_deep,
    "resnet101": resnet101,
    "xception": Xception,
}

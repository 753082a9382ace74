"""Encoders by name: RGB in, features at strides 4, 8, 16 and 32 out.

Each takes `norm` (a BatchNorm with its settings), `dtype` and `remat`, and declares
the `mean` and `std` of RGB in [0, 1] that its published weights expect.
"""

from sdfl_jax.models.encoders.convnext import convnext_tiny
from sdfl_jax.models.encoders.densenet import densenet121
from sdfl_jax.models.encoders.efficientnet_lite import efficientnet_lite0
from sdfl_jax.models.encoders.mit import (
    mit_b0,
    mit_b1,
    mit_b2,
    mit_b3,
    mit_b4,
    mit_b5,
)
from sdfl_jax.models.encoders.noiseprint import Noiseprint
from sdfl_jax.models.encoders.resnet import (
    resnet10_narrow,
    resnet18,
    resnet50,
    resnet50_deep,
    resnet101,
)
from sdfl_jax.models.encoders.vit import (
    vit_base_patch14_dinov2,
    vit_base_patch16_dinov3,
    vit_large_patch14_dinov2,
    vit_large_patch16_dinov3,
    vit_small_patch14_dinov2,
    vit_small_patch16_dinov3,
)
from sdfl_jax.models.encoders.xception import Xception

# These see an image beside another encoder.
NOISE_ENCODERS = {"noiseprint": Noiseprint}
ENCODERS = {
    "convnext_tiny": convnext_tiny,
    "densenet121": densenet121,
    "efficientnet_lite0": efficientnet_lite0,
    "mit_b0": mit_b0,
    "mit_b1": mit_b1,
    "mit_b2": mit_b2,
    "mit_b3": mit_b3,
    "mit_b4": mit_b4,
    "mit_b5": mit_b5,
    "resnet10_narrow": resnet10_narrow,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet50_deep": resnet50_deep,
    "resnet101": resnet101,
    "vit_base_patch14_dinov2": vit_base_patch14_dinov2,
    "vit_base_patch16_dinov3": vit_base_patch16_dinov3,
    "vit_large_patch14_dinov2": vit_large_patch14_dinov2,
    "vit_large_patch16_dinov3": vit_large_patch16_dinov3,
    "vit_small_patch14_dinov2": vit_small_patch14_dinov2,
    "vit_small_patch16_dinov3": vit_small_patch16_dinov3,
    "xception": Xception,
}

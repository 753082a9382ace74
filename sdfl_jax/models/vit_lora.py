"""A frozen foundation model with low-rank adapters under three convolutions.

The network of DINOv3-IML: the encoder keeps what it learnt from 1.7 billion pictures,
and only adapters of its attention and the head are trained.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError, valid
from sdfl_jax.models.encoders import ENCODERS
from sdfl_jax.models.layers import BatchNorm, Conv, normalised, resize
from sdfl_jax.models.lora import Lora, adapted
from sdfl_jax.models.names import TorchNames
from sdfl_jax.models.outputs import Outputs, of_mask

TORCH_NAMES = TorchNames(
    to_path=(
        (r"^seg_head\.0\.", "head/conv1/"),
        (r"^seg_head\.1\.", "head/bn1/"),
        (r"^seg_head\.3\.", "head/conv2/"),
        (r"^seg_head\.4\.", "head/bn2/"),
        (r"^seg_head\.6\.", "head/out/"),
        (r"^backbone\.", ""),
        (r"^(?!head/)", "encoder/"),
    ),
    to_torch=(
        (r"^head/conv1/", "seg_head/0/"),
        (r"^head/bn1/", "seg_head/1/"),
        (r"^head/conv2/", "seg_head/3/"),
        (r"^head/bn2/", "seg_head/4/"),
        (r"^head/out/", "seg_head/6/"),
        (r"^encoder/", ""),
    ),
)
# As PyTorch's `kaiming_normal_` with "fan_out".
_INIT = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class ConvHead(nn.Module):
    """One logit per patch, float32: two 3x3 convolutions that halve, then a 1x1."""

    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], *, train: bool
    ) -> Float[Array, "B h w 1"]:
        conv = functools.partial(
            Conv, use_bias=True, dtype=self.dtype, kernel_init=_INIT
        )
        C = x.shape[-1]
        for i, features in enumerate((C // 2, C // 4), 1):
            x = conv(features, name=f"conv{i}")(x)
            x = nn.relu(self.norm(name=f"bn{i}")(x, train=train))
        return conv(1, 1, name="out")(x).astype(jnp.float32)


class VitSegmenter(nn.Module):
    """Made by `build`, which says what the settings mean."""

    encoder: nn.Module
    norm: Callable[..., nn.Module]
    dtype: Any

    torch_names: ClassVar = TORCH_NAMES

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool) -> Outputs:
        """Logits for RGB in [0, 1]; the label's is the highest of the mask's."""
        x = self.encoder(normalised(image, self.encoder), train=train)
        x = ConvHead(self.norm, self.dtype, name="head")(x, train=train)
        H, W = image.shape[1:3]
        patch = self.encoder.patch  # the encoder pads to whole ones
        x = resize(x, x.shape[1] * patch, x.shape[2] * patch)
        return of_mask(x[:, :H, :W])


def build(
    *,
    encoder: str = "vit_small_patch16_dinov3",
    lora_rank: int = 32,
    lora_alpha: float = 64.0,
    bn_group: int = 0,
    bn_momentum: float = 0.9,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> nn.Module:
    """The network of DINOv3-IML.

    encoder       one of ENCODERS whose name begins with "vit_"
    lora_rank     of the adapters beside each block's query, key and value; 0: none
    lora_alpha    these are multiplied by lora_alpha / lora_rank
    bn_group, bn_momentum, dtype, remat    as in `sdfl.build`
    """
    plain = [n for n, e in ENCODERS.items() if getattr(e(), "plain", False)]
    if encoder not in plain:
        raise InputError(f"vit_lora: no encoder {encoder!r}; {valid(encoder, plain)}")
    if lora_rank < 0 or not lora_alpha > 0:
        raise InputError(
            f"lora_rank={lora_rank}, lora_alpha={lora_alpha}: neither below 0."
        )
    dtype = jnp.dtype(dtype)
    norm = functools.partial(
        BatchNorm, momentum=bn_momentum, group=bn_group, dtype=dtype
    )
    network = VitSegmenter(
        encoder=ENCODERS[encoder](norm=norm, dtype=dtype, remat=remat),
        norm=norm,
        dtype=dtype,
    )
    if not lora_rank:
        return network
    return adapted(network, Lora(("encoder/*/qkv",), lora_rank, lora_alpha))

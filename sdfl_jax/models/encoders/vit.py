"""Plain vision transformers: DINOv2 (Oquab et al., 2023), DINOv3 (Siméoni, 2025).

One map of features at the stride of a patch, from images of any size; trained without
labels on so many pictures that a frozen one serves.
"""

import functools
import math
from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import Conv, Dense, LayerNorm, attention, run_block
from sdfl_jax.models.names import HEADS, Rules, TorchNames

_TO_PATH = (
    (r"^(?:backbone|model)\.", ""),
    (r"^storage_tokens$", "reg_token"),  # Meta's name; the others are timm's
    (r"^patch_embed\.proj\.", "patch_embed/"),
    (r"^norm\.", "norm/"),
    (r"^blocks\.(\d+)\.", r"block\1/"),
    (r"/attn\.(qkv|proj)\.", r"/\1/"),
    (r"/mlp\.(fc\d)\.", r"/\1/"),
    (r"/(norm\d)\.", r"/\1/"),
    (r"/gamma_(\d)$", r"/layer_scale\1"),
    (r"/ls(\d)\.gamma$", r"/layer_scale\1"),
    # peft's names of adapters, and of what it adapts.
    (r"/base_layer\.", "/"),
    (r"/lora_A(\..*)?$", "/lora_a"),
    (r"/lora_B(\..*)?$", "/lora_b"),
)


def _to_torch(layer_scale: str) -> Rules:
    return (
        (r"^patch_embed/", "patch_embed/proj/"),
        (r"\b(qkv|proj)/(kernel|bias|lora_.)$", r"attn/\1/\2"),
        (r"patch_embed/attn/proj/", "patch_embed/proj/"),
        (r"\b(fc\d)/", r"mlp/\1/"),
        (r"^block(\d+)/", r"blocks/\1/"),
        (r"/layer_scale(\d)$", layer_scale),
        (r"/lora_a$", "/lora_A"),
        (r"/lora_b$", "/lora_B"),
    )


# What Meta's files hold beside: a token that hides patches in training, a mask of the
# key's bias (zero as all of that bias, which is why DINOv3 has none here) and the
# periods of the rotation, which are computed here.
_UNUSED = (*HEADS, "mask_token", "rope_embed.periods")


class Block(nn.Module):
    """Attention, then a hidden layer four times as wide, both scaled by channel.

    `rotation` is of `rotary_table`, or nothing.
    """

    heads: int
    eps: float
    qkv_bias: bool
    dtype: Any

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B N C"],
        *rotation: Float[np.ndarray, "n D"] | Float[Array, "n D"],
        train: bool,
    ) -> Float[Array, "B N C"]:
        del train  # the same in both modes
        B, N, C = x.shape
        norm = functools.partial(LayerNorm, epsilon=self.eps, dtype=self.dtype)
        dense = functools.partial(Dense, dtype=self.dtype, kernel_init=_INIT)

        qkv = dense(3 * C, use_bias=self.qkv_bias, name="qkv")(norm(name="norm1")(x))
        qkv = qkv.reshape(B, N, 3, self.heads, C // self.heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]  # B N h D
        if rotation:
            q, k = _rotated(q, *rotation), _rotated(k, *rotation)
        y = attention(q, k, v).reshape(B, N, C)
        x = x + self._scaled(dense(C, name="proj")(y), "layer_scale1")

        y = dense(4 * C, name="fc1")(norm(name="norm2")(x))
        y = dense(C, name="fc2")(nn.gelu(y, approximate=False))
        return x + self._scaled(y, "layer_scale2")

    def _scaled(self, y, name):
        scale = self.param(name, nn.initializers.constant(1e-5), (y.shape[-1],))
        return y * scale.astype(self.dtype)[None, None]


_INIT = nn.initializers.truncated_normal(0.02)


class ViT(Encoder):
    """Returns its patches' features after the final norm, (B, ceil(H/p), ceil(W/p), C).

    The image is padded below and on the right by zeros to whole patches. With `blocks`,
    counted from 1, a list: the features after each of these, after the final norm too.
    There is no batch norm: `norm` is not used.
    """

    width: int
    depth: int
    heads: int
    patch: int
    blocks: Sequence[int] = ()

    plain: ClassVar[bool] = True  # one map, where other encoders return four

    @nn.compact
    def __call__(self, x: Float[Array, "B H W 3"], *, train: bool):
        B, H, W, _ = x.shape
        p, C = self.patch, self.width
        x = jnp.pad(x, ((0, 0), (0, -H % p), (0, -W % p), (0, 0)))
        embed = Conv(
            C,
            p,
            p,
            padding=0,
            use_bias=True,
            dtype=self.dtype,
            kernel_init=_INIT,
            name="patch_embed",
        )
        x = embed(x)
        h, w = x.shape[1:3]
        x, first, rotation = self._tokens(x.reshape(B, h * w, C), h, w)

        norm = LayerNorm(epsilon=self.eps, dtype=self.dtype, name="norm")
        kept = {}
        for i in range(1, self.depth + 1):
            block = Block(
                self.heads, self.eps, self.qkv_bias, self.dtype, name=f"block{i - 1}"
            )
            x = run_block(block, x, *rotation, train=train, remat=self.remat)
            if i in self.blocks or i == self.depth:
                kept[i] = norm(x)[:, first:].reshape(B, h, w, C)
        return [kept[i] for i in self.blocks] if self.blocks else kept[self.depth]

    def _start(self, name: str, count: int, B: int) -> Float[Array, "B n C"]:
        shape = (1, count, self.width)
        token = self.param(name, nn.initializers.normal(0.02), shape, jnp.float32)
        return jnp.broadcast_to(token, (B, *shape[1:])).astype(self.dtype)


class DinoV3(ViT):
    """With four registers; the patches' places turn queries and keys."""

    eps: ClassVar[float] = 1e-5
    qkv_bias: ClassVar[bool] = False
    torch_names: ClassVar = TorchNames(
        _TO_PATH,
        _to_torch(r"/gamma_\1"),
        _UNUSED,
        unused_ends=(".qkv.bias", ".qkv.bias_mask"),
    )

    def _tokens(self, patches, h, w):
        B = len(patches)
        first = [self._start("cls_token", 1, B), self._start("reg_token", 4, B)]
        rotation = rotary_table(h, w, self.width // self.heads)
        return jnp.concatenate([*first, patches], axis=1), 5, rotation


class DinoV2(ViT):
    """With a table of places made for 37 x 37 patches, resized to what there are."""

    eps: ClassVar[float] = 1e-6
    qkv_bias: ClassVar[bool] = True
    grid: ClassVar[int] = 37
    torch_names: ClassVar = TorchNames(_TO_PATH, _to_torch(r"/ls\1/gamma"), _UNUSED)

    def _tokens(self, patches, h, w):
        shape = (1, 1 + self.grid**2, self.width)
        table = self.param("pos_embed", nn.initializers.normal(0.02), shape)
        x = jnp.concatenate([self._start("cls_token", 1, len(patches)), patches], 1)
        places = resized_places(table, self.grid, h, w)
        return x + places.astype(self.dtype), 1, ()


def rotary_table(h: int, w: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Sines and cosines, each (h*w, width), that turn what stands at each place.

    A quarter of `width` periods from 1 to 100, along each axis, whose coordinates go
    from -1 to 1; the half of the channels that a rotation pairs has the same angles.
    """
    centres = [2 * (np.arange(size) + 0.5) / size - 1 for size in (h, w)]
    periods = 100 ** (np.arange(width // 4) / (width // 4))
    y, x = (2 * math.pi * axis[:, None] / periods for axis in centres)
    shape = (h, w, width // 4)
    angles = [np.broadcast_to(y[:, None], shape), np.broadcast_to(x[None], shape)]
    angles = np.tile(np.concatenate(angles, axis=-1).reshape(h * w, -1), (1, 2))
    return np.sin(angles).astype(np.float32), np.cos(angles).astype(np.float32)


def _rotated(x: Float[Array, "B N h D"], sin, cos) -> Float[Array, "B N h D"]:
    """Turns the last tokens, as many as the table has; those before stay."""
    first = x.shape[1] - len(sin)
    still, x_ = x[:, :first], x[:, first:].astype(jnp.float32)
    a, b = jnp.split(x_, 2, axis=-1)
    turned = jnp.concatenate([-b, a], axis=-1)
    x_ = x_ * cos[None, :, None] + turned * sin[None, :, None]
    return jnp.concatenate([still, x_.astype(x.dtype)], axis=1)


def resized_places(
    table: Float[Array, "1 n C"], grid: int, h: int, w: int
) -> Float[Array, "1 m C"]:
    """The table of a `grid` x `grid` of patches behind one token's, for h x w patches.

    Bicubic and smoothed where it shrinks, as timm does; Meta's own code neither smooths
    nor takes the same cubic.
    """
    if (h, w) == (grid, grid):
        return table
    one, rest = table[:, :1], table[:, 1:].reshape(1, grid, grid, -1)
    rest = jax.image.resize(rest, (1, h, w, rest.shape[-1]), "cubic", antialias=True)
    return jnp.concatenate([one, rest.reshape(1, h * w, -1)], axis=1)


_SMALL = dict(width=384, depth=12, heads=6)
_BASE = dict(width=768, depth=12, heads=12)
_LARGE = dict(width=1024, depth=24, heads=16)

vit_small_patch16_dinov3 = functools.partial(DinoV3, patch=16, **_SMALL)
vit_base_patch16_dinov3 = functools.partial(DinoV3, patch=16, **_BASE)
vit_large_patch16_dinov3 = functools.partial(DinoV3, patch=16, **_LARGE)
vit_small_patch14_dinov2 = functools.partial(DinoV2, patch=14, **_SMALL)
vit_base_patch14_dinov2 = functools.partial(DinoV2, patch=14, **_BASE)
vit_large_patch14_dinov2 = functools.partial(DinoV2, patch=14, **_LARGE)

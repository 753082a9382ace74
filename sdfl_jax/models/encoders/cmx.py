"""CMX (Zhang et al., 2023): two mix transformers that correct each other.

After every stage each branch takes from the other what its channels and places are
weighed to need, and both are fused into one map.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.encoders import mit
from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import Conv, Dense, LayerNorm
from sdfl_jax.models.names import TorchNames

TORCH_NAMES = TorchNames(
    to_path=(
        *mit.stage_to_path("extra_", "noise_stage"),
        *mit.stage_to_path("", "stage"),
        *mit.BLOCK_TO_PATH,
        *((rf"^FRMs\.{i}\.", f"rectify{i + 1}/") for i in range(4)),
        *((rf"^FFMs\.{i}\.", f"fuse{i + 1}/") for i in range(4)),
        (r"/(channel|spatial)_weights\.mlp\.(\d)\.", r"/\1\2/"),
        (r"/cross\.cross_attn\.", "/cross."),
        (r"/channel_emb\.channel_embed\.(\d)\.", r"/mix/embed\1/"),
        (r"/channel_emb\.", "/mix/"),
    ),
    to_torch=(
        *mit.BLOCK_TO_TORCH,
        *mit.stage_to_torch("extra_", "noise_stage"),
        *mit.stage_to_torch("", "stage"),
        (r"/(channel|spatial)(\d)/", r"/\1_weights/mlp/\2/"),
        (r"/cross/kv", "/cross/cross_attn/kv"),
        (r"/mix/embed(\d)/", r"/channel_emb/channel_embed/\1/"),
        (r"/mix/", "/channel_emb/"),
        *((f"^rectify{i + 1}/", f"FRMs/{i}/") for i in range(4)),
        *((f"^fuse{i + 1}/", f"FFMs/{i}/") for i in range(4)),
    ),
)


class Rectify(nn.Module):
    """Adds to each map a share of the other, weighed by channel and by place."""

    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], e: Float[Array, "B h w C"]
    ) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w C"]]:
        C = x.shape[-1]
        both = jnp.concatenate([x, e], axis=-1)
        pooled = [jnp.mean(both, axis=(1, 2)), jnp.max(both, axis=(1, 2))]
        y = Dense(4 * C, dtype=self.dtype, name="channel0")(jnp.concatenate(pooled, -1))
        y = Dense(2 * C, dtype=self.dtype, name="channel2")(nn.relu(y))
        of_e, of_x = jnp.split(nn.sigmoid(y)[:, None, None], 2, axis=-1)

        s = Conv(C, 1, use_bias=True, dtype=self.dtype, name="spatial0")(both)
        s = Conv(2, 1, use_bias=True, dtype=self.dtype, name="spatial2")(nn.relu(s))
        s = nn.sigmoid(s)
        return x + 0.5 * (of_x + s[..., 1:]) * e, e + 0.5 * (of_e + s[..., :1]) * x


class Cross(nn.Module):
    """Each map asks the other: queries of one, context of keys and values of the other.

    The context is one heads x D x D matrix an image, so that the cost is linear.
    """

    heads: int
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], e: Float[Array, "B h w C"]
    ) -> tuple[Float[Array, "B h w C"], Float[Array, "B h w C"]]:
        B, h, w, C = x.shape
        kept, asks, contexts = [], [], []
        split = lambda x: x.reshape(B, h * w, self.heads, C // self.heads)
        for i, x_ in ((1, x), (2, e)):
            y = Dense(2 * C, dtype=self.dtype, name=f"channel_proj{i}")(x_)
            y, u = jnp.split(nn.relu(y), 2, axis=-1)
            kv = Dense(2 * C, use_bias=False, dtype=self.dtype, name=f"kv{i}")(u)
            k, v = (split(part) for part in jnp.split(kv, 2, axis=-1))
            scale = (C // self.heads) ** -0.5
            context = _product("bnhd,bnhe->bhde", k, v) * scale
            contexts.append(nn.softmax(context, axis=-2).astype(self.dtype))
            kept.append(y)
            asks.append(split(u))
        outputs = []
        for i, x_ in ((1, x), (2, e)):
            found = _product("bnhd,bhde->bnhe", asks[i - 1], contexts[2 - i])
            found = found.astype(self.dtype).reshape(B, h, w, C)
            y = jnp.concatenate([kept[i - 1], found], axis=-1)
            y = x_ + Dense(C, dtype=self.dtype, name=f"end_proj{i}")(y)
            norm = LayerNorm(epsilon=1e-5, dtype=self.dtype, name=f"norm{i}")
            outputs.append(norm(y))
        return tuple(outputs)


def _product(axes, a, b):
    """In float32: sums over all positions, under a softmax."""
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)


class Mix(nn.Module):
    """Two maps to one of half their channels: a 1x1 convolution beside a deeper way."""

    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], *, train: bool
    ) -> Float[Array, "B h w _"]:
        C = x.shape[-1] // 2
        conv = lambda kernel, name, **settings: Conv(
            C, kernel, dtype=self.dtype, name=name, **settings
        )
        y = conv(1, "embed0", use_bias=True)(x)
        y = nn.relu(conv(3, "embed1", use_bias=True, groups=C)(y))
        y = self.norm(name="embed4")(conv(1, "embed3", use_bias=True)(y), train=train)
        return self.norm(name="norm")(conv(1, "residual")(x) + y, train=train)


class Fuse(nn.Module):
    """Attention across the two maps, then one map of both."""

    heads: int
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], e: Float[Array, "B h w C"], *, train: bool
    ) -> Float[Array, "B h w C"]:
        both = Cross(self.heads, self.dtype, name="cross")(x, e)
        mix = Mix(self.norm, self.dtype, name="mix")
        return mix(jnp.concatenate(both, axis=-1), train=train)


class Cmx(Encoder):
    """Returns the fused maps of an image and of another map, at strides 4 to 32."""

    depths: Sequence[int]
    widths: Sequence[int] = (64, 128, 320, 512)
    drop_path: float = 0.1
    stem_bias: bool = True

    torch_names: ClassVar = TORCH_NAMES

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        other: Float[Array, "B H W 3"],
        *,
        train: bool,
    ) -> list[Float[Array, "B _ _ _"]]:
        x, e, maps = image, other, []
        pairs = zip(mit.stages(self), mit.stages(self, "noise_stage"), strict=True)
        for i, (stage, noise_stage) in enumerate(pairs, 1):
            x, e = stage(x, train=train), noise_stage(e, train=train)
            x, e = Rectify(self.dtype, name=f"rectify{i}")(x, e)
            fuse = Fuse(stage.heads, self.norm, self.dtype, name=f"fuse{i}")
            maps.append(fuse(x, e, train=train))
        return maps

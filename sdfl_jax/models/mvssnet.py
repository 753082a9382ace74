"""MVSS-Net (Chen et al., ICCV 2021): an edge branch, a noise branch, dual attention."""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError, valid
from sdfl_jax.models import bayar
from sdfl_jax.models.encoders.efficientnet_lite import efficientnet_lite0
from sdfl_jax.models.encoders.resnet import resnet10_narrow, resnet50
from sdfl_jax.models.layers import BatchNorm, Conv, ConvBlock, grey, resize_corners
from sdfl_jax.models.names import TorchNames
from sdfl_jax.models.outputs import Outputs, of_mask
from sdfl_jax.ops.conv import conv2d

DILATIONS = (1, 2, 4)  # of the last stage, which stays at stride 16


def _undilated(*, dilations, **how) -> nn.Module:
    """EfficientNet-Lite0, whose last stage goes down to stride 32."""
    return efficientnet_lite0(**how)


# The reference's, and two for small studies; all take RGB as it is.
ENCODERS = {
    "resnet50": resnet50,
    "resnet10_narrow": resnet10_narrow,
    "efficientnet_lite0": _undilated,
}

TORCH_NAMES = TorchNames(
    to_path=(
        (r"^model\.", "encoder/"),
        (r"^noise_extractor\.model\.", "noise_encoder/"),
        (r"^constrain_conv\.", "bayar_conv/"),
        (r"^erb_db_(\d)\.", r"edge/in\1/"),
        (r"^erb_trans_(\d)\.", r"edge/out\1/"),
        (r"^sobel_([xy])(\d)\.0\.weight$", r"batch_stats/edge/sobel\2/\1"),
        (r"^sobel_([xy])(\d)\.1\.", r"edge/sobel\2/\1_bn/"),
        (r"^head\.(conv_\w\d)\.0\.", r"head/\1/conv/"),
        (r"^head\.(conv_\w\d)\.1\.", r"head/\1/bn/"),
        (r"^head\.out\.1\.", "head/out/"),
    ),
    to_torch=(
        (r"^encoder/", "model/"),
        (r"^noise_encoder/", "noise_extractor/model/"),
        (r"^bayar_conv/", "constrain_conv/"),
        (r"^edge/in(\d)/", r"erb_db_\1/"),
        (r"^edge/out(\d)/", r"erb_trans_\1/"),
        (r"^edge/sobel(\d)/([xy])$", r"sobel_\2\1/0/weight"),
        (r"^edge/sobel(\d)/([xy])_bn/", r"sobel_\2\1/1/"),
        (r"^head/(conv_\w\d)/conv/", r"head/\1/0/"),
        (r"^head/(conv_\w\d)/bn/", r"head/\1/1/"),
        (r"^head/out/", "head/out/1/"),
    ),
)


class MvssNet(nn.Module):
    """Made by `build`, which says what the settings mean."""

    encoder: nn.Module
    noise_encoder: nn.Module
    dropout: float
    norm: Callable[..., nn.Module]
    dtype: Any

    torch_names: ClassVar = TORCH_NAMES

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool) -> Outputs:
        """Logits for RGB in [0, 1]: of the mask, and of edges at a quarter of its size.

        The label's is the highest of the mask's. The reference feeds its probability,
        not this logit, to its with-logits loss.
        """
        maps = self.encoder(image, train=train)
        noise = bayar.BayarConv(name=bayar.NAME)(grey(image))
        *_, noise_top = self.noise_encoder(noise, train=train)

        parts = {"norm": self.norm, "dtype": self.dtype}
        edge = EdgeBranch(**parts, name="edge")(maps, train=train)
        head = DualAttention(self.dropout, **parts, name="head")
        top = jnp.concatenate([maps[-1], noise_top], axis=-1)
        mask_logits = resize_corners(head(top, train=train), *image.shape[1:3])
        outputs = of_mask(mask_logits)
        return outputs.replace(edge_logits=edge, label_loss_input=outputs.image_score())


class EdgeBranch(nn.Module):
    """One logit per position of the finest map: is it on the border of a region?"""

    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(self, maps, *, train: bool) -> Float[Array, "B h w 1"]:
        block = functools.partial(EdgeBlock, norm=self.norm, dtype=self.dtype)
        x = None
        for i, stage in enumerate(maps, 1):
            edges = Sobel(self.norm, self.dtype, name=f"sobel{i}")(stage, train=train)
            y = block(name=f"in{i}")(edges, train=train)
            if x is None:
                x = nn.relu(y)
                continue
            x = block(name=f"out{i - 1}")(
                x + resize_corners(nn.relu(y), *x.shape[1:3]), train=train
            )
            x = nn.relu(x) if i < len(maps) else x
        return x.astype(jnp.float32)


class EdgeBlock(nn.Module):
    """To one channel, then two 3x3 convolutions beside a shortcut; no ReLU after it."""

    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w _"], *, train: bool
    ) -> Float[Array, "B h w 1"]:
        conv = functools.partial(Conv, 1, use_bias=True, dtype=self.dtype)
        x = conv(1, name="conv1")(x)
        y = conv(3, name="conv2")(x)
        y = nn.relu(self.norm(name="bn")(y, train=train))
        return x + conv(3, name="conv3")(y)


class Sobel(nn.Module):
    """Weighs every position by how much changes around it, over all channels together.

    The two kernels are kept with the running statistics: the reference's files hold
    them, but no optimizer moves them.
    """

    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], *, train: bool
    ) -> Float[Array, "B h w C"]:
        across = jnp.array([[1.0, 0, -1], [2, 0, -2], [1, 0, -1]])
        squares = 0
        for name, kernel in (("x", across), ("y", across.T)):
            whole = lambda kernel=kernel: jnp.tile(
                kernel[..., None, None], (1, 1, x.shape[-1], 1)
            )
            stored = self.variable("batch_stats", name, whole)
            change = conv2d(x, stored.value.astype(self.dtype), padding=1)
            squares += jnp.square(self.norm(name=f"{name}_bn")(change, train=train))
        # Of a flat map the root has no gradient; PyTorch's would be no number there.
        flat = squares == 0
        size = jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, squares)))
        return jax.nn.sigmoid(size) * x


class DualAttention(nn.Module):
    """Fu et al., 2019: positions attend to positions, channels to channels."""

    dropout: float
    norm: Callable[..., nn.Module]
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], *, train: bool
    ) -> Float[Array, "B h w 1"]:
        width = x.shape[-1] // 4
        block = functools.partial(ConvBlock, width, norm=self.norm, dtype=self.dtype)
        by_position = block(name="conv_p1")(x, train=train)
        by_position = PositionAttention(self.dtype, name="pam")(by_position)
        by_position = block(name="conv_p2")(by_position, train=train)
        by_channel = block(name="conv_c1")(x, train=train)
        by_channel = ChannelAttention(name="cam")(by_channel)
        by_channel = block(name="conv_c2")(by_channel, train=train)
        x = by_position + by_channel
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        x = Conv(1, 1, use_bias=True, dtype=self.dtype, name="out")(x)
        return x.astype(jnp.float32)


class PositionAttention(nn.Module):
    """Adds to every position a mixture of all, weighted by how alike they are."""

    dtype: Any

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        B, h, w, C = x.shape
        conv = functools.partial(Conv, kernel=1, use_bias=True, dtype=self.dtype)
        flat = lambda x: x.reshape(B, h * w, -1)
        query = flat(conv(C // 8, name="conv_b")(x))
        key = flat(conv(C // 8, name="conv_c")(x))
        value = flat(conv(C, name="conv_d")(x))
        weights = nn.softmax(_product("bnc,bmc->bnm", query, key))
        mixed = _product("bnm,bmc->bnc", weights.astype(x.dtype), value)
        alpha = self.param("alpha", nn.initializers.zeros, (1,))[None, None, None]
        return (alpha * mixed.reshape(x.shape) + x).astype(x.dtype)


class ChannelAttention(nn.Module):
    """Adds to every channel a mixture of all, of the least alike the most."""

    @nn.compact
    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        B, h, w, C = x.shape
        flat = x.reshape(B, h * w, C)
        alike = _product("bnc,bnd->bcd", flat, flat)
        weights = nn.softmax(jnp.max(alike, axis=-1, keepdims=True) - alike)
        mixed = _product("bcd,bnd->bnc", weights.astype(x.dtype), flat)
        beta = self.param("beta", nn.initializers.zeros, (1,))[None, None, None]
        return (beta * mixed.reshape(x.shape) + x).astype(x.dtype)


def _product(axes: str, a, b):
    """An einsum in float32: a softmax magnifies what less would round away."""
    return jnp.einsum(
        axes,
        a,
        b,
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def build(
    *,
    encoder: str = "resnet50",
    dropout: float = 0.1,
    bn_group: int = 0,
    bn_momentum: float = 0.9,
    freeze_encoder_bn: bool = False,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> MvssNet:
    """The study's baseline, as in its reference.

    encoder    one of ENCODERS, for both branches; the reference's is "resnet50"
    dropout    share of the head's features that training leaves out
    bn_group, bn_momentum, freeze_encoder_bn, dtype, remat    as in `sdfl.build`
    """
    if encoder not in ENCODERS:
        raise InputError(f"No encoder {encoder!r}; {valid(encoder, ENCODERS)}")
    dtype = jnp.dtype(dtype)
    norm = functools.partial(
        BatchNorm, momentum=bn_momentum, group=bn_group, dtype=dtype
    )
    make = functools.partial(
        ENCODERS[encoder], dilations=DILATIONS, dtype=dtype, remat=remat
    )
    return MvssNet(
        encoder=make(norm=functools.partial(norm, frozen=freeze_encoder_bn)),
        noise_encoder=make(norm=norm),
        dropout=dropout,
        norm=norm,
        dtype=dtype,
    )

"""A small network for photographs that nobody here made; `starter`'s weights fit it."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from sdfl_jax.errors import InputError, valid
from sdfl_jax.models import canvas
from sdfl_jax.models.encoders import ENCODERS
from sdfl_jax.models.layers import (
    BatchNorm,
    Conv,
    highest_means,
    normalised,
    resize,
)
from sdfl_jax.models.outputs import Outputs

_GROUP = 8  # channels that share a group norm's statistics
_MOST_POSITIONS = 1024  # that every position of a map is compared with
_APART = 2  # positions: what lies nearer resembles a position because it overlaps it


class Starter(nn.Module):
    """Content, noise at full resolution, and what repeats itself in the image.

    Made by `build`, which says what the settings mean. Beyond the encoder every
    normalisation is a group norm: the same in training and in evaluation, and relative
    to the image at hand, which is what a region is out of place in.
    """

    encoder: nn.Module
    width: int
    noise_width: int
    attention: bool
    correlation: bool
    dtype: Any
    on_canvas = True

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool) -> Outputs:
        """Logits for RGB in [0, 1]; the mask's at the size of the image."""
        block = functools.partial(Block, dtype=self.dtype)
        maps = self.encoder(normalised(image, self.encoder), train=train)
        if self.noise_width:
            noise = NoiseBranch(self.noise_width, dtype=self.dtype, name="noise")(image)
            maps = [
                x if i >= len(noise) else jnp.concatenate([x, noise[i]], axis=-1)
                for i, x in enumerate(maps)
            ]
        fine, middle, coarse, deep = maps

        x = block(2 * self.width, 1, name="deep")(deep)
        x = resize(x, *coarse.shape[1:3])
        x += block(2 * self.width, 1, name="coarse")(coarse)
        if self.attention:
            x = Attention(dtype=self.dtype, name="attention")(x)
        context = canvas.mean(x)  # B F
        x = block(2 * self.width, name="coarse_out")(x)
        pooled = x

        lateral = [middle]
        if self.correlation:
            lateral.append(SelfCorrelation(name="correlation")(middle))
        x = block(self.width, 1, name="coarse_down")(x)
        x = resize(x, *middle.shape[1:3])
        x += block(self.width, 1, name="middle")(jnp.concatenate(lateral, axis=-1))
        x += nn.Dense(self.width, name="context")(context)[:, None, None]
        x = block(self.width, name="middle_out")(x)

        x = resize(x, *fine.shape[1:3])
        x += block(self.width, 1, name="fine")(fine)
        x = block(self.width, name="fine_out")(x)
        out = Conv(1, 1, use_bias=True, dtype=self.dtype, name="mask_head")
        mask_logits = out(x).astype(jnp.float32)
        label_logits = LabelHead(name="label_head")(pooled, mask_logits)
        return Outputs(
            mask_logits=resize(mask_logits, *image.shape[1:3]),
            label_logits=label_logits,
        )


def build(
    *,
    encoder: str = "efficientnet_lite0",
    width: int = 48,
    noise_width: int = 24,
    attention: bool = True,
    correlation: bool = True,
    bn_momentum: float = 0.99,
    freeze_encoder_bn: bool = True,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Starter:
    """The network of the weights that ship with the package.

    encoder       one of ENCODERS, for the image
    width         channels of the decoder at 1/4 and 1/8, twice as many at 1/16
    noise_width   channels of the noise branch at 1/4, twice as many at each further
                  halving; 0 leaves it out
    attention     every position at 1/16 looks at all others
    correlation   how much each position at 1/8 resembles another one, for copy-move
    bn_momentum   how much of the encoder's running statistics a step keeps
    freeze_encoder_bn  the encoder keeps its running statistics in training: on a CPU
                  that is half of a step. What they let grow, the decoder's own
                  normalisation brings back
    dtype         of the computation; parameters, statistics and outputs are float32
    remat         see `sdfl.build`
    """
    if encoder not in ENCODERS:
        raise InputError(f"No encoder {encoder!r}; {valid(encoder, ENCODERS)}")
    dtype = jnp.dtype(dtype)
    norm = functools.partial(
        BatchNorm, momentum=bn_momentum, frozen=freeze_encoder_bn, dtype=dtype
    )
    return Starter(
        encoder=ENCODERS[encoder](norm=norm, dtype=dtype, remat=remat),
        width=width,
        noise_width=noise_width,
        attention=attention,
        correlation=correlation,
        dtype=dtype,
    )


class Block(nn.Module):
    """Convolution, group norm, ReLU."""

    features: int
    kernel: int = 3
    strides: int = 1
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W _"]
    ) -> Float[Array, "B h w {self.features}"]:
        conv = Conv(
            self.features, self.kernel, self.strides, dtype=self.dtype, name="conv"
        )
        norm = nn.GroupNorm(
            num_groups=max(1, self.features // _GROUP), dtype=self.dtype, name="norm"
        )
        x = conv(x)
        return nn.relu(norm(x, mask=canvas.inside(x)))


# Residuals of the spatial rich models (Fridrich and Kodovsky 2012) that Zhou et al.
# ("Learning rich features for image manipulation detection", CVPR 2018) took: what is
# left of a pixel once its neighbours have told all they know.
_SQUARE = np.array(
    [
        [-1, 2, -2, 2, -1],
        [2, -6, 8, -6, 2],
        [-2, 8, -12, 8, -2],
        [2, -6, 8, -6, 2],
        [-1, 2, -2, 2, -1],
    ]
)
_CORNER = np.zeros((5, 5))
_CORNER[1:4, 1:4] = [[-1, 2, -1], [2, -4, 2], [-1, 2, -1]]
_LINE = np.zeros((5, 5))
_LINE[2, 1:4] = [1, -2, 1]
RESIDUALS = np.stack([_SQUARE / 12, _CORNER / 4, _LINE / 2], axis=-1)  # 5 5 3


class NoiseBranch(nn.Module):
    """Noise of each colour at full resolution, then features at strides 4, 8 and 16.

    A square of 4x4 pixels is one product with all of its residuals, so that their
    places in the square, and with it in a JPEG's 8x8 grid, are told apart; the mean
    size of each residual stands beside it, for that is no linear function of them.
    """

    width: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"]) -> list[Float[Array, "B _ _ _"]]:
        block = functools.partial(Block, dtype=self.dtype)
        noise = residuals(image)
        B, H, W, C = noise.shape
        squares = noise.reshape(B, H // 4, 4, W // 4, 4, C)
        size = jnp.mean(jnp.abs(squares), axis=(2, 4))  # B h w C
        squares = jnp.swapaxes(squares, 2, 3).reshape(B, H // 4, W // 4, 16 * C)
        x = jnp.concatenate([squares, size], axis=-1)
        x = block(2 * self.width, 1, name="squares")(x)
        fine = block(self.width, 3, name="fine")(x)
        middle = block(2 * self.width, 3, 2, name="middle")(fine)
        coarse = block(4 * self.width, 3, 2, name="coarse")(middle)
        return [fine, middle, coarse]


def residuals(image: Float[Array, "B H W 3"]) -> Float[Array, "B H W 9"]:
    """Three high-pass filters of each colour, cut off at 3 of 255, in [-1, 1].

    As sums of shifted images, which a CPU computes in one pass.
    """
    _, H, W, _ = image.shape
    padded = canvas.repeat_edge(image) * (255 / 3)
    for axis in (1, 2):  # what `jnp.pad` does, without the empty arrays in between
        first, last = (
            jax.lax.slice_in_dim(padded, at, at + 1, axis=axis)
            for at in (0, padded.shape[axis] - 1)
        )
        padded = jnp.concatenate([first, first, padded, last, last], axis=axis)
    planes = []
    for filter in np.moveaxis(RESIDUALS, -1, 0):
        planes.append(
            sum(
                float(filter[i, j]) * padded[:, i : i + H, j : j + W]
                for i, j in zip(*np.nonzero(filter), strict=True)
            )
        )
    return jnp.clip(jnp.concatenate(planes, axis=-1), -1, 1)


class Attention(nn.Module):
    """Each position takes from all others what it asks for, and adds it to itself.

    Larger maps are asked at fewer positions, averages of blocks.
    """

    heads: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W F"]) -> Float[Array, "B H W F"]:
        B, H, W, F = x.shape
        y = nn.LayerNorm(dtype=self.dtype, name="norm")(x)
        dense = functools.partial(nn.Dense, dtype=self.dtype)
        query = dense(F, name="query")(y).reshape(B, H * W, self.heads, -1)
        asked = fewer(y)
        there = None if asked.there is None else asked.there[:, None, None]
        asked = asked.values
        key = dense(F, name="key")(asked).reshape(B, -1, self.heads, F // self.heads)
        value = dense(F, name="value")(asked).reshape(key.shape)
        y = jax.nn.dot_product_attention(query, key, value, mask=there)
        y = y.reshape(B, H, W, F)
        return x + dense(F, name="out")(y)


class SelfCorrelation(nn.Module):
    """How much each position resembles the one it resembles most, away from itself.

    After BusterNet's self-correlation (Wu et al., ECCV 2018). Gives that cosine and by
    how much it exceeds the position's mean cosine. Larger maps are compared in blocks.
    """

    features: int = 32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W 2"]:
        size = x.shape[1:3]
        x = Conv(self.features, 1, name="project")(x.astype(jnp.float32))
        blocks = fewer(x)
        x, there = blocks.values, blocks.there
        # Left out rather than None, which the converter to ONNX takes for a mask.
        counted = {} if there is None else {"where": there[..., None]}
        x = x - jnp.mean(x, axis=1, keepdims=True, **counted)
        x = x * jax.lax.rsqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-6)
        cosine = jnp.einsum("bic,bjc->bij", x, x)
        row, column = blocks.row, blocks.column  # b M
        near = (abs(row[:, :, None] - row[:, None]) <= _APART) & (
            abs(column[:, :, None] - column[:, None]) <= _APART
        )
        if there is not None:
            best = jnp.max(jnp.where(near | ~there[:, None], -1.0, cosine), axis=-1)
        elif near.all():  # too small a map to hold anything twice
            cosine = jnp.zeros_like(cosine)
            best = cosine[..., 0]
        else:
            best = jnp.max(jnp.where(near, -1.0, cosine), axis=-1)
        counted = {} if there is None else {"where": there[:, None]}
        mean = jnp.mean(cosine, axis=-1, **counted)
        return blocks.spread(jnp.stack([best, best - mean], axis=-1), size)


class Blocks(NamedTuple):
    """Averages of the square blocks of a map, one block after the other.

    On a canvas each image has blocks of its own size and as many as fill `there`.
    """

    values: Float[Array, "B M F"]
    row: Int[ArrayLike, "_ M"]
    column: Int[ArrayLike, "_ M"]
    counts: Int[ArrayLike, "_ 2"]  # rows and columns of blocks
    there: Bool[Array, "B M"] | None  # None: all of them

    def spread(
        self, told: Float[Array, "B M C"], size: tuple[int, int]
    ) -> Float[Array, "B H W C"]:
        """What is told of each block, in a map of that size."""
        wanted = canvas.extent(*size)
        if wanted is None:
            (H, W), C = self.counts[0], told.shape[-1]
            return resize(told.reshape(-1, H, W, C), *size)
        row, column = np.divmod(np.arange(size[0] * size[1]), size[1])
        place = row[None] * self.counts[:, 1:] + column[None]
        place = jnp.minimum(place, told.shape[1] - 1)[..., None]
        told = jnp.take_along_axis(told, place, axis=1)
        told = told.reshape(-1, *size, told.shape[-1])
        return canvas.stretch(told, self.counts, wanted, size)


def fewer(x: Float[Array, "B H W F"]) -> Blocks:
    """Averages of square blocks, as large as `_MOST_POSITIONS` asks for."""
    B, H, W, F = x.shape
    block = 1
    while -(-H // block) * -(-W // block) > _MOST_POSITIONS:
        block += 1
    own = canvas.extent(H, W)
    if own is not None:
        return _fewer_of_each(canvas.cut_off(x), own, block)
    if block > 1:
        x = nn.avg_pool(
            x,
            window_shape=(block, block),
            strides=(block, block),
            padding="SAME",
            count_include_pad=False,
        )
    counts = x.shape[1:3]
    row, column = np.divmod(np.arange(counts[0] * counts[1]), counts[1])
    values = x.reshape(B, -1, F)
    return Blocks(values, row[None], column[None], np.array([counts]), None)


def _fewer_of_each(x, own: Int[Array, "B 2"], largest: int) -> Blocks:
    """The same of maps on a canvas, whose blocks are at most `largest`."""
    B, H, W, F = x.shape
    blocks = jnp.arange(1, largest + 1)[None, :, None]
    number = jnp.prod(-(-own[:, None] // blocks), axis=-1)  # B blocks
    block = 1 + jnp.argmax(number <= _MOST_POSITIONS, axis=1, keepdims=True)
    counts = -(-own // block)  # B 2
    before = (counts * block - own) // 2  # of the padding that fills up the blocks
    for axis, letter in ((1, "h"), (2, "w")):
        place = jnp.arange(x.shape[axis])[None]
        of_block = (place + before[:, axis - 1 : axis]) // block  # B n
        chosen = of_block[:, None] == place[..., None]
        chosen &= (place < own[:, axis - 1 : axis])[:, None]
        shares = chosen / jnp.maximum(1, chosen.sum(axis=-1, keepdims=True))
        x = jnp.einsum(
            f"bn{letter},bhwf->b{'hwf'.replace(letter, 'n')}",
            shares.astype(x.dtype),
            x,
            precision=jax.lax.Precision.HIGHEST,
        )
    position = jnp.arange(min(H * W, _MOST_POSITIONS))[None]
    row, column = position // counts[:, 1:], position % counts[:, 1:]
    there = row < counts[:, :1]
    place = jnp.where(there, row * W + column, 0)[..., None]
    values = jnp.take_along_axis(x.reshape(B, -1, F), place, axis=1)
    return Blocks(values, row, column, counts, there)


class LabelHead(nn.Module):
    """One logit per image from averaged features and the mask's highest logits."""

    shares: tuple[float, ...] = (0.01, 0.05, 0.2)  # of the map, in each a mean

    @nn.compact
    def __call__(
        self, x: Float[Array, "B g k F"], mask_logits: Float[Array, "B h w 1"]
    ) -> Float[Array, "B"]:
        x = nn.relu(nn.Dense(32, name="pooled")(canvas.mean(x)))
        x = jnp.concatenate([x, highest_means(mask_logits, self.shares)], axis=-1)
        return nn.Dense(1, name="out")(x.astype(jnp.float32))[:, 0]

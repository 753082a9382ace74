"""Images of several sizes in one program, each in the corner of a canvas of one size.

A program is compiled for one shape, and compiling takes as long as hundreds of images.
So rows of several sizes lie at the upper left of a common canvas, and a network is told
which part of it is each one's own, its extent. Within `of` the layers of
`models.layers` let nothing beyond the extent in: convolutions see zeros there, as they
do beyond a map, means and attention count what is inside alone, and what is resized
goes on at its edge. Without it everything is as if there were no such thing.

A map's extent follows from the image's, as the map's size does from the canvas; sides
are multiples of the coarsest stride (`data.tiling.STRIDE`), so both are whole.

A network says by `on_canvas` that all its layers keep to that, an encoder likewise.
"""

import contextlib
import contextvars
from collections.abc import Iterator

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from sdfl_jax.ops.apart import apart

_CANVAS = contextvars.ContextVar("canvas", default=None)


@contextlib.contextmanager
def of(extent: Int[Array, "B 2"] | None, size: tuple[int, int]) -> Iterator[None]:
    """Networks applied within see, of images of this `size`, only each one's extent.

    `extent` holds heights and widths in pixels; None stands for whole images.
    """
    # Each row's own would else be looked up anew for every value of every layer, and a
    # CPU's loops, with that in them, take up to eight times as long.
    token = _CANVAS.set(None if extent is None else (apart(extent), size))
    try:
        yield
    finally:
        _CANVAS.reset(token)


def fits(model: nn.Module) -> bool:
    """Whether the network, and its encoders, can be asked within `of`."""
    parts = [getattr(model, name, None) for name in ("encoder", "noise_encoder")]
    return all(
        getattr(part, "on_canvas", False)
        for part in (model, *parts)
        if part is not None
    )


def extent(height: int, width: int) -> Int[Array, "B 2"] | None:
    """Rows and columns that are each image's own, of maps of that size; None: all."""
    if _CANVAS.get() is None:
        return None
    return jnp.stack([_own(height, 0), _own(width, 1)], axis=1)


def _own(length: int, axis: int) -> Int[Array, "B"]:
    """`extent` along one axis. Its divisor is a constant, which costs no division."""
    pixels, whole = _CANVAS.get()
    return lax.div(pixels[:, axis] * length, jnp.int32(whole[axis]))


def inside(x: Float[Array, "B h w C"]) -> Bool[Array, "B h w C"] | None:
    """Where a map holds the image; None where it does everywhere."""
    if _CANVAS.get() is None:
        return None
    _, H, W, _ = x.shape
    rows = jnp.arange(H)[None] < _own(H, 0)[:, None]
    columns = jnp.arange(W)[None] < _own(W, 1)[:, None]
    return jnp.broadcast_to((rows[:, :, None] & columns[:, None])[..., None], x.shape)


def cut_off(
    x: Float[Array, "B h w C"], value: ArrayLike = 0.0
) -> Float[Array, "B h w C"]:
    """`value` beyond the extent."""
    own = inside(x)
    return x if own is None else jnp.where(own, x, jnp.asarray(value, x.dtype))


def mean(x: Float[Array, "B h w C"]) -> Float[Array, "B C"]:
    """Over all positions of each image."""
    own = extent(*x.shape[1:3])
    if own is None:
        return jnp.mean(x, axis=(1, 2))
    total = jnp.sum(cut_off(x), axis=(1, 2), dtype=jnp.float32)
    return (total / jnp.prod(own, axis=1, keepdims=True)).astype(x.dtype)


def repeat_edge(x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    """What lies along the extent's border, in all that is beyond."""
    own = extent(*x.shape[1:3])
    if own is None:
        return x
    for axis in (1, 2):
        last = own[:, axis - 1].reshape(-1, 1, 1, 1) - 1
        place = jnp.arange(x.shape[axis]).reshape(
            [-1 if i == axis else 1 for i in range(4)]
        )
        edge = jnp.take_along_axis(x, last, axis=axis)
        x = jnp.where(place > last, edge, x)
    return x


def flip(
    x: Float[Array, "B h w ..."], axes: tuple[int, ...]
) -> Float[Array, "B h w ..."]:
    """Mirrored along rows (1) and columns (2), each image within its extent."""
    own = extent(*x.shape[1:3])
    if own is None:
        return jnp.flip(x, axes)
    for axis in axes:
        place = own[:, axis - 1 : axis] - 1 - jnp.arange(x.shape[axis])[None]
        shape = [len(place)] + [-1 if i == axis else 1 for i in range(1, x.ndim)]
        x = jnp.take_along_axis(x, jnp.maximum(place, 0).reshape(shape), axis=axis)
    return x


def stretch(
    x: Float[Array, "B h w C"],
    given: Int[Array, "B 2"],
    wanted: Int[Array, "B 2"],
    size: tuple[int, int],
) -> Float[Array, "B H W C"]:
    """Bilinear (`layers.resize`), each image from its `given` to its `wanted` extent.

    Beyond what is wanted its edge goes on.
    """
    for axis, letter in ((1, "h"), (2, "w")):
        weights = _between(
            given[:, axis - 1], wanted[:, axis - 1], x.shape[axis], size[axis - 1]
        )
        x = jnp.einsum(
            f"bn{letter},bhwc->b{'hwc'.replace(letter, 'n')}",
            weights.astype(x.dtype),
            x,
            precision=lax.Precision.HIGHEST,
        )
    return x


def _between(given, wanted, inputs: int, outputs: int) -> Float[Array, "B out in"]:
    """Two neighbours' weights for each output, centres of pixels on halves."""
    given, wanted = given[:, None].astype(jnp.float32), wanted[:, None]
    places = (jnp.arange(outputs)[None] + 0.5) * (given / wanted) - 0.5
    places = jnp.clip(places, 0, given - 1)
    distance = jnp.abs(places[..., None] - jnp.arange(inputs)[None, None])
    return jnp.maximum(1 - distance, 0)

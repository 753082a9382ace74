"""Maps of a network's layers, reduced to a few channels each."""

import difflib
import re
from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError
from sdfl_jax.models import canvas
from sdfl_jax.models.watch import watch

# The image is a layer too: the one before all others.
IMAGE = "image"

# What the study's figures show: noise, stages, pyramid, feature pyramid.
_NOTABLE = re.compile(
    r"bayar_conv|(\w*encoder)/map\d+|fusion\d+|\w+/(pyramid|lateral|fpn)\w*"
    r"|\w+/finest_out|[^/]+"
)


def look(
    model,
    variables: Mapping,
    image: Float[Array, "B H W 3"],
    layers: Sequence[str],
    channels: int = 5,
    inputs: Mapping[str, Array] | None = None,
) -> dict[str, Float[Array, "B h w n"]]:
    """The mean over a layer's channels, then the `channels` that vary most, by layer.

    Each at the layer's own size; "image" is the network's input. Which channels vary
    most is found for each image by itself; a layer of few channels shows all of them.
    `inputs` is what the network reads beside the image.
    """
    _, maps = watch(model, variables, image, keep=layers, inputs=inputs)
    maps = {IMAGE: image, **maps}
    return {name: _most_telling(maps[name], channels) for name in layers}


def notable_layers(there: Mapping[str, tuple]) -> list[str]:
    """The layers among `models.watch.shapes` that a diagram of the network shows."""
    return [name for name in there if _NOTABLE.fullmatch(name)]


def find_layers(there: Mapping[str, tuple], layers: Sequence[str]) -> list[str]:
    """`layers`, all known. `InputError` names those there are, and the nearest."""
    for layer in layers:
        if layer not in there:
            near = difflib.get_close_matches(layer, there, n=1, cutoff=0.3)
            raise InputError(
                f"No layer {layer!r}; of {len(there)} there are "
                f"{notable_layers(there)}"
                + (f"; did you mean {near[0]!r}?" if near else ".")
            )
    return list(layers)


def _most_telling(x: Float[Array, "B h w C"], count: int) -> Float[Array, "B h w _"]:
    x = x.astype(jnp.float32)
    spread = jnp.var(x, axis=(1, 2), where=canvas.inside(x))  # B C
    order = jnp.argsort(-spread, axis=-1)[:, :count]
    chosen = jnp.take_along_axis(x, order[:, None, None, :], axis=-1)
    return jnp.concatenate([jnp.mean(x, axis=-1, keepdims=True), chosen], axis=-1)

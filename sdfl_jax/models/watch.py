"""The maps that a network's layers put out, by name; a way to look and to perturb."""

import dataclasses
from collections.abc import Collection, Mapping

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.outputs import Outputs

Maps = dict[str, Float[Array, "B _ _ _"]]


def watch(
    model: nn.Module,
    variables: Mapping,
    image: Float[Array, "B H W 3"],
    keep: Collection[str] | None = None,
    perturbations: Mapping[str, Float[Array, "B _ _ _"]] | None = None,
    inputs: Mapping[str, Array] | None = None,
) -> tuple[Outputs, Maps]:
    """What the network answers, and what its layers put out on the way.

    A layer is named by its module, "decoder/finest_out"; a module that returns several
    maps, such as an encoder, has "encoder/map0" and so on, and a module used again
    gets "#2" behind its name. Only maps (B h w C) count.

    keep     the layers whose maps are returned, in the order of computation; None: all
    perturbations  are added to a layer's map before the next layer sees it: the
             gradient by a perturbation of zero is the gradient by the map
    inputs   what the network reads beside the image, by name
    """
    maps, calls = {}, {}

    def seen(name, value):
        if getattr(value, "ndim", 0) != 4:
            return value
        if perturbations and name in perturbations:
            value = value + perturbations[name]
        if keep is None or name in keep:
            maps[name] = value
        return value

    def at_each_call(call, args, kwargs, context):
        value = call(*args, **kwargs)
        path = context.module.path
        if context.method_name != "__call__" or not path:
            return value
        name = "/".join(path)
        calls[name] = calls.get(name, 0) + 1
        if calls[name] > 1:
            name = f"{name}#{calls[name]}"
        if type(value) in (list, tuple):
            several = (seen(f"{name}/map{i}", x) for i, x in enumerate(value))
            return type(value)(several)
        return seen(name, value)

    with nn.intercept_methods(at_each_call):
        outputs = _without_remat(model).apply(
            variables, image, **(inputs or {}), train=False
        )
    return outputs, maps


def _without_remat(model: nn.Module) -> nn.Module:
    """The same network, whose blocks are not hidden inside recomputed functions."""
    changes = {"remat": False} if getattr(model, "remat", False) else {}
    for field in dataclasses.fields(model):
        part = getattr(model, field.name)
        if isinstance(part, nn.Module) and field.name != "parent":
            changes[field.name] = _without_remat(part)
    return model.clone(**changes) if changes else model


def shapes(
    model: nn.Module,
    variables: Mapping,
    image_shape: tuple[int, int, int, int],
    inputs: Mapping[str, Array] | None = None,
) -> dict[str, tuple[int, int, int, int]]:
    """Each layer and the shape of its map, in order; nothing is computed."""
    maps = _traced(model, variables, image_shape, inputs)
    return {name: x.shape for name, x in maps.items()}


def origin(
    model: nn.Module,
    variables: Mapping,
    image_shape: tuple[int, int, int, int],
    layer: str,
    inputs: Mapping[str, Array] | None = None,
) -> str:
    """The first layer that puts out the same map as `layer`, most often itself.

    A stage of an encoder goes on to the next stage, too: a perturbation where it leaves
    the encoder ("encoder/map2") would reach the decoder alone, one at its last block
    ("encoder/layer3_5") reaches both. Where a map is no module's own output, the
    name it has on leaving the encoder.
    """
    maps = _traced(model, variables, image_shape, inputs)
    return next(name for name, x in maps.items() if x is maps[layer])


def _traced(model, variables, image_shape, inputs) -> dict:
    """All maps as tracers, whose identity tells which of them are the same."""
    found = {}
    image = jax.ShapeDtypeStruct(image_shape, np.float32)
    jax.eval_shape(
        lambda *given: found.update(watch(model, *given[:2], inputs=given[2])[1]),
        variables,
        image,
        inputs,
    )
    return found

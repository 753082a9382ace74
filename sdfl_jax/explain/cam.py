"""Grad-CAM: where in a layer the evidence for a class lies (Selvaraju et al., 2017)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from sdfl_jax.explain.activations import find_layers
from sdfl_jax.explain.score import Label, class_score
from sdfl_jax.models import canvas
from sdfl_jax.models.layers import resize
from sdfl_jax.models.watch import origin, shapes, watch


def grad_cam(
    model,
    variables: Mapping,
    image: Float[Array, "B H W 3"],
    layer: str | None = None,
    label: Label = 1,
    *,
    normalise: bool = True,
    inputs: Mapping[str, Array] | None = None,
) -> Float[Array, "B H W"]:
    """The layer's channels, weighted by their mean gradient, at the image's size.

    `layer`: a name of `models.watch.shapes`; None takes `default_layer`. Each map is
    divided by its maximum, so that it lies in [0, 1] and weak evidence looks as strong
    as any; `normalise=False` leaves it in units of the score. `inputs` is what the
    network reads beside the image. Raises `InputError` for an unknown layer.
    """
    there = shapes(model, variables, image.shape, inputs)
    layer = default_layer(there) if layer is None else find_layers(there, [layer])[0]
    layer = origin(model, variables, image.shape, layer, inputs)

    def total(perturbation):
        added = {layer: perturbation}
        outputs, maps = watch(
            model, variables, image, [layer], perturbations=added, inputs=inputs
        )
        return jnp.sum(class_score(outputs, label)), maps[layer].astype(jnp.float32)

    perturbation = jnp.zeros(there[layer], jnp.float32)
    gradient, features = jax.grad(total, has_aux=True)(perturbation)
    weights = canvas.mean(gradient)[:, None, None]  # B 1 1 C
    cam = jax.nn.relu(jnp.sum(weights * features, axis=-1, keepdims=True))
    cam = resize(cam, *image.shape[1:3])[..., 0]
    if not normalise:
        return cam
    top = jnp.max(canvas.cut_off(cam[..., None]), axis=(1, 2))[..., None]
    return cam / jnp.where(top > 0, top, 1)


def default_layer(there: Mapping[str, tuple[int, int, int, int]]) -> str:
    """The last stage of the encoder: of `models.watch.shapes`, its last map.

    A network without an encoder by that name has its coarsest map taken, the last one
    of that size; one position alone would show nothing.
    """
    stages = [name for name in there if name.startswith("encoder/map")]
    if stages:
        return stages[-1]
    area = {name: shape[1] * shape[2] for name, shape in there.items()}
    coarsest = min((a for a in area.values() if a > 1), default=1)
    return [name for name in there if area[name] == coarsest][-1]

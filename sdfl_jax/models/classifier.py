"""Image-level networks: an encoder, the mean of its features, dense layers."""

import functools
from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError, valid
from sdfl_jax.models import canvas
from sdfl_jax.models.encoders import ENCODERS
from sdfl_jax.models.layers import BatchNorm, Dense, normalised
from sdfl_jax.models.names import TorchNames
from sdfl_jax.models.outputs import Outputs


class Classifier(nn.Module):
    """One class per image. Made by `build`, which says what the settings mean."""

    encoder: nn.Module
    widths: Sequence[int]
    normalise: bool
    dtype: Any
    gives_mask = False
    on_canvas = True

    @property
    def torch_names(self) -> TorchNames:
        """Of a classifier on an encoder: what is not the one belongs to the other."""
        classifier = self.encoder.torch_names.classifier
        return TorchNames(
            to_path=(
                (r"^(?:fc|_fc|classifier|last_linear|head\.fc)\.", "fc/"),
                (r"^(?!fc/)", "encoder/"),
            ),
            to_torch=((r"^fc/", f"{classifier}/"), (r"^encoder/", "")),
        )

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool) -> Outputs:
        """Logits for RGB in [0, 1]; there is no mask."""
        image = normalised(image, self.encoder) if self.normalise else image
        x = self.encoder(image, train=train)
        x = x if self.encoder.plain else x[-1]
        x = canvas.mean(x.astype(jnp.float32))
        first, *others = self.widths
        x = Dense(first, dtype=self.dtype, name="fc")(x)
        for i, width in enumerate(others):
            x = x if i == 0 else nn.relu(x)
            x = Dense(width, dtype=self.dtype, name=f"head{i}")(x)
        return of_classes(x)


def of_classes(logits: Float[Array, "B classes"]) -> Outputs:
    """What the logits of classes say about an image: class 1 is manipulated.

    The difference of two logits is the logit of the second one's softmax.
    """
    logits = logits.astype(jnp.float32)
    return Outputs(
        mask_logits=None,
        label_logits=logits[:, 1] - logits[:, 0],
        class_logits=logits,
    )


def build(
    *,
    encoder: str = "resnet50",
    num_classes: int = 2,
    hidden: Sequence[int] = (),
    normalise: bool = False,
    bn_group: int = 0,
    bn_momentum: float = 0.9,
    freeze_encoder_bn: bool = False,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Classifier:
    """A network that looks at the whole image.

    encoder           one of ENCODERS
    num_classes       2: authentic, manipulated
    hidden            with two classes, widths of dense layers in between. The first one
                      is the classifier of published weights and keeps its linear
                      result; ReLU follows the others
    normalise         shift and scale RGB in [0, 1] as the encoder's published weights
                      expect. The studies feed [0, 1]
    bn_group, bn_momentum, freeze_encoder_bn, dtype, remat    as in `sdfl.build`
    """
    if encoder not in ENCODERS:
        raise InputError(f"No encoder {encoder!r}; {valid(encoder, ENCODERS)}")
    if num_classes < 2:
        raise InputError(f"num_classes={num_classes}: there are two or more.")
    dtype = jnp.dtype(dtype)
    norm = functools.partial(
        BatchNorm,
        momentum=bn_momentum,
        group=bn_group,
        frozen=freeze_encoder_bn,
        dtype=dtype,
    )
    return Classifier(
        encoder=ENCODERS[encoder](norm=norm, dtype=dtype, remat=remat),
        widths=(*(hidden if num_classes == 2 else ()), num_classes),
        normalise=normalise,
        dtype=dtype,
    )

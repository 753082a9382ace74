"""TruFor (Guillaro et al., CVPR 2023): pixels, camera noise, and how far to trust them.

One decoder says where, a second how sure that is, and the image's score reads both.
"""

import functools
from collections.abc import Callable
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError
from sdfl_jax.models.encoders.cmx import Cmx
from sdfl_jax.models.encoders.noiseprint import Noiseprint
from sdfl_jax.models.layers import BatchNorm, Dense, normalised, resize
from sdfl_jax.models.names import TorchNames
from sdfl_jax.models.outputs import Outputs
from sdfl_jax.models.segformer import AllMlpHead, confidence_head

_HEADS = (("decode_head", "head"), ("decode_head_conf", "confidence_head"))
TORCH_NAMES = TorchNames(
    to_path=(
        (r"^model\.", ""),
        (r"^dncnn\.", "noise_encoder/"),
        (r"^backbone\.", "encoder/"),
        *(
            rule
            for theirs, ours in _HEADS
            for rule in (
                (rf"^{theirs}\.linear_c(\d)\.proj\.", rf"{ours}/linear\1/"),
                (rf"^{theirs}\.linear_fuse\.0\.", f"{ours}/fuse/"),
                (rf"^{theirs}\.linear_fuse\.1\.", f"{ours}/bn/"),
                (rf"^{theirs}\.linear_pred\.", f"{ours}/out/"),
            )
        ),
        (r"^detection\.0\.", "score1/"),
        (r"^detection\.3\.", "score2/"),
    ),
    to_torch=(
        (r"^noise_encoder/", "dncnn/"),
        (r"^encoder/", "backbone/"),
        *(
            rule
            for theirs, ours in _HEADS
            for rule in (
                (rf"^{ours}/linear(\d)/", rf"{theirs}/linear_c\1/proj/"),
                (rf"^{ours}/fuse/", f"{theirs}/linear_fuse/0/"),
                (rf"^{ours}/bn/", f"{theirs}/linear_fuse/1/"),
                (rf"^{ours}/out/", f"{theirs}/linear_pred/"),
            )
        ),
        (r"^score1/", "detection/0/"),
        (r"^score2/", "detection/3/"),
    ),
)
PHASES = (2, 3)


class TruFor(nn.Module):
    """Made by `build`, which says what the settings mean."""

    encoder: nn.Module
    noise_encoder: nn.Module
    width: int
    dropout: float
    score_dropout: float
    phase: int
    confidence_eps: float
    input_scale: float
    norm: Callable[..., nn.Module]
    dtype: Any

    torch_names: ClassVar = TORCH_NAMES

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool) -> Outputs:
        """Logits of mask, confidence and image for RGB in [0, 1] of any size."""
        size = image.shape[1:3]
        image = image * self.input_scale
        locating, judging = (train and self.phase == phase for phase in PHASES)
        noise = jax.lax.stop_gradient(self.noise_encoder(image, train=False))
        maps = self.encoder(
            normalised(image, self.encoder), jnp.repeat(noise, 3, -1), train=locating
        )
        parts = dict(
            width=self.width,
            dropout=self.dropout,
            drop_maps=True,
            fuse_bias=True,
            dtype=self.dtype,
        )
        norm = functools.partial(self.norm, eps=1e-3)
        head = AllMlpHead(**parts, classes=2, norm=norm, name="head")
        anomaly = head(maps, train=locating)
        if train and self.phase == 3:
            anomaly = jax.lax.stop_gradient(anomaly)
        anomaly = resize(anomaly, *size)
        mask_logits = anomaly[..., 1:] - anomaly[..., :1]
        norm = functools.partial(self.norm, eps=self.confidence_eps)
        confidence = confidence_head(maps, train=judging, norm=norm, **parts)
        confidence_logits = resize(confidence, *size)
        score = self._score(confidence_logits, mask_logits, judging)
        if train and self.phase == 2:
            confidence_logits, score = jax.lax.stop_gradient((confidence_logits, score))
        return Outputs(
            mask_logits=mask_logits,
            label_logits=score,
            confidence_logits=confidence_logits,
        )

    def _score(self, confidence, mask, train) -> Float[Array, "B"]:
        flat = lambda x: x.reshape(len(x), -1)
        confidence, mask = flat(confidence), flat(mask)
        found = [
            weighted_pooling(confidence, jnp.zeros_like(confidence)),
            weighted_pooling(mask, nn.log_sigmoid(confidence)),
        ]
        x = Dense(128, name="score1")(jnp.concatenate(found, axis=-1))
        x = nn.Dropout(self.score_dropout, deterministic=not train)(nn.relu(x))
        return Dense(1, name="score2")(x)[:, 0]


def weighted_pooling(
    x: Float[Array, "B n"], log_weights: Float[Array, "B n"]
) -> Float[Array, "B 4"]:
    """A soft minimum and maximum, the mean and the mean square, under weights.

    The weights are the softmax of `log_weights`.
    """
    log_w = nn.log_softmax(log_weights, axis=-1)
    w = jnp.exp(log_w)
    return jnp.stack(
        [
            -jax.nn.logsumexp(log_w - x, axis=-1),
            jax.nn.logsumexp(log_w + x, axis=-1),
            jnp.sum(w * x, axis=-1),
            jnp.sum(w * x**2, axis=-1),
        ],
        axis=-1,
    )


def build(
    *,
    width: int = 512,
    phase: int = 3,
    dropout: float = 0.1,
    score_dropout: float = 0.5,
    drop_path: float = 0.1,
    confidence_eps: float = 1e-3,
    input_scale: float = 1.0,
    bn_group: int = 0,
    bn_momentum: float = 0.9,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> TruFor:
    """The network of its authors: two MiT-B2, Noiseprint++, two decoders, a score.

    width            channels of each decoder
    phase            what training moves: 2, the encoder and the mask's decoder; 3, the
                     confidence's and the score. The rest is as in evaluation, and
                     Noiseprint++ always is
    dropout          share of a decoder's maps that training leaves out
    score_dropout    share of the score's features that training leaves out
    drop_path        share of examples whose last block training leaves out
    confidence_eps   of the batch norm in the confidence's decoder: 1e-5 in IMDLBenCo
    input_scale      255 / 256 reads images as the authors' weights expect them
    bn_group, bn_momentum, dtype, remat    as in `sdfl.build`
    """
    if phase not in PHASES:
        raise InputError(f"trufor: phase={phase}; there are {list(PHASES)}.")
    dtype = jnp.dtype(dtype)
    norm = functools.partial(
        BatchNorm, momentum=bn_momentum, group=bn_group, dtype=dtype
    )
    make = dict(norm=norm, dtype=dtype, remat=remat)
    return TruFor(
        encoder=Cmx(depths=(3, 4, 6, 3), drop_path=drop_path, **make),
        noise_encoder=Noiseprint(**make),
        width=width,
        dropout=dropout,
        score_dropout=score_dropout,
        phase=phase,
        confidence_eps=confidence_eps,
        input_scale=input_scale,
        norm=norm,
        dtype=dtype,
    )

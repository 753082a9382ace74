"""The study's network: an image encoder and a noise encoder under one UPerNet."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError, valid
from sdfl_jax.models import bayar
from sdfl_jax.models.encoders import ENCODERS
from sdfl_jax.models.layers import BatchNorm, Conv, GroupNorm, grey, normalised, resize
from sdfl_jax.models.names import TorchNames
from sdfl_jax.models.outputs import Outputs, check_score, with_confidence
from sdfl_jax.models.upernet import (
    Decoder,
    FeaturePyramid,
    LabelHead,
    MaskHead,
)
from sdfl_jax.ops.pooling import IMPLEMENTATIONS

LABEL_INPUTS = ("pyramid", "pyramid+mask")
GRID_NORMS = ("batch", "group")

# The blocks of the reference's decoder: their convolution is 0, their batch norm is 1.
_BLOCKS = r"ppm_conv\.\d|ppm_last_conv|fpn_in\.\d|fpn_out\.0\.0|cls_head\.0|seg_head\.0"
TORCH_NAMES = TorchNames(
    to_path=(
        (rf"^decoder\.({_BLOCKS})\.0\.", r"decoder.\1/conv/"),
        (rf"^decoder\.({_BLOCKS})\.1\.", r"decoder.\1/bn/"),
        (r"^decoder\.ppm_conv\.(\d)/", r"decoder/pyramid\1/"),
        (r"^decoder\.ppm_last_conv/", "decoder/pyramid_out/"),
        (r"^decoder\.fpn_in\.(\d)/", r"decoder/lateral\1/"),
        (r"^decoder\.fpn_out\.0\.0/", "decoder/finest_out/"),
        (r"^decoder\.cls_head\.0/", "label_head/block/"),
        (r"^decoder\.cls_head\.2\.", "label_head/out/"),
        (r"^decoder\.seg_head\.0/", "mask_head/block/"),
        (r"^decoder\.seg_head\.1\.", "mask_head/out/"),
        (r"^convs\.(\d)\.", r"fusion\1/"),
        (r"^(encoder|noise_encoder|bayar_conv)\.", r"\1/"),
    ),
    to_torch=(
        (r"^decoder/pyramid(\d)/", r"decoder/ppm_conv/\1/"),
        (r"^decoder/pyramid_out/", "decoder/ppm_last_conv/"),
        (r"^decoder/lateral(\d)/", r"decoder/fpn_in/\1/"),
        (r"^decoder/finest_out/", "decoder/fpn_out/0/0/"),
        (r"^label_head/block/", "decoder/cls_head/0/"),
        (r"^label_head/out/", "decoder/cls_head/2/"),
        (r"^mask_head/block/", "decoder/seg_head/0/"),
        (r"^mask_head/out/", "decoder/seg_head/1/"),
        (r"^(decoder/.*)/conv/", r"\1/0/"),
        (r"^(decoder/.*)/bn/", r"\1/1/"),
        (r"^fusion(\d)/", r"convs/\1/"),
    ),
    # The reference's files hold these layers; its result never uses them.
    unused=("decoder.conv_fusion.", "decoder.fpn_out.1.", "decoder.fpn_out.2."),
)


class Sdfl(nn.Module):
    """Finds manipulated pixels by content and, given a noise encoder, by noise.

    Made by `build`, which says what the settings mean.
    """

    encoder: nn.Module
    noise_encoder: nn.Module | None
    width: int
    pyramid_width: int
    bins: Sequence[int]
    label_input: str
    norm: Callable[..., nn.Module]
    dtype: Any
    pooling: str = "auto"
    grid_norm: Callable[..., nn.Module] | None = None
    confidence: bool = False
    score: str = "label"

    torch_names: ClassVar = TORCH_NAMES
    on_canvas: ClassVar = True

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool) -> Outputs:
        """Logits for RGB in [0, 1]; the mask's at the size of the image."""
        parts = {"norm": self.norm, "dtype": self.dtype}
        maps = self.encoder(normalised(image, self.encoder), train=train)
        if self.encoder.plain:
            pyramid = FeaturePyramid(**parts, name="feature_pyramid")
            maps = pyramid(maps, train=train)
        if self.noise_encoder is not None:
            noise = bayar.BayarConv(name=bayar.NAME)(grey(image))
            noise_maps = self.noise_encoder(noise, train=train)
            if self.noise_encoder.plain:
                pyramid = FeaturePyramid(**parts, name="noise_feature_pyramid")
                noise_maps = pyramid(noise_maps, train=train)
            maps = [
                Conv(x.shape[-1], use_bias=True, dtype=self.dtype, name=f"fusion{i}")(
                    jnp.concatenate([x, y], axis=-1)
                )
                for i, (x, y) in enumerate(zip(maps, noise_maps, strict=True))
            ]

        finest, pyramid = Decoder(
            self.width,
            self.pyramid_width,
            self.bins,
            **parts,
            pooling=self.pooling,
            grid_norm=self.grid_norm,
            name="decoder",
        )(maps, train=train)
        mask_logits = MaskHead(**parts, name="mask_head")(finest, train=train)
        label_logits = LabelHead(**parts, name="label_head")(
            pyramid,
            mask_logits if self.label_input == "pyramid+mask" else None,
            train=train,
        )
        outputs = Outputs(
            mask_logits=self._at_image_size(mask_logits, *image.shape[1:3]),
            label_logits=label_logits,
        )
        if not self.confidence:
            return outputs
        head = MaskHead(**parts, name="confidence_head")
        logits = head(jax.lax.stop_gradient(finest), train=train)
        logits = self._at_image_size(logits, *image.shape[1:3])
        return with_confidence(outputs, logits, self.score)

    def _at_image_size(self, logits, H, W):
        """Resized to what the encoder covers: a plain one pads to whole patches."""
        if not self.encoder.plain:
            return resize(logits, H, W)
        patch = self.encoder.patch
        return resize(logits, H + -H % patch, W + -W % patch)[:, :H, :W]


def build(
    *,
    encoder: str = "resnet50_deep",
    noise_branch: bool = True,
    width: int = 256,
    pyramid_width: int = 512,
    bins: Sequence[int] = (1, 2, 3, 6),
    label_input: str = "pyramid",
    bn_group: int = 0,
    bn_momentum: float = 0.999,
    freeze_encoder_bn: bool = False,
    dtype: Any = jnp.float32,
    pooling: str = "auto",
    grid_norm: str = "batch",
    confidence: bool = False,
    score: str = "label",
    remat: bool = False,
) -> Sdfl:
    """The network of Zhang, Wang & Guo ("Shallow- and deep-fake image manipulation
    localization using deep learning", ICNC 2023), or a smaller one of its kind.

    encoder           one of ENCODERS, for both branches
    noise_branch      False leaves out BayarConv, the noise encoder and the fusion
    width             channels of the decoder and of both heads
    pyramid_width     channels of each grid of the pyramid
    bins              the grids' sizes
    label_input       "pyramid", or "pyramid+mask": see `LabelHead`
    bn_group          see `BatchNorm`; 0 takes the statistics of the whole batch
    bn_momentum       how much of its running statistics a step keeps; the reference's
                      0.999 suits long runs from pretrained weights, 0.9 short ones
    freeze_encoder_bn the image encoder keeps its running statistics in training. The
                      noise encoder does not: its input is unlike what they come from
    dtype             of the computation; parameters, statistics and outputs are float32
    pooling           how the pyramid is pooled: "xla", "pallas" (a kernel for GPUs), or
                      "auto", the faster of those that run; see `ops.pyramid_pool`
    grid_norm         of the pyramid's grids: "batch" (the reference) or "group", which
                      has no running statistics to go astray: a grid of one position
                      has a single value for each channel of an image
    confidence        a head of its own says where the mask is to be believed: the
                      probability that it gave the true class (TruFor's), learnt on
                      features that it does not move
    score             of the image: "label", or "confidence": see `with_confidence`
    remat             the blocks of the encoders are computed once more in the backward
                      pass: about a third more work for a fraction of the memory
    """
    if encoder not in ENCODERS:
        raise InputError(f"No encoder {encoder!r}; {valid(encoder, ENCODERS)}")
    if label_input not in LABEL_INPUTS:
        raise InputError(
            f"No label_input {label_input!r}; {valid(label_input, LABEL_INPUTS)}"
        )
    if pooling not in IMPLEMENTATIONS:
        raise InputError(f"No pooling {pooling!r}; {valid(pooling, IMPLEMENTATIONS)}")
    if grid_norm not in GRID_NORMS:
        raise InputError(f"No grid_norm {grid_norm!r}; {valid(grid_norm, GRID_NORMS)}")
    check_score(score, confidence)
    dtype = jnp.dtype(dtype)
    norm = functools.partial(
        BatchNorm, momentum=bn_momentum, group=bn_group, dtype=dtype
    )
    make = functools.partial(ENCODERS[encoder], dtype=dtype, remat=remat)
    return Sdfl(
        encoder=make(norm=functools.partial(norm, frozen=freeze_encoder_bn)),
        noise_encoder=make(norm=norm) if noise_branch else None,
        width=width,
        pyramid_width=pyramid_width,
        bins=tuple(bins),
        label_input=label_input,
        norm=norm,
        dtype=dtype,
        pooling=pooling,
        grid_norm=functools.partial(GroupNorm, dtype=dtype)
        if grid_norm == "group"
        else None,
        confidence=confidence,
        score=score,
    )

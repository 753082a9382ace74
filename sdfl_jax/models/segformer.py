"""SegFormer (Xie et al., 2021): a mix transformer under a head of dense layers."""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError, valid
from sdfl_jax.models.encoders import ENCODERS
from sdfl_jax.models.layers import BatchNorm, Conv, Dense, normalised, resize
from sdfl_jax.models.names import TorchNames
from sdfl_jax.models.outputs import Outputs, check_score, of_mask, with_confidence

TORCH_NAMES = TorchNames(
    to_path=(
        # mmseg's and NVlabs' names, and those of transformers' hub files.
        (r"^backbone\.", "encoder/"),
        (r"^segformer\.encoder\.", "encoder/encoder."),
        *(
            (rf"^decode_head\.linear_c\.{i}\.proj\.", f"head/linear{i + 1}/")
            for i in range(4)
        ),
        (r"^decode_head\.linear_c(\d)\.proj\.", r"head/linear\1/"),
        (r"^decode_head\.(batch_norm|linear_fuse\.bn)\.", "head/bn/"),
        (r"^decode_head\.linear_fuse\.(conv\.)?", "head/fuse/"),
        (r"^decode_head\.(classifier|linear_pred)\.", "head/out/"),
    ),
    to_torch=(
        (r"^encoder/", "backbone/"),
        (r"^head/linear(\d)/", r"decode_head/linear_c\1/proj/"),
        (r"^head/bn/", "decode_head/linear_fuse/bn/"),
        (r"^head/fuse/", "decode_head/linear_fuse/conv/"),
        (r"^head/out/", "decode_head/linear_pred/"),
    ),
    unused=("decode_head.conv_seg.",),
)


class AllMlpHead(nn.Module):
    """Every map through a dense layer to one width and the finest size, then mixed.

    Returns `classes` logits at each position, float32. `drop_maps`: dropout leaves out
    whole maps of features instead of single ones.
    """

    width: int
    classes: int = 1
    dropout: float = 0.1
    drop_maps: bool = False
    fuse_bias: bool = False
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "B _ _ _"]], *, train: bool
    ) -> Float[Array, "B h w {self.classes}"]:
        size = maps[0].shape[1:3]
        resized = []
        for i, x in reversed(list(enumerate(maps, 1))):
            x = Dense(self.width, dtype=self.dtype, name=f"linear{i}")(x)
            resized.append(resize(x, *size))
        conv = functools.partial(Conv, kernel=1, dtype=self.dtype)
        x = jnp.concatenate(resized, axis=-1)
        x = conv(self.width, use_bias=self.fuse_bias, name="fuse")(x)
        x = nn.relu(self.norm(name="bn")(x, train=train))
        over = (1, 2) if self.drop_maps else ()
        x = nn.Dropout(self.dropout, over, deterministic=not train)(x)
        x = conv(self.classes, use_bias=True, name="out")(x)
        return x.astype(jnp.float32)


def confidence_head(
    maps: Sequence[Float[Array, "B _ _ _"]], *, train: bool, **settings
) -> Float[Array, "B h w 1"]:
    """An `AllMlpHead` that says where a mask is to be believed, beside the mask's own.

    It learns on features that it does not move.
    """
    head = AllMlpHead(**settings, name="confidence_head")
    return head(jax.lax.stop_gradient(maps), train=train)


class SegFormer(nn.Module):
    """Made by `build`, which says what the settings mean."""

    encoder: nn.Module
    width: int
    dropout: float
    norm: Callable[..., nn.Module]
    dtype: Any
    confidence: bool = False
    score: str = "label"

    torch_names: ClassVar = TORCH_NAMES

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool) -> Outputs:
        """Logits for RGB in [0, 1]; the label's is the highest of the mask's."""
        maps = self.encoder(normalised(image, self.encoder), train=train)
        parts = dict(
            width=self.width, dropout=self.dropout, norm=self.norm, dtype=self.dtype
        )
        at_image_size = lambda logits: resize(logits, *image.shape[1:3])
        mask_logits = AllMlpHead(**parts, name="head")(maps, train=train)
        outputs = of_mask(at_image_size(mask_logits))
        if not self.confidence:
            return outputs
        confidence = confidence_head(maps, train=train, **parts)
        return with_confidence(outputs, at_image_size(confidence), self.score)


def build(
    *,
    encoder: str = "mit_b2",
    width: int = 768,
    dropout: float = 0.1,
    drop_path: float = 0.1,
    confidence: bool = False,
    score: str = "label",
    bn_group: int = 0,
    bn_momentum: float = 0.9,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> SegFormer:
    """The network of Xie et al., with one class.

    encoder      one of ENCODERS that gives four feature maps; the paper's are
                 "mit_b0" to "mit_b5"
    width        channels of the head: 768, and 256 with the paper's B0 and B1
    dropout      share of the head's features that training leaves out
    drop_path    share of examples whose last block training leaves out
    confidence, score, bn_group, bn_momentum, dtype, remat    as in `sdfl.build`
    """
    check_score(score, confidence)
    if encoder not in ENCODERS:
        raise InputError(f"No encoder {encoder!r}; {valid(encoder, ENCODERS)}")
    dtype = jnp.dtype(dtype)
    norm = functools.partial(
        BatchNorm, momentum=bn_momentum, group=bn_group, dtype=dtype
    )
    made = ENCODERS[encoder](norm=norm, dtype=dtype, remat=remat)
    if getattr(made, "plain", False):
        raise InputError(
            f"segformer takes an encoder of four feature maps, not {encoder!r}."
        )
    if hasattr(made, "drop_path"):
        made = made.clone(drop_path=drop_path)
    return SegFormer(
        encoder=made,
        width=width,
        dropout=dropout,
        norm=norm,
        dtype=dtype,
        confidence=confidence,
        score=score,
    )

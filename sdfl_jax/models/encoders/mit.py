"""Mix transformers (SegFormer, Xie et al., 2021): attention on four scales of a map."""

import functools
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import (
    Conv,
    Dense,
    DropPath,
    LayerNorm,
    attention,
    run_block,
)
from sdfl_jax.models.names import HEADS, Rules, TorchNames

# transformers counts stages from 0 where NVlabs, and the paths here, count from 1.
_HUB = tuple(
    rule
    for i in range(4)
    for rule in (
        (rf"^encoder\.patch_embeddings\.{i}\.proj\.", rf"patch_embed{i + 1}.proj."),
        (
            rf"^encoder\.patch_embeddings\.{i}\.layer_norm\.",
            rf"patch_embed{i + 1}.norm.",
        ),
        (rf"^encoder\.block\.{i}\.", rf"block{i + 1}."),
        (rf"^encoder\.layer_norm\.{i}\.", rf"norm{i + 1}."),
    )
)
# Within a block, by NVlabs.
BLOCK_TO_PATH = (
    (r"/attn\.norm\.", "/sr_norm/"),
    (r"/attn\.(q|kv|proj|sr)\.", r"/\1/"),
    (r"/mlp\.dwconv\.dwconv\.", "/dwconv/"),
    (r"/mlp\.(fc\d)\.", r"/\1/"),
)
BLOCK_TO_TORCH = (
    (r"/sr_norm/", "/attn/norm/"),
    (r"/(q|kv|proj|sr)/", r"/attn/\1/"),
    (r"/dwconv/", "/mlp/dwconv/dwconv/"),
    (r"/(fc\d)/", r"/mlp/\1/"),
)


def stage_to_path(theirs: str = "", ours: str = "stage") -> Rules:
    """NVlabs' names of the stages, which they may put a prefix before."""
    return (
        (rf"^{theirs}patch_embed(\d)\.proj\.", rf"{ours}\1/patch_embed/"),
        (rf"^{theirs}patch_embed(\d)\.norm\.", rf"{ours}\1/patch_norm/"),
        (rf"^{theirs}block(\d)\.(\d+)\.", rf"{ours}\1/block\2/"),
        (rf"^{theirs}norm(\d)\.", rf"{ours}\1/norm/"),
    )


def stage_to_torch(theirs: str = "", ours: str = "stage") -> Rules:
    """The way back of `stage_to_path`."""
    return (
        (rf"^{ours}(\d)/patch_embed/", rf"{theirs}patch_embed\1/proj/"),
        (rf"^{ours}(\d)/patch_norm/", rf"{theirs}patch_embed\1/norm/"),
        (rf"^{ours}(\d)/block(\d+)/", rf"{theirs}block\1/\2/"),
        (rf"^{ours}(\d)/norm/", rf"{theirs}norm\1/"),
    )


TORCH_NAMES = TorchNames(
    to_path=(
        (r"^segformer\.", ""),
        *_HUB,
        (r"\.layer_norm_(\d)\.", r".norm\1."),
        (r"\.attention\.self\.query\.", ".attn.q."),
        (r"\.attention\.self\.kv\.", ".attn.kv."),
        (r"\.attention\.self\.sr\.", ".attn.sr."),
        (r"\.attention\.self\.layer_norm\.", ".attn.norm."),
        (r"\.attention\.output\.dense\.", ".attn.proj."),
        (r"\.mlp\.dense(\d)\.", r".mlp.fc\1."),
        *stage_to_path(),  # from here on NVlabs' names
        *BLOCK_TO_PATH,
    ),
    to_torch=(*BLOCK_TO_TORCH, *stage_to_torch()),
    unused=(*HEADS, "decode_head."),
    joined=((".self.key.", ".self.value.", ".self.kv."),),
)
_INIT = nn.initializers.truncated_normal(0.02)
# By NVlabs: 1e-6 in blocks and after stages, PyTorch's 1e-5 after convolutions.
_AFTER_CONV = 1e-5


class Block(nn.Module):
    """Attention to a smaller copy of the map, then a hidden layer that looks around."""

    heads: int
    reduction: int
    drop_path: float
    dtype: Any

    @nn.compact
    def __call__(
        self, x: Float[Array, "B h w C"], *, train: bool
    ) -> Float[Array, "B h w C"]:
        C = x.shape[-1]
        norm = functools.partial(LayerNorm, dtype=self.dtype)
        dense = functools.partial(Dense, dtype=self.dtype, kernel_init=_INIT)
        drop = DropPath(self.drop_path)

        y = self._attention(norm(name="norm1")(x))
        x = x + drop(dense(C, name="proj")(y), train=train)

        y = dense(4 * C, name="fc1")(norm(name="norm2")(x))
        y = Conv(
            4 * C, 3, groups=4 * C, use_bias=True, dtype=self.dtype, name="dwconv"
        )(y)
        y = dense(C, name="fc2")(nn.gelu(y, approximate=False))
        return x + drop(y, train=train)

    def _attention(self, x):
        B, h, w, C = x.shape
        dense = functools.partial(Dense, dtype=self.dtype, kernel_init=_INIT)
        heads = lambda x: x.reshape(B, -1, self.heads, C // self.heads)
        query = heads(dense(C, name="q")(x))
        if self.reduction > 1:
            # Rows and columns that fill no window are left out.
            r = self.reduction
            x = Conv(C, r, r, padding=0, use_bias=True, dtype=self.dtype, name="sr")(x)
            x = LayerNorm(epsilon=_AFTER_CONV, dtype=self.dtype, name="sr_norm")(x)
        kv = dense(2 * C, name="kv")(x)
        return attention(query, heads(kv[..., :C]), heads(kv[..., C:])).reshape(
            B, h, w, C
        )


class Stage(nn.Module):
    """A convolution that shrinks the map, blocks, a norm; what it returns is normed."""

    features: int
    heads: int
    reduction: int
    kernel: int
    strides: int
    drop_paths: Sequence[float]  # one for each block
    use_bias: bool = True  # of the convolution
    dtype: Any = np.float32
    remat: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W _"], *, train: bool
    ) -> Float[Array, "B h w {self.features}"]:
        x = Conv(
            self.features,
            self.kernel,
            self.strides,
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="patch_embed",
        )(x)
        x = LayerNorm(epsilon=_AFTER_CONV, dtype=self.dtype, name="patch_norm")(x)
        for i, drop_path in enumerate(self.drop_paths):
            block = Block(
                self.heads, self.reduction, drop_path, self.dtype, name=f"block{i}"
            )
            x = run_block(block, x, train=train, remat=self.remat)
        return LayerNorm(dtype=self.dtype, name="norm")(x)


class Mit(Encoder):
    """Returns the normed features of each stage, at strides 4, 8, 16 and 32.

    Sizes are rounded up. `drop_path` is the share of examples whose last block training
    leaves out; it rises to that from 0. There is no batch norm: `norm` is not used.
    """

    depths: Sequence[int]
    widths: Sequence[int] = (64, 128, 320, 512)
    drop_path: float = 0.1
    stem_bias: bool = True

    torch_names: ClassVar = TORCH_NAMES

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W _"], *, train: bool
    ) -> list[Float[Array, "B _ _ _"]]:
        maps = []
        for stage in stages(self):
            x = stage(x, train=train)
            maps.append(x)
        return maps


def stages(mit, prefix: str = "stage") -> list[Stage]:
    """The four stages of a module with the fields of `Mit`, to be called in turn."""
    rates = np.linspace(0, mit.drop_path, sum(mit.depths))
    parts = np.split(rates, np.cumsum(mit.depths)[:-1])
    return [
        Stage(
            features=mit.widths[i],
            heads=(1, 2, 5, 8)[i],
            reduction=(8, 4, 2, 1)[i],
            kernel=3 if i else 7,
            strides=2 if i else 4,
            drop_paths=tuple(float(rate) for rate in parts[i]),
            use_bias=bool(i) or mit.stem_bias,
            dtype=mit.dtype,
            remat=mit.remat,
            name=f"{prefix}{i + 1}",
        )
        for i in range(4)
    ]


mit_b0 = functools.partial(Mit, depths=(2, 2, 2, 2), widths=(32, 64, 160, 256))
mit_b1 = functools.partial(Mit, depths=(2, 2, 2, 2))
mit_b2 = functools.partial(Mit, depths=(3, 4, 6, 3))
mit_b3 = functools.partial(Mit, depths=(3, 4, 18, 3))
mit_b4 = functools.partial(Mit, depths=(3, 8, 27, 3))
mit_b5 = functools.partial(Mit, depths=(3, 6, 40, 3))

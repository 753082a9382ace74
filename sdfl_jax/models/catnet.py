"""CAT-Net v2 (Kwon et al., IJCV 2022): pixels beside a JPEG's own coefficients.

Twice compressed regions leave other coefficients than those compressed once. An HRNet
reads the pixels, a second one the quantised luminance coefficients and their table.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float, Int, Num

from sdfl_jax.errors import InputError
from sdfl_jax.models.encoders.resnet import BasicBlock, Bottleneck
from sdfl_jax.models.layers import BatchNorm, Conv, resize, run_block
from sdfl_jax.models.names import TorchNames
from sdfl_jax.models.outputs import Outputs, of_mask
from sdfl_jax.ops.apart import apart

_NEW = r"transition(1_1|2_2|3_3)|dc_transition(2_1|3_2)"  # branches that start there
TORCH_NAMES = TorchNames(
    to_path=(
        (r"^model\.", ""),
        (r"^(layer1|dc_layer2)\.(\d)\.", r"\1_\2/"),
        (r"/downsample\.0\.", "/downsample_conv/"),
        (r"/downsample\.1\.", "/downsample_bn/"),
        (r"^((?:dc_)?transition\d)\.(\d)\.(?:0\.)?0\.(?=\D)", r"\1_\2/conv/"),
        (r"^((?:dc_)?transition\d)\.(\d)\.(?:0\.)?1\.(?=\D)", r"\1_\2/bn/"),
        (r"^((?:dc_)?stage\d)\.(\d)\.", r"\1_\2/"),
        (r"/branches\.(\d)\.(\d)\.", r"/branch\1_\2/"),
        (r"/fuse_layers\.(\d)\.(\d)\.(\d)\.0\.", r"/down\1_\2_\3/conv/"),
        (r"/fuse_layers\.(\d)\.(\d)\.(\d)\.1\.", r"/down\1_\2_\3/bn/"),
        (r"/fuse_layers\.(\d)\.(\d)\.0\.", r"/up\1_\2/conv/"),
        (r"/fuse_layers\.(\d)\.(\d)\.1\.", r"/up\1_\2/bn/"),
        (r"^(dc_layer0_dil|dc_layer1_tail|last_layer)\.0\.", r"\1/conv/"),
        (r"^(dc_layer0_dil|dc_layer1_tail|last_layer)\.1\.", r"\1/bn/"),
        (r"^last_layer\.3\.", "out/"),
    ),
    to_torch=(
        (r"^(layer1|dc_layer2)_(\d)/", r"\1/\2/"),
        (r"/downsample_conv/", "/downsample/0/"),
        (r"/downsample_bn/", "/downsample/1/"),
        (rf"^({_NEW})/", r"\1/0/"),
        (r"^((?:dc_)?transition\d)_(\d)/", r"\1/\2/"),
        (r"^((?:dc_)?stage\d)_(\d)/", r"\1/\2/"),
        (r"/branch(\d)_(\d)/", r"/branches/\1/\2/"),
        (r"/down(\d)_(\d)_(\d)/", r"/fuse_layers/\1/\2/\3/"),
        (r"/up(\d)_(\d)/", r"/fuse_layers/\1/\2/"),
        (r"/conv/", "/0/"),
        (r"/bn/", "/1/"),
        (r"^out/", "last_layer/3/"),
    ),
)
HIGHEST = 20  # coefficients of this size and beyond are one
BLOCK = 8


class Branches(nn.Module):
    """An HRNet module: blocks on each of several sizes, then every one to every one."""

    norm: Callable[..., nn.Module]
    dtype: Any
    remat: bool = False

    @nn.compact
    def __call__(
        self, maps: Sequence[Float[Array, "B _ _ _"]], *, train: bool
    ) -> list[Float[Array, "B _ _ _"]]:
        maps = list(maps)
        for i, x in enumerate(maps):
            for k in range(4):
                block = BasicBlock(
                    features=x.shape[-1],
                    strides=1,
                    dilation=1,
                    norm=self.norm,
                    dtype=self.dtype,
                    name=f"branch{i}_{k}",
                )
                # Several maps read each block's result, and XLA would repeat them all.
                x = apart(run_block(block, x, train=train, remat=self.remat))
            maps[i] = x
        return [
            nn.relu(sum(self._between(j, i, maps, train) for j in range(len(maps))))
            for i in range(len(maps))
        ]

    def _between(self, j, i, maps, train):
        """Map `j` at the size and width of map `i`."""
        x, (height, width, features) = maps[j], maps[i].shape[1:]
        if j == i:
            return x
        norm = {"norm": self.norm, "dtype": self.dtype}
        if j > i:
            step = Step(features, 1, 1, relu=False, **norm, name=f"up{i}_{j}")
            return resize(step(x, train=train), height, width)
        for k in range(i - j):
            last = k + 1 == i - j
            width_ = features if last else x.shape[-1]
            step = Step(width_, 3, 2, relu=not last, **norm, name=f"down{i}_{j}_{k}")
            x = step(x, train=train)
        return x


class Step(nn.Module):
    """Convolution, batch norm and, with `relu`, ReLU."""

    features: int
    kernel: int
    strides: int
    norm: Callable[..., nn.Module]
    dtype: Any
    relu: bool = True
    use_bias: bool = False
    dilation: int = 1

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W _"], *, train: bool
    ) -> Float[Array, "B h w {self.features}"]:
        x = Conv(
            self.features,
            self.kernel,
            self.strides,
            dilation=self.dilation,
            use_bias=self.use_bias,
            dtype=self.dtype,
            name="conv",
        )(x)
        x = self.norm(name="bn")(x, train=train)
        return nn.relu(x) if self.relu else x


class CatNet(nn.Module):
    """Made by `build`, which says what the settings mean."""

    norm: Callable[..., nn.Module]
    dtype: Any
    remat: bool = False

    torch_names: ClassVar = TORCH_NAMES
    inputs: ClassVar = ("rgb", "jpeg")

    @nn.compact
    def __call__(
        self,
        image: Float[Array, "B H W 3"],
        *,
        dct: Int[Array, "B h w"] | None = None,
        qtable: Num[Array, "B 8 8"] | None = None,
        train: bool,
    ) -> Outputs:
        """Logits at the size of the image; the label's is the highest of the mask's.

        image     RGB in [0, 1]
        dct       the quantised luminance coefficients of its JPEG file in place of the
                  pixels: block (i, j) at 8i, 8j, vertical frequency first. Of whole
                  blocks: 8 ceil(H / 8) x 8 ceil(W / 8)
        qtable    what they were divided by, of the same order

        Raises InputError where the coefficients are missing or of another size.
        """
        H, W = image.shape[1:3]
        if dct is None or qtable is None:
            raise InputError(
                "catnet reads JPEG coefficients beside the image; set "
                "config.data.inputs=('rgb', 'jpeg')."
            )
        whole = (H + -H % BLOCK, W + -W % BLOCK)
        if dct.shape[1:] != whole:
            raise InputError(
                f"catnet: coefficients of {dct.shape[1:]} for an image of {H}x{W}; "
                f"whole blocks are {whole}."
            )
        x = 2 * image - 1
        x = jnp.pad(x, ((0, 0), (0, -H % BLOCK), (0, -W % BLOCK), (0, 0)))
        pixels = self._pixels(x, train)
        coefficients = self._coefficients(dct, qtable, train)
        joined = [
            jnp.concatenate([x, y], axis=-1)
            for x, y in zip(pixels[1:], coefficients, strict=True)
        ]
        maps = [
            self._step(24 * 2**i, name=f"transition4_{i}")(x, train=train)
            for i, x in enumerate([pixels[0], *joined])
        ]
        maps = self._modules("stage5", 1, maps, train)
        x = jnp.concatenate([resize(x, *maps[0].shape[1:3]) for x in maps], axis=-1)
        last = self._step(x.shape[-1], 1, use_bias=True, name="last_layer")
        x = Conv(2, 1, use_bias=True, dtype=self.dtype, name="out")(
            last(x, train=train)
        )
        x = x.astype(jnp.float32)
        return of_mask(resize(x[..., 1:] - x[..., :1], *whole)[:, :H, :W])

    def _pixels(self, x, train):
        """HRNet-W48: maps of 48 to 384 channels at strides 4 to 32."""
        for i in (1, 2):
            conv = Conv(64, 3, 2, dtype=self.dtype, name=f"conv{i}")
            x = nn.relu(self.norm(name=f"bn{i}")(conv(x), train=train))
        for i in range(4):
            x = self._block(Bottleneck, 64, f"layer1_{i}", x, train)
        maps = [
            self._step(48, name="transition1_0")(x, train=train),
            self._step(96, strides=2, name="transition1_1")(x, train=train),
        ]
        maps = self._modules("stage2", 1, maps, train)
        for stage, modules in ((3, 4), (4, 3)):
            new = self._step(
                48 * 2 ** (stage - 1),
                strides=2,
                name=f"transition{stage - 1}_{stage - 1}",
            )
            maps = [*maps, new(maps[-1], train=train)]
            maps = self._modules(f"stage{stage}", modules, maps, train)
        return maps

    def _coefficients(self, dct, qtable, train):
        """Maps of 96 to 384 channels at strides 8 to 32."""
        magnitudes = jnp.minimum(jnp.abs(dct.astype(jnp.int32)), HIGHEST)
        x = jax.nn.one_hot(magnitudes, HIGHEST + 1, dtype=self.dtype)
        x = self._step(64, dilation=BLOCK, use_bias=True, name="dc_layer0_dil")(
            x, train=train
        )
        x = self._step(4, 1, name="dc_layer1_tail")(x, train=train)
        B, H, W, C = x.shape
        x = x.reshape(B, H // BLOCK, BLOCK, W // BLOCK, BLOCK, C)
        x = x.transpose(0, 1, 3, 5, 2, 4)  # B h w C 8 8
        scaled = x * qtable.astype(x.dtype)[:, None, None, None]
        flat = lambda x: x.reshape(B, H // BLOCK, W // BLOCK, -1)
        x = jnp.concatenate([flat(x), flat(scaled)], axis=-1)
        for i in range(4):
            x = self._block(BasicBlock, 96, f"dc_layer2_{i}", x, train)
        maps = [x]
        for stage, modules in ((3, 3), (4, 2)):
            new = self._step(
                96 * 2 ** (stage - 2),
                strides=2,
                name=f"dc_transition{stage - 1}_{stage - 2}",
            )
            maps = [*maps, new(maps[-1], train=train)]
            maps = self._modules(f"dc_stage{stage}", modules, maps, train)
        return maps

    def _step(self, features, kernel=3, strides=1, **settings):
        return Step(
            features, kernel, strides, norm=self.norm, dtype=self.dtype, **settings
        )

    def _block(self, kind, features, name, x, train):
        block = kind(
            features=features,
            strides=1,
            dilation=1,
            norm=self.norm,
            dtype=self.dtype,
            name=name,
        )
        return apart(run_block(block, x, train=train, remat=self.remat))

    def _modules(self, name, count, maps, train):
        for i in range(count):
            module = Branches(self.norm, self.dtype, self.remat, name=f"{name}_{i}")
            maps = module(maps, train=train)
        return maps


def build(
    *,
    bn_group: int = 0,
    bn_momentum: float = 0.99,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> CatNet:
    """The network of its authors, both streams.

    bn_group, bn_momentum, dtype, remat    as in `sdfl.build`
    """
    dtype = jnp.dtype(dtype)
    norm = functools.partial(
        BatchNorm, momentum=bn_momentum, group=bn_group, dtype=dtype
    )
    return CatNet(norm=norm, dtype=dtype, remat=remat)

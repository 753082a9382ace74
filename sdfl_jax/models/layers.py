"""The few layers that every network here is made of."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError
from sdfl_jax.models import canvas, lora
from sdfl_jax.ops import platforms
from sdfl_jax.ops.conv import conv2d, conv_transpose2d
from sdfl_jax.ops.maximum import max_pool2d

# PyTorch's `kaiming_normal_`: keeps the variance through a ReLU. Counted from the
# inputs, which is also right for depthwise kernels.
he_normal = nn.initializers.variance_scaling(2.0, "fan_in", "normal")


class Conv(nn.Module):
    """A convolution; padded by half its kernel on every side where nothing is said.

    The kernel is stored as H W I O in float32 and used in `dtype`.
    """

    features: int
    kernel: int = 3
    strides: int = 1
    padding: int | str | None = None  # int, or "SAME" for TensorFlow's
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    dtype: Any = jnp.float32
    kernel_init: Callable = he_normal

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        shape = (self.kernel, self.kernel, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        half = self.kernel // 2 * self.dilation
        padding = half if self.padding is None else self.padding
        x = x.astype(self.dtype)
        x = conv2d(
            canvas.cut_off(x) if self.kernel > 1 else x,
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            x = x + bias.astype(self.dtype)[None, None, None]
        return x


class ConvTranspose(nn.Module):
    """Twice the size or another whole multiple: a transposed convolution with bias.

    The kernel is stored as H W O I in float32 (PyTorch's transposed, not flipped) and
    used in `dtype`; `padding` is PyTorch's.
    """

    features: int
    kernel: int = 2
    strides: int = 2
    padding: int = 0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        shape = (self.kernel, self.kernel, self.features, x.shape[-1])
        kernel = self.param("kernel", _transposed_init, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = conv_transpose2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
        )
        return x + bias.astype(self.dtype)[None, None, None]


_transposed_init = nn.initializers.variance_scaling(
    1.0, "fan_in", "normal", in_axis=-1, out_axis=-2
)


class Dense(nn.Module):
    """A matrix over the last axis, with an adapter where `lora` asks for one.

    The kernel is stored as in x out in float32 and used in `dtype`.
    """

    features: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    kernel_init: Callable = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Float[Array, "... C"]) -> Float[Array, "... F"]:
        shape = (x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        x = x.astype(self.dtype)
        y = x @ kernel.astype(self.dtype)
        if adapter := lora.of_layer(self.path):
            down = (shape[0], adapter.rank)
            a = self.param("lora_a", _lora_init, down, jnp.float32)
            up = (adapter.rank, self.features)
            b = self.param("lora_b", nn.initializers.zeros, up, jnp.float32)
            y += (adapter.scale * (x @ a.astype(self.dtype))) @ b.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,))
            y += bias.astype(self.dtype).reshape((1,) * (y.ndim - 1) + (-1,))
        return y


# PyTorch's `kaiming_uniform_` with a = sqrt 5, which the published adapters start from.
_lora_init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

# The mean square of a difference from the mean: E[x²] - E[x]² would lose digits.
LayerNorm = functools.partial(nn.LayerNorm, epsilon=1e-6, use_fast_variance=False)


class DropPath(nn.Module):
    """In training leaves a residual branch out, for whole examples at random."""

    rate: float

    @nn.compact
    def __call__(
        self, x: Float[Array, "B ..."], *, train: bool
    ) -> Float[Array, "B ..."]:
        drop = nn.Dropout(self.rate, broadcast_dims=tuple(range(1, x.ndim)))
        return drop(x, deterministic=not train or not self.rate)


def attention(
    query: Float[Array, "B N h D"],
    key: Float[Array, "B M h D"],
    value: Float[Array, "B M h D"],
) -> Float[Array, "B N h D"]:
    """Scaled dot-product attention of h heads; the softmax is float32.

    On a GPU with half precision tensor cores cuDNN's fused form, in half precision.
    """
    half = query.dtype in (jnp.bfloat16, jnp.float16)
    fused = half and _has_flash_attention()
    implementation = "cudnn" if fused else "xla"
    return jax.nn.dot_product_attention(
        query, key, value, implementation=implementation
    )


@functools.cache
def _has_flash_attention() -> bool:
    device = jax.devices()[0]
    return device.platform == "gpu" and float(device.compute_capability) >= 8.0


class BatchNorm(nn.Module):
    """Batch normalisation with PyTorch's running statistics.

    The running variance is the unbiased one, which flax's own layer does not keep, so
    weights move both ways unchanged. Statistics are float32 in any `dtype`.

    `group` n takes the statistics of n consecutive examples at a time, as n examples on
    each of several GPUs have them; 0 takes those of the whole batch. The running ones
    then move by the mean over the groups. A group of a single value is normalised to
    the bias and, as one value has no variance, leaves the running variance alone.
    `frozen` uses the running statistics, and keeps them, in train mode too.

    Raises InputError where `group` does not divide the batch.
    """

    eps: float = 1e-5
    momentum: float = 0.9  # PyTorch's 0.1, counted from the other side
    group: int = 0
    frozen: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[ArrayLike, "B H W C"], *, train: bool
    ) -> Float[Array, "B H W C"]:
        B, H, W, C = x.shape
        scale = self.param("scale", nn.initializers.ones, (C,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (C,), jnp.float32)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (C,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (C,))

        if not train or self.frozen:
            mean, var = running_mean.value[None], running_var.value[None]  # 1 C
            centred = x.astype(jnp.float32) - mean[:, None, None]
            factor = scale[None] * jax.lax.rsqrt(var + self.eps)
            y = centred * factor[:, None, None] + bias[None, None, None]
            return y.astype(self.dtype)

        n = self.group or B
        if B % n:
            raise InputError(f"bn_group={n} does not divide a batch of {B}.")
        groups = x.astype(jnp.float32).reshape(B // n, n, H, W, C)
        y, mean, var = normalise(groups, scale, bias, self.eps)
        if not self.is_initializing():
            self._move(running_mean, jnp.mean(mean, axis=0))
            count = n * H * W
            if count > 1:
                self._move(running_var, jnp.mean(var, axis=0) * count / (count - 1))
        return y.reshape(B, H, W, C).astype(self.dtype)

    def _move(self, running, value):
        running.value = self.momentum * running.value + (1 - self.momentum) * value


class GroupNorm(nn.Module):
    """Normalises each example by itself, over groups of channels (Wu and He, 2018).

    The same in training and in evaluation, so it is what small grids take: a batch norm
    over few positions keeps running statistics of next to nothing. Takes `train` for
    the place of a `BatchNorm`, and does nothing with it.
    """

    channels: int = 8  # of a group, or as many as there are
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[ArrayLike, "B H W C"], *, train: bool
    ) -> Float[Array, "B H W C"]:
        groups = max(1, x.shape[-1] // self.channels)
        norm = nn.GroupNorm(num_groups=groups, dtype=self.dtype, name="norm")
        return norm(x, mask=canvas.inside(x))


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalise(
    x: Float[ArrayLike, "G n H W C"],
    scale: Float[ArrayLike, "C"],
    bias: Float[ArrayLike, "C"],
    eps: float,
) -> tuple[Float[Array, "G n H W C"], Float[Array, "G C"], Float[Array, "G C"]]:
    """Each group to mean `bias` and deviation `scale`; its mean and biased variance.

    The gradients are those of the first result; the statistics have none.
    """
    return _normalise_forward(x, scale, bias, eps)[0]


def _normalise_forward(x, scale, bias, eps):
    mean = _group_mean(x)
    centred = x - _spread(mean)
    var = _group_mean(jnp.square(centred))
    inverse = jax.lax.rsqrt(var + eps)  # G C
    factor = inverse * scale[None]
    y = centred * _spread(factor) + _spread(bias[None])
    return (y, mean, var), (x, mean, inverse, scale)


def _normalise_backward(eps, saved, gradients):
    x, mean, inverse, scale = saved
    dy, *_ = gradients
    dy_mean = _group_mean(dy)  # G C
    varied = dy - _spread(dy_mean)
    # Not with x less its mean, which is the same: that needs nothing but what the
    # forward pass knows, so XLA computes it there and keeps it.
    along_mean = _group_mean(varied * x) * inverse
    dx = varied - (x - _spread(mean)) * _spread(inverse * along_mean)
    count = x[0, ..., 0].size
    return (
        dx * _spread(inverse * scale[None]),
        count * jnp.sum(along_mean, axis=0),
        count * jnp.sum(dy_mean, axis=0),
    )


normalise.defvjp(_normalise_forward, _normalise_backward)


def _group_mean(x: Float[ArrayLike, "G n H W C"]) -> Float[Array, "G C"]:
    return jnp.mean(x, axis=(1, 2, 3))


def _spread(values: Float[ArrayLike, "G C"]) -> Float[ArrayLike, "G 1 1 1 C"]:
    return values[:, None, None, None]


def run_block(
    block: nn.Module, x: Float[Array, "B ..."], *others, train: bool, remat: bool
) -> Float[Array, "B ..."]:
    """`block(x, *others, train=train)`; with `remat` computed anew for its gradient.

    Only the block's input is then kept for the backward pass.
    """
    call = lambda block, *inputs: block(*inputs, train=train)
    return (nn.remat(call) if remat else call)(block, x, *others)


class ConvBlock(nn.Module):
    """Convolution, batch norm, ReLU.

    With `size`, a grid over the whole image is resized in between. To resize before a
    1x1 convolution is the same, but for more work and, where all positions hold one
    value, rounding that the batch norm would blow up.
    """

    features: int
    kernel: int = 3
    norm: Callable[..., nn.Module] = BatchNorm
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "B H W _"],
        *,
        size: tuple[int, int] | None = None,
        train: bool,
    ) -> Float[Array, "B h w {self.features}"]:
        x = Conv(self.features, self.kernel, dtype=self.dtype, name="conv")(x)
        x = x if size is None else resize(x, *size, grid=True)
        return relu(self.norm(name="bn")(x, train=train))


@jax.custom_vjp
def relu(x: Float[ArrayLike, "..."]) -> Float[Array, "..."]:
    """The positive part; its gradient asks the result where that was.

    JAX's own asks the input, which is then kept beside the result that the next layer
    keeps anyway. Reverse-mode gradients only, of any order.
    """
    # A zero of Python's own becomes a double where the network is exported.
    return jnp.maximum(x, jnp.zeros((), jnp.result_type(x)))


def _relu_forward(x):
    y = relu(x)
    return y, y


def _relu_backward(y, gradient):
    return (jnp.where(y > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)


def resize(
    x: Float[Array, "B _ _ C"], height: int, width: int, *, grid: bool = False
) -> Float[Array, "B {height} {width} C"]:
    """Bilinear, half-pixel centres, no smoothing before: PyTorch's `interpolate`.

    `grid`: all of `x` belongs to each image, on a canvas too.
    """
    wanted = canvas.extent(height, width)
    if wanted is not None:
        given = canvas.extent(*x.shape[1:3])
        whole = jnp.broadcast_to(jnp.array([x.shape[1:3]]), given.shape)
        return canvas.stretch(x, whole if grid else given, wanted, (height, width))
    shape = (x.shape[0], height, width, x.shape[3])
    return jax.image.resize(x, shape, "bilinear", antialias=False)


def max_pool(
    x: Float[Array, "B H W C"], window: int, strides: int, padding: int = 0
) -> Float[Array, "B h w C"]:
    """The highest of each square window; what is padded is lower than anything.

    Padded beforehand: other formats have no word for padding within the pooling.
    """
    lowest = float(jnp.finfo(x.dtype).min)
    x = canvas.cut_off(x, lowest) if window > strides else x
    if padding:
        sides = ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0))
        x = jnp.pad(x, sides, constant_values=lowest)
    if platforms.is_plain():  # other formats know Flax's pooling, and no gradients
        return nn.max_pool(x, window_shape=(window,) * 2, strides=(strides,) * 2)
    return max_pool2d(x, window, strides)


def highest_means(
    logits: Float[Array, "B h w 1"], shares: Sequence[float]
) -> Float[Array, "B n"]:
    """Of each map the mean of its highest values, for each share of its positions.

    Of at least one value each.
    """
    flat = canvas.cut_off(logits, -jnp.inf).reshape(len(logits), -1)
    highest, _ = jax.lax.top_k(flat, max(1, round(max(shares) * flat.shape[1])))
    own = canvas.extent(*logits.shape[1:3])
    if own is None:
        counts = [max(1, round(share * flat.shape[1])) for share in shares]
        means = [jnp.mean(highest[:, :count], axis=1) for count in counts]
        return jnp.stack(means, axis=-1)
    wanted = jnp.round(jnp.prod(own, axis=1, keepdims=True) * jnp.array([shares]))
    counts = jnp.maximum(1, wanted)  # B n
    taken = jnp.arange(highest.shape[1])[None, None] < counts[..., None]
    return jnp.sum(jnp.where(taken, highest[:, None], 0.0), axis=-1) / counts


def resize_corners(
    x: Float[Array, "B h w C"], height: int, width: int
) -> Float[Array, "B {height} {width} C"]:
    """Bilinear, corners on corners: PyTorch's `interpolate` with `align_corners`.

    Made for maps of few channels: one product along each axis.
    """
    return jnp.einsum(
        "bhwc,Hh,Ww->bHWc",
        x,
        _between(x.shape[1], height),
        _between(x.shape[2], width),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    ).astype(x.dtype)


def _between(inputs: int, outputs: int) -> np.ndarray:
    """outputs x inputs: the two neighbours' weights, at equal steps from end to end."""
    places = np.linspace(0, inputs - 1, outputs)
    distance = np.abs(places[:, None] - np.arange(inputs))
    return np.maximum(1 - distance, 0).astype(np.float32)


def normalised(
    image: Float[Array, "B H W 3"], encoder: nn.Module
) -> Float[Array, "B H W 3"]:
    """The image as the encoder's published weights expect it."""
    mean, std = jnp.array(encoder.mean), jnp.array(encoder.std)
    return (image - mean[None, None, None]) / std[None, None, None]


def grey(image: Float[Array, "B H W 3"]) -> Float[Array, "B H W 1"]:
    """Luma of ITU-R BT.601, with the reference's digits."""
    weights = jnp.array([0.2989, 0.5870, 0.1140])
    return jnp.sum(image * weights[None, None, None], axis=-1, keepdims=True)

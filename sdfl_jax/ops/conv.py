"""Convolutions in the form that each platform runs best."""

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from sdfl_jax.ops import winograd
from sdfl_jax.ops.apart import apart
from sdfl_jax.ops.platforms import by_platform

# At most this many output positions (batch x height x width) are unfolded for one
# product: the copy is kh x kw times the features, and pays only on small maps.
UNFOLDED_POSITIONS = 512
# More values than this do not stay in a CPU's cache (16 MiB in float32), and there
# XLA's own gradient for the kernel runs at a quarter of the speed of the products, but
# not of features as few as these.
CACHED_VALUES, FEW_FEATURES = 2**22, 64
# A CPU computes these one by one; in float32 it is up to ten times faster.
_NARROW = (jnp.bfloat16, jnp.float16)
# So many output positions of a depthwise convolution, at most so many of them in a row,
# are summed in one fused loop for the gradient of its kernel.
SUMMED_POSITIONS, SUMMED_IN_ROW = 32, 16


class _Window(NamedTuple):
    """How a kernel moves over the features; hashable, so that it can be static."""

    strides: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    dilation: int
    groups: int


def conv2d(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "kh kw _ F"],
    *,
    strides: int = 1,
    padding="SAME",
    dilation: int = 1,
    groups: int = 1,
) -> Float[Array, "B h w F"]:
    """Convolves NHWC features with an HWIO kernel.

    `padding` is "SAME" (TensorFlow's), "VALID", one number for all sides (PyTorch's) or
    ((top, bottom), (left, right)).  The platform is chosen where the program is
    lowered: a GPU gets one convolution instruction, a CPU what `_cpu_form` says.
    Reverse-mode gradients only, of any order.
    """
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    elif isinstance(padding, str):
        reach = [(size - 1) * dilation + 1 for size in kernel.shape[:2]]
        padding = lax.padtype_to_pads(x.shape[1:3], reach, (strides, strides), padding)
    padding = tuple((int(low), int(high)) for low, high in padding)
    return _conv(x, kernel, _Window(strides, padding, dilation, groups))


def conv_transpose2d(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k F C"],
    *,
    strides: int = 2,
    padding: int = 0,
) -> Float[Array, "B h w F"]:
    """PyTorch's transposed convolution of NHWC features.

    The kernel is H W O I and not flipped; h is strides (H - 1) - 2 padding + k. A CPU
    gets one product and sums of where its results overlap: in training XLA's own form
    takes ten times as long there.
    """
    settings = dict(strides=strides, padding=padding)
    cpu = _in_float32(_overlapped) if x.dtype in _NARROW else _overlapped
    return by_platform(
        x,
        kernel,
        cpu=functools.partial(cpu, **settings),
        default=functools.partial(_transposed, **settings),
    )


def _transposed(x, kernel, *, strides, padding):
    margin = kernel.shape[0] - 1 - padding
    return lax.conv_transpose(
        x,
        kernel,
        strides=(strides, strides),
        padding=((margin, margin), (margin, margin)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        transpose_kernel=True,
    )


def _overlapped(x, kernel, *, strides, padding):
    """Each position's k x k results, those at the same place of the output added up."""
    (B, H, W, C), (k, _, features, _) = x.shape, kernel.shape
    reach = -(-k // strides)  # how many positions in a row meet in one of the output
    kernel = jnp.pad(kernel, ((0, reach * strides - k),) * 2 + ((0, 0),) * 2)
    y = x.reshape(-1, C) @ kernel.reshape(-1, C).T
    y = y.reshape(B, H, W, reach, strides, reach, strides, features)
    rows, columns = H + reach - 1, W + reach - 1
    total = 0
    for i in range(reach):
        for j in range(reach):
            part = y[:, :, :, i, :, j].transpose(0, 1, 3, 2, 4, 5)  # B H s W s F
            around = ((0, 0), (i, reach - 1 - i), (0, 0), (j, reach - 1 - j))
            total += jnp.pad(part, (*around, (0, 0), (0, 0)))
    total = total.reshape(B, rows * strides, columns * strides, features)
    first, h, w = padding, *(strides * (n - 1) - 2 * padding + k for n in (H, W))
    return total[:, first : first + h, first : first + w]


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv(x, kernel, window):
    forward, _ = _cpu_form(x, kernel, window)
    return by_platform(
        x,
        kernel,
        cpu=functools.partial(forward, window=window),
        default=functools.partial(_native, window=window),
    )


def _conv_forward(x, kernel, window):
    return _conv(x, kernel, window), (x, kernel)


def _conv_backward(window, saved, gradient):
    _, backward = _cpu_form(*saved, window)
    return by_platform(
        *saved,
        gradient,
        cpu=functools.partial(backward, window=window),
        default=functools.partial(_backward_of(_native), window=window),
    )


_conv.defvjp(_conv_forward, _conv_backward)


def _backward_of(forward):
    """The gradients that JAX derives for a form of the convolution."""

    def backward(x, kernel, gradient, *, window):
        return jax.vjp(functools.partial(forward, window=window), x, kernel)[1](
            gradient
        )

    return backward


def _cpu_form(x, kernel, window):
    """Which forward and which backward function a CPU runs."""
    kh, kw, _, features = kernel.shape
    channels = x.shape[-1]
    backward = _native_backward if window.groups == 1 else _backward_of(_native)
    plain = _native, backward
    if x.dtype in _NARROW:
        wide = [jax.ShapeDtypeStruct(a.shape, jnp.float32) for a in (x, kernel)]
        return tuple(map(_in_float32, _cpu_form(*wide, window)))
    if x.dtype != jnp.float32:
        return plain
    if window.groups == channels == features > 1:
        return _depthwise, _depthwise_backward
    if window.groups > 1:
        return plain
    h, w = _output_size(x, kernel, window)
    if kh == kw == 1 or x.shape[0] * h * w <= UNFOLDED_POSITIONS:
        return _unfolded, _unfolded_backward
    plain_window = kh == kw == 3 and window.strides == window.dilation == 1
    if plain_window and winograd.pays(x.shape[0] * h * w, channels, features):
        return _winograd, _winograd_backward
    if x.size > CACHED_VALUES and features > FEW_FEATURES:
        return _native, _tapwise_backward
    return plain


def _in_float32(form):
    """The form on float32 copies; what comes back has the features' type again."""

    def computed(x, *others, **settings):
        wide = (a.astype(jnp.float32) for a in (x, *others))
        result = form(*wide, **settings)
        return jax.tree.map(lambda y: y.astype(x.dtype), result)

    return computed


def _native(x, kernel, *, window, spread=1):
    """XLA's own; `spread` puts so many less one zeros between the positions of `x`."""
    return lax.conv_general_dilated(
        x,
        kernel,
        (window.strides, window.strides),
        window.padding,
        lhs_dilation=(spread, spread),
        rhs_dilation=(window.dilation, window.dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=window.groups,
    )


# XLA's CPU compiler brings convolutions into the one form that is fast, features last
# and the kernel H W I O, in a program's main part and not in its loops. The gradients
# that JAX derives have other forms: in a loop they took up to twenty times as long.


def _native_backward(x, kernel, gradient, *, window):
    by_features = _features_gradient(x, kernel, gradient, window)
    return by_features, _kernel_gradient_native(x, kernel, gradient, window)


def _features_gradient(x, kernel, gradient, window):
    """A convolution of the gradient with the kernel turned around."""
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    back = _window_back(x, kernel, gradient, window)
    return _native(gradient, turned, window=back, spread=window.strides)


def _kernel_gradient_native(x, kernel, gradient, window):
    """A convolution of the features with the gradient, summed over examples."""
    padding = []
    for axis in (0, 1):
        low, _ = window.padding[axis]
        spread = (gradient.shape[1 + axis] - 1) * window.strides + 1
        reach = (kernel.shape[axis] - 1) * window.dilation
        padding.append((low, spread + reach - x.shape[1 + axis] - low))
    # The places of strides and dilation are changed.
    along = _Window(window.dilation, tuple(padding), window.strides, window.groups)
    found = _native(
        x.transpose(3, 1, 2, 0), gradient.transpose(1, 2, 0, 3), window=along
    )  # C kh kw F
    return found.transpose(1, 2, 0, 3)


def _window_back(x, kernel, gradient, window):
    """Of the convolution that leads from the gradient, its strides undone, to `x`."""
    padding = []
    for axis in (0, 1):
        reach = (kernel.shape[axis] - 1) * window.dilation
        low = reach - window.padding[axis][0]
        spread = (gradient.shape[1 + axis] - 1) * window.strides + 1
        padding.append((low, x.shape[1 + axis] + reach - spread - low))
    return _Window(1, tuple(padding), window.dilation, window.groups)


def _output_size(x, kernel, window):
    return tuple(
        (size + sum(pads) - (taps - 1) * window.dilation - 1) // window.strides + 1
        for size, pads, taps in zip(
            x.shape[1:3], window.padding, kernel.shape[:2], strict=True
        )
    )


def _shifted(x, kernel, window, keep=lambda padded: padded):
    """What each of the kernel's kh x kw taps sees of `keep(padded)`: views B h w C."""
    (kh, kw), (h, w) = kernel.shape[:2], _output_size(x, kernel, window)
    stride, dilation = window.strides, window.dilation
    x = keep(_padded(x, window))
    return [
        x[
            :,
            i * dilation : i * dilation + (h - 1) * stride + 1 : stride,
            j * dilation : j * dilation + (w - 1) * stride + 1 : stride,
        ]
        for i in range(kh)
        for j in range(kw)
    ]


def _padded(x, window):
    rows, columns = window.padding
    padding = ((0, 0, 0), (*rows, 0), (*columns, 0), (0, 0, 0))
    return lax.pad(x, jnp.zeros((), x.dtype), padding)


def _columns(x, kernel, window):
    """All that the taps see side by side, B h w kh*kw*C."""
    if kernel.shape[:2] == (1, 1):  # one view, which repeats nothing
        return _shifted(x, kernel, window)[0]
    return jnp.concatenate(_shifted(x, kernel, window, keep=apart), axis=-1)


def _unfolded(x, kernel, *, window):
    """One matrix product of all that the taps see with the whole kernel."""
    columns = _columns(x, kernel, window)
    matrix = kernel.reshape(-1, kernel.shape[-1])
    return lax.dot_general(columns, matrix, (((3,), (0,)), ((), ())))


def _unfolded_backward(x, kernel, gradient, *, window):
    by_features = jax.vjp(lambda x: _unfolded(x, kernel, window=window), x)[1]
    by_kernel = _kernel_gradient([_columns(x, kernel, window)], gradient)
    return *by_features(gradient), by_kernel.reshape(kernel.shape)


def _winograd(x, kernel, *, window):
    return winograd.convolve(x, kernel, window.padding)


def _winograd_backward(x, kernel, gradient, *, window):
    """The features' gradient is such a convolution, with the kernel turned around."""
    around = tuple((2 - low, 2 - high) for low, high in window.padding)
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    by_features = winograd.convolve(gradient, turned, around)
    return by_features, winograd.kernel_gradient(x, gradient, window.padding)


def _tapwise_backward(x, kernel, gradient, *, window):
    """XLA's own convolution for the features; one product per tap for the kernel."""
    by_features = _features_gradient(x, kernel, gradient, window)
    return by_features, _kernel_gradient_tapwise(x, kernel, gradient, window)


def _kernel_gradient_tapwise(x, kernel, gradient, window):
    """`_kernel_gradient` of one tap after the other, in a loop.

    Written out, all views are there at once, and as they need nothing but the features,
    XLA makes them in the forward pass already: they were a third of a step's memory.
    """
    kh, kw, channels, features = kernel.shape
    (B, h, w, _), stride = gradient.shape, window.strides
    padded = _padded(x, window)
    size = (B, (h - 1) * stride + 1, (w - 1) * stride + 1, channels)
    positions = B * h * w
    turn_view = kh * kw * channels * positions < (
        positions * features + kh * kw * channels * features
    )
    turned = gradient if turn_view else jnp.moveaxis(gradient, -1, 0)

    def tap(place):
        start = place * window.dilation
        view = lax.dynamic_slice(padded, (0, start[0], start[1], 0), size)
        view = view[:, ::stride, ::stride]
        if turn_view:
            return lax.dot_general(view, turned, (((0, 1, 2), (0, 1, 2)), ((), ())))
        return lax.dot_general(turned, view, (((1, 2, 3), (0, 1, 2)), ((), ())))

    places = jnp.stack(jnp.divmod(jnp.arange(kh * kw), kw), axis=-1)
    products = lax.map(tap, places)
    products = products if turn_view else products.swapaxes(1, 2)
    return products.reshape(kernel.shape)


def _kernel_gradient(seen, gradient):
    """Sums views x gradient over all positions; n C F for n views of C channels.

    XLA turns the first operand of such a product into rows of positions. That copy
    costs as much as the product itself, so it is the gradient, once for all views, that
    is turned, and the product afterwards, unless that is more to copy.
    """
    channels, features = seen[0].shape[-1], gradient.shape[-1]
    positions = math.prod(gradient.shape[:3])
    over_positions = (((0, 1, 2), (0, 1, 2)), ((), ()))
    turned = len(seen) * positions * channels
    if turned < positions * features + len(seen) * channels * features:
        products = [lax.dot_general(view, gradient, over_positions) for view in seen]
        return jnp.stack(products)
    products = [lax.dot_general(gradient, view, over_positions) for view in seen]
    return jnp.stack(products).swapaxes(1, 2)


def _depthwise(x, kernel, *, window):
    """Each tap's view times the tap's weights, summed in one fused loop."""
    weights = kernel.reshape(-1, 1, 1, 1, x.shape[-1])
    seen = _shifted(x, kernel, window)
    return sum(view * weight for view, weight in zip(seen, weights, strict=True))


def _depthwise_backward(x, kernel, gradient, *, window):
    """The features' gradient is itself such a sum, with the kernel turned around."""
    spread = lax.pad(
        gradient,
        jnp.zeros((), gradient.dtype),
        ((0, 0, 0), (0, 0, window.strides - 1), (0, 0, window.strides - 1), (0, 0, 0)),
    )
    back = _window_back(x, kernel, gradient, window)
    by_features = _depthwise(spread, kernel[::-1, ::-1], window=back)
    return by_features, _depthwise_kernel_gradient(x, kernel, gradient, window)


def _depthwise_kernel_gradient(x, kernel, gradient, window):
    """Views x gradient summed over positions, one block of them after the other.

    A block's part is one fused loop over B kh kw C whose last axis fills the vector
    registers, and all that it reads stays in the cache. A reduction of each tap's whole
    view, which XLA does not vectorise, takes two to ten times as long. Examples are
    summed last: a batch that is split over devices stays so.
    """
    (kh, kw), (B, h, w, C) = kernel.shape[:2], gradient.shape
    stride, dilation = window.strides, window.dilation
    columns = -(-w // SUMMED_IN_ROW)
    width = -(-w // columns)
    height = min(h, max(1, SUMMED_POSITIONS // width))
    rows = -(-h // height)
    h, w = rows * height, columns * width  # filled up, with nothing to sum
    gradient = _grown(gradient, h, w)
    reach = lambda n, taps: (n - 1) * stride + (taps - 1) * dilation + 1
    x = _grown(_padded(x, window), reach(h, kh), reach(w, kw))
    seen = B, reach(height, kh), reach(width, kw), C

    def add_block(i, total):
        top, left = i // columns * height, i % columns * width
        view = lax.dynamic_slice(x, (0, top * stride, left * stride, 0), seen)
        given = lax.dynamic_slice(gradient, (0, top, left, 0), (B, height, width, C))
        part = 0
        for row in range(height):
            for column in range(width):
                taps = view[
                    :,
                    row * stride : row * stride + reach(1, kh) : dilation,
                    column * stride : column * stride + reach(1, kw) : dilation,
                ]
                part += taps * given[:, row, column][:, None, None]
        return total + part

    total = jnp.zeros((B, kh, kw, C), x.dtype)
    total = lax.fori_loop(0, rows * columns, add_block, total)
    return jnp.sum(total, axis=0).reshape(kernel.shape)


def _grown(x, height, width):
    """Zeros at the right and lower border up to that size; no less than `x` has."""
    more = (max(0, height - x.shape[1]), max(0, width - x.shape[2]))
    return jnp.pad(x, ((0, 0), (0, more[0]), (0, more[1]), (0, 0)))

"""Convolutions in the form that each platform runs best."""

import jax
from jax import lax
from jaxtyping import Array, Float


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
    ((top, bottom), (left, right)).
    """
    if isinstance(padding, int):
        padding = ((padding, padding), (padding, padding))
    return lax.conv_general_dilated(
        x,
        kernel,
        (strides, strides),
        padding,
        rhs_dilation=(dilation, dilation),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        precision=jax.lax.Precision.DEFAULT,
    )

"""A DnCNN (Zhang et al., 2017) that leaves a camera's noise: Noiseprint++ of TruFor."""

from typing import ClassVar

from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.models.encoders.base import Encoder
from sdfl_jax.models.layers import Conv
from sdfl_jax.models.names import TorchNames

DEPTH = 17

# Theirs is a list in which ReLUs count: 0, 2 and 3, 5 and 6, ... and 47.
_LIST = [
    ("0", "conv0"),
    *(
        pair
        for i in range(1, DEPTH - 1)
        for pair in ((str(3 * i - 1), f"conv{i}"), (str(3 * i), f"bn{i}"))
    ),
    (str(3 * (DEPTH - 1) - 1), f"conv{DEPTH - 1}"),
]


class Noiseprint(Encoder):
    """One channel at the size of the image, which is read as it is, in [0, 1].

    The same in both modes: its published training has no public code, and TruFor keeps
    it as it is.
    """

    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)

    torch_names: ClassVar = TorchNames(
        to_path=(
            (r"^dncnn\.", ""),
            *((rf"^{theirs}\.", f"{ours}/") for theirs, ours in _LIST),
        ),
        to_torch=tuple((rf"^{ours}/", f"{theirs}/") for theirs, ours in _LIST),
    )

    @nn.compact
    def __call__(
        self, x: Float[Array, "B H W 3"], *, train: bool
    ) -> Float[Array, "B H W 1"]:
        del train
        for i in range(DEPTH):
            last = i + 1 == DEPTH
            conv = Conv(
                1 if last else 64,
                use_bias=i == 0 or last,
                dtype=self.dtype,
                name=f"conv{i}",
            )
            x = conv(x)
            if 0 < i and not last:
                x = self.norm(name=f"bn{i}")(x, train=False)
            x = x if last else nn.relu(x)
        return x

"""SimpleNet: the small convolutional network of the study on generated faces."""

from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from sdfl_jax.errors import InputError
from sdfl_jax.models.classifier import of_classes
from sdfl_jax.models.layers import Conv, Dense, max_pool
from sdfl_jax.models.outputs import Outputs

# Three 7x7 convolutions without padding and three halvings leave one position of this.
SMALLEST = 50


class SimpleNet(nn.Module):
    """Made by `build`, which says what the settings mean."""

    num_classes: int
    image_size: int
    dtype: Any
    gives_mask = False

    @nn.compact
    def __call__(self, image: Float[Array, "B H W 3"], *, train: bool) -> Outputs:
        """Logits for RGB in [0, 1]; there is no mask.

        Raises InputError for images of another size than the dense layers are made for.
        """
        height, width = image.shape[1:3]
        if (height, width) != (self.image_size, self.image_size):
            raise InputError(
                f"simplenet reads images of {self.image_size}x{self.image_size}, not "
                f"{height}x{width}; image_size= of the model sets that."
            )
        x = image
        for i, features in enumerate((6, 16, 24), 1):
            conv = Conv(
                features, 7, padding=0, use_bias=True, dtype=self.dtype, name=f"conv{i}"
            )
            x = max_pool(nn.relu(conv(x)), 2, 2)
        x = x.reshape(len(x), -1)
        for i, features in enumerate((1024, 256), 1):
            x = nn.relu(Dense(features, dtype=self.dtype, name=f"dense{i}")(x))
        return of_classes(Dense(self.num_classes, dtype=self.dtype, name="dense3")(x))


def build(
    *, num_classes: int = 2, image_size: int = 256, dtype: Any = jnp.float32
) -> SimpleNet:
    """Convolutions 7x7 to 6, 16 and 24 channels, each halved; dense 1024 and 256.

    num_classes    2: authentic, manipulated
    image_size     of the images, which the first dense layer depends on
    dtype          as in `sdfl.build`
    """
    if image_size < SMALLEST:
        raise InputError(
            f"image_size={image_size}: simplenet takes {SMALLEST} or more."
        )
    if num_classes < 2:
        raise InputError(f"num_classes={num_classes}: there are two or more.")
    return SimpleNet(num_classes, image_size, jnp.dtype(dtype))

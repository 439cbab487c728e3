"""A stem of small convolutions instead of the linear patch embedding; not in the paper, off by default."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from sit_jax.model.fast.norm import layer_norm


def stem_sizes(width: int, patch_size: int, channels: int) -> list[tuple[int, int]]:
    """Returns (inputs, outputs) of each convolution; each convolution halves the side of a patch.

    The outputs double from convolution to convolution and end at the token width. `patch_size` is a power of two, at
    least 2.
    """
    halvings = patch_size.bit_length() - 1
    return list(itertools.pairwise([channels, *(width >> (halvings - 1 - i) for i in range(halvings))]))


class ConvolutionStem(nnx.Module):
    """Images [V, s, s, c] to tokens [V, N, D]: 3 x 3 convolutions of stride 2, then a dense layer (arXiv 2106.14881).

    A layer norm over the channels and a ReLU follow each convolution. The source uses batch normalisation instead,
    which would couple the rows of a batch. The source also removes one transformer layer; here all layers stay.
    """

    def __init__(self, width: int, patch_size: int, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.width, self.dtype = width, dtype
        sizes = stem_sizes(width, patch_size, channels)
        self.count = len(sizes)
        for index, (inputs, outputs) in enumerate(sizes):
            convolution = nnx.Conv(inputs, outputs, (3, 3), 2, padding=1, use_bias=False, dtype=dtype, rngs=rngs)
            setattr(self, f"convolution{index}", convolution)
            setattr(self, f"norm{index}", nnx.LayerNorm(outputs, epsilon=1e-6, rngs=rngs))
        self.out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the tokens of square images in row-major order; the side must be a multiple of the patch side."""
        x = images.astype(self.dtype)
        for index in range(self.count):
            x = getattr(self, f"convolution{index}")(x)
            x = jax.nn.relu(layer_norm(getattr(self, f"norm{index}"), x))
        return self.out(x.reshape(len(x), -1, self.width))

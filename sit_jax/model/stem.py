"""A stem of small convolutions in place of the layer from patches to tokens; outside the paper, off by default."""

import itertools

import jax
import jax.numpy as jnp
from flax import nnx

from sit_jax.model.fast.norm import layer_norm


def stem_sizes(width: int, patch_size: int) -> list[tuple[int, int]]:
    """Returns (inputs, outputs) of each convolution: one for each halving of a patch, the last one as wide as a token.

    Each is twice as wide as the one before. `patch_size` is a power of two, at least 2.
    """
    halvings = patch_size.bit_length() - 1
    return list(itertools.pairwise([3, *(width >> (halvings - 1 - i) for i in range(halvings))]))


class ConvolutionStem(nnx.Module):
    """Images [V, s, s, 3] to tokens [V, N, D]: 3 x 3 convolutions of stride 2, then a dense layer (arXiv 2106.14881).

    A layer norm over the channels and a ReLU follow each convolution; the source has a batch normalisation there, which
    would tie the rows of a batch together. The source takes a layer of the transformer away for it; here all stay.
    """

    def __init__(self, width: int, patch_size: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.width, self.dtype = width, dtype
        sizes = stem_sizes(width, patch_size)
        self.count = len(sizes)
        for index, (inputs, outputs) in enumerate(sizes):
            convolution = nnx.Conv(inputs, outputs, (3, 3), 2, padding=1, use_bias=False, dtype=dtype, rngs=rngs)
            setattr(self, f"convolution{index}", convolution)
            setattr(self, f"norm{index}", nnx.LayerNorm(outputs, epsilon=1e-6, rngs=rngs))
        self.out = nnx.Linear(width, width, dtype=dtype, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns the tokens of square images, row by row; the patch size divides the side."""
        x = images.astype(self.dtype)
        for index in range(self.count):
            x = getattr(self, f"convolution{index}")(x)
            x = jax.nn.relu(layer_norm(getattr(self, f"norm{index}"), x))
        return self.out(x.reshape(len(x), -1, self.width))

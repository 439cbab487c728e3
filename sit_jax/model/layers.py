"""Dense layers with the paper's initialisation."""

import math

import jax
import jax.numpy as jnp
from flax import nnx

INIT = nnx.initializers.normal(0.02)


def linear(
    inputs: int,
    outputs: int,
    rngs: nnx.Rngs,
    dtype: jnp.dtype,
    use_bias: bool = True,
    init: nnx.initializers.Initializer = INIT,
) -> nnx.Linear:
    """Makes a dense layer with zero bias and, by default, the paper's normal weights of standard deviation 0.02."""
    return nnx.Linear(inputs, outputs, use_bias=use_bias, kernel_init=init, dtype=dtype, rngs=rngs)


def patch_init(patch_size: int, channels: int) -> nnx.initializers.Initializer:
    """Returns the initializer of layers to and from pixels: uniform in +-1 / sqrt(c P^2), as PyTorch's convolutions."""
    bound = 1 / math.sqrt(channels * patch_size**2)
    return lambda key, shape, dtype=jnp.float32, **_: jax.random.uniform(key, shape, dtype, -bound, bound)

"""Dense layers on tokens as products of two matrices."""

import jax
from flax import nnx


def rows(layer: nnx.Linear, x: jax.Array) -> jax.Array:
    """Applies a dense layer to the last axis of `x` as a product of two matrices.

    On CPU, XLA would otherwise transpose a factor of the gradient, which costs 5 % of the step.
    """
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)

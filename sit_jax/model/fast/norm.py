"""Layer normalisation with its own backward pass, which stores less and reads less than the derived backward pass."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx


def layer_norm(layer: nnx.LayerNorm, x: jax.Array) -> jax.Array:
    """Applies a flax layer norm to the last axis of x [..., D] in float32; the result has the dtype of x.

    In other dtypes than float32, the flax layer itself would round scale and bias first.
    """
    assert layer.scale is not None and layer.bias is not None
    return normalize(x, layer.scale[...], layer.bias[...], layer.epsilon)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def normalize(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> jax.Array:
    """Returns (x - mean) / sqrt(variance + epsilon) * scale + bias for each row of x [..., D]; scale, bias [D]."""
    return _forward(x, scale, bias, epsilon)[0]


def _forward(x: jax.Array, scale: jax.Array, bias: jax.Array, epsilon: float) -> tuple[jax.Array, tuple]:
    wide = x.astype(jnp.float32)
    mean = wide.mean(axis=-1, keepdims=True)
    # One pass over x computes both sums. Rounding can make the difference negative.
    variance = jnp.maximum((wide * wide).mean(axis=-1, keepdims=True) - mean * mean, 0)
    inverse = jax.lax.rsqrt(variance + epsilon)
    return ((wide - mean) * inverse * scale + bias).astype(x.dtype), (x, mean, inverse, scale)


def _gradients(epsilon: float, kept: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    x, mean, inverse, scale = kept
    wide = gradient.astype(jnp.float32)
    normal = (x.astype(jnp.float32) - mean) * inverse
    product = wide * normal
    along = normal * _row_means(product, scale)
    before = (inverse * (wide * scale - _row_means(wide, scale) - along)).astype(x.dtype)
    rows = tuple(range(x.ndim - 1))
    return before, product.sum(axis=rows), wide.sum(axis=rows)


def _row_means(x: jax.Array, scale: jax.Array) -> jax.Array:
    """Returns the means of x * scale over the last axis."""
    # On CPU, a matrix-vector product is faster. On other devices, it would write all of x to memory.
    return jax.lax.platform_dependent(
        x,
        scale,
        cpu=lambda x, scale: jnp.matmul(x, scale, precision="highest")[..., None] / x.shape[-1],
        default=lambda x, scale: jnp.mean(x * scale, axis=-1, keepdims=True),
    )


normalize.defvjp(_forward, _gradients)

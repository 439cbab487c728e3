"""Softmax attention with a backward pass of its own, which keeps less and reads less than the derived one."""

import jax
import jax.numpy as jnp


def softmax_weights(q: jax.Array, k: jax.Array) -> jax.Array:
    """Returns the softmax of the scaled products of queries and keys [V, heads, T, d], float32 [V, heads, T, T]."""
    return jax.nn.softmax(_logits(q, k), axis=-1)


@jax.custom_vjp
def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Returns the means of the values, weighted by `softmax_weights`; all are [V, heads, T, d], the result too.

    The softmax is float32. It is divided by its sum after the product with the values, which is smaller.
    """
    return _attend(q, k, v)[0]


def _logits(q: jax.Array, k: jax.Array) -> jax.Array:
    return _product("vhtd,vhsd->vhts", q * q.shape[-1] ** -0.5, k)


def _attend(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
    logits = _logits(q, k)
    weights = jnp.exp(logits - logits.max(axis=-1, keepdims=True))
    scale = 1 / weights.sum(axis=-1, keepdims=True)
    weights = weights.astype(q.dtype)
    mean = (_product("vhts,vhsd->vhtd", weights, v) * scale).astype(q.dtype)
    return mean, (q, k, v, weights, scale, mean)


def _gradients(kept: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    q, k, v, weights, scale, mean = kept
    dtype, root = q.dtype, q.shape[-1] ** -0.5
    wide = gradient * scale
    gradient = wide.astype(dtype)
    dot = jnp.sum(wide * mean, axis=-1, keepdims=True)
    logits = (weights * (_product("vhtd,vhsd->vhts", gradient, v) - dot)).astype(dtype)
    return (
        _product("vhts,vhsd->vhtd", logits, k * root).astype(dtype),
        _product("vhts,vhtd->vhsd", logits, q * root).astype(dtype),
        _product("vhts,vhtd->vhsd", weights, gradient).astype(dtype),
    )


def _product(axes: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(axes, a, b, preferred_element_type=jnp.float32)


attend.defvjp(_attend, _gradients)

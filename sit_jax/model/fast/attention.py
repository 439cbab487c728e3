"""Self-attention with its own backward pass, or by cuDNN's kernel.

The backward pass here stores less and reads less than the derived backward pass.
"""

import einops.array_api as einops
import jax
import jax.numpy as jnp
from flax import nnx

from sit_jax.model.fast.dense import rows
from sit_jax.parallel.mesh import gather


def self_attention(qkv: nnx.Linear, x: jax.Array, heads: int, implementation: str) -> jax.Array:
    """Returns each token's weighted mean of the values of all tokens, [V, T, D] to [V, T, D].

    `qkv` is the dense layer [D, 3 D] to queries, keys and values. `implementation` is "xla" or "cudnn".
    """
    if implementation == "cudnn":
        means = jax.nn.dot_product_attention(*project_apart(qkv, x, heads), implementation="cudnn")
        return einops.rearrange(means, "v t h d -> v t (h d)")
    return einops.rearrange(attend(*project(qkv, x, heads)), "v h t d -> v t (h d)")


def attention_weights(qkv: nnx.Linear, x: jax.Array, heads: int) -> jax.Array:
    """Returns the attention weights of all queries over all keys, float32 [V, heads, T, T]; the last axis sums to 1."""
    q, k, _ = project(qkv, x, heads)
    return softmax_weights(q, k)


def project(qkv: nnx.Linear, x: jax.Array, heads: int) -> jax.Array:
    """Returns queries, keys and values, [3, V, heads, T, d], with d = D / heads."""
    return einops.rearrange(rows(qkv, x), "v t (n h d) -> n v h t d", n=3, h=heads)


def project_apart(qkv: nnx.Linear, x: jax.Array, heads: int) -> list[jax.Array]:
    """Returns queries, keys and values, [V, T, heads, d] each, from one product each.

    cuDNN needs each array contiguous. If one product computed all three, XLA would copy its slices.
    """
    assert qkv.bias is not None
    flat = x.reshape(-1, x.shape[-1])
    # Gather before slicing: the shards of a parameter do not end where queries, keys and values do.
    whole = (gather(parameter[...].astype(x.dtype)) for parameter in (qkv.kernel, qkv.bias))
    kernels, biases = (jnp.split(parameter, 3, axis=-1) for parameter in whole)
    products = [flat @ kernel + bias for kernel, bias in zip(kernels, biases, strict=True)]
    return [product.reshape(*x.shape[:2], heads, -1) for product in products]


def softmax_weights(q: jax.Array, k: jax.Array) -> jax.Array:
    """Returns the softmax of the scaled products of queries and keys [V, heads, T, d], float32 [V, heads, T, T]."""
    return jax.nn.softmax(_logits(q, k), axis=-1)


@jax.custom_vjp
def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Returns the means of the values, weighted by `softmax_weights`; arguments and result are [V, heads, T, d].

    The softmax is in float32. Its sum divides the product with the values, which is smaller than the weights.
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

"""GELU with a backward pass of its own, which keeps less than the derived one."""

import math

import jax
import jax.numpy as jnp


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Returns x times the distribution function of the standard normal distribution at x; keeps only x to go back."""
    return (x * normal_cdf(x.astype(jnp.float32))).astype(x.dtype)


def normal_cdf(x: jax.Array) -> jax.Array:
    """Returns the distribution function of the standard normal distribution."""
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_gradient(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # Without a barrier, XLA keeps the distribution function of the forward pass: as large an array as x again.
    wide = jax.lax.optimization_barrier(x).astype(jnp.float32)
    density = jnp.exp(-0.5 * wide**2) / math.sqrt(2 * math.pi)
    return ((gradient * (normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_gradient)

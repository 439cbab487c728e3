"""Dense products in the matrix unit of a CPU: factors rounded to bfloat16, sums in float32."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

CPUINFO = pathlib.Path("/proc/cpuinfo")


def is_here() -> bool:
    """Returns whether the processor multiplies matrices of bfloat16 in a unit of its own (AMX), as Linux tells."""
    return CPUINFO.exists() and "amx_bf16" in CPUINFO.read_text().split()


def use(model: nnx.Module) -> None:
    """Lets all dense layers of a float32 model round the factors of their products to bfloat16."""
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Linear):
            layer.dot_general = dot_general


def dot_general(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """Multiplies [..., K] by [K, N], float32; takes what `nnx.Linear` gives to `jax.lax.dot_general`."""
    return product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns [M, K] times [K, N], float32; keeps both in bfloat16 to go back."""
    return _product(x, kernel)[0]


def _product(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple]:
    kept = _round(x), _round(kernel)
    return _dot(*kept, 1, 0), kept


def _gradients(kept: tuple, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, kernel = kept
    gradient = _round(gradient)
    of_x = _dot(gradient, kernel, 1, 1)
    if len(x) % 2:
        x, gradient = (jnp.pad(value, ((0, 1), (0, 0))) for value in (x, gradient))
    # XLA takes a product to the unit only where the left factor is summed over its last axis, and computes others in
    # float32. So a factor of the kernel's gradient is transposed, the narrower one.
    if x.shape[1] <= gradient.shape[1] or gradient.shape[1] % 2:
        of_kernel = _dot(_transpose(x), gradient, 1, 0)
    else:
        of_kernel = _transpose(_dot(_transpose(gradient), x, 1, 0))
    return of_x, of_kernel


product.defvjp(_product, _gradients)


def _round(x: jax.Array) -> jax.Array:
    # The barrier keeps the rounded array for all products that read it.
    return jax.lax.optimization_barrier(x.astype(jnp.bfloat16))


def _transpose(x: jax.Array) -> jax.Array:
    # XLA takes a plain transposition back into the product, but not one of pairs of rows between barriers.
    pairs = jax.lax.optimization_barrier(x).reshape(len(x) // 2, 2, x.shape[1])
    return jax.lax.optimization_barrier(pairs.transpose(2, 0, 1).reshape(x.shape[1], len(x)))


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    axes = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)

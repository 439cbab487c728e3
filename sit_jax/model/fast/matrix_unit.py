"""Dense products in the matrix unit of a CPU: factors in bfloat16, sums in float32."""

import pathlib
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

CPUINFO = pathlib.Path("/proc/cpuinfo")


def is_here() -> bool:
    """Returns whether the CPU has a matrix unit for bfloat16 (AMX), according to /proc/cpuinfo."""
    return CPUINFO.exists() and "amx_bf16" in CPUINFO.read_text().split()


def use(model: nnx.Module) -> None:
    """Makes all dense layers of a float32 model round the factors of their products to bfloat16."""
    for _, layer in nnx.iter_modules(model):
        if isinstance(layer, nnx.Linear):
            layer.dot_general = dot_general


def dot_general(x: jax.Array, kernel: jax.Array, *_: Any, **__: Any) -> jax.Array:
    """Multiplies [..., inputs] by [inputs, outputs] in float32; replaces `jax.lax.dot_general` in `nnx.Linear`."""
    return product(x.reshape(-1, x.shape[-1]), kernel).reshape(*x.shape[:-1], -1)


@jax.custom_vjp
def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Returns [n, inputs] times [inputs, outputs] in float32; stores both in bfloat16 for the backward pass."""
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
    # XLA uses the unit only if the sum runs over the last axis of the left factor; it computes other products in
    # float32. So the gradient of the kernel transposes its narrower factor.
    if x.shape[1] <= gradient.shape[1] or gradient.shape[1] % 2:
        of_kernel = _dot(_transpose(x), gradient, 1, 0)
    else:
        of_kernel = _transpose(_dot(_transpose(gradient), x, 1, 0))
    return of_x, of_kernel


product.defvjp(_product, _gradients)


def _round(x: jax.Array) -> jax.Array:
    # The barrier makes all products read the same rounded array.
    return jax.lax.optimization_barrier(x.astype(jnp.bfloat16))


def _transpose(x: jax.Array) -> jax.Array:
    # XLA would merge a plain transposition into the product. It does not merge a transposition of row pairs between
    # barriers.
    pairs = jax.lax.optimization_barrier(x).reshape(len(x) // 2, 2, x.shape[1])
    return jax.lax.optimization_barrier(pairs.transpose(2, 0, 1).reshape(x.shape[1], len(x)))


def _dot(a: jax.Array, b: jax.Array, axis_a: int, axis_b: int) -> jax.Array:
    axes = (((axis_a,), (axis_b,)), ((), ()))
    return jax.lax.dot_general(a, b, axes, preferred_element_type=jnp.float32)

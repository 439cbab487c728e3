"""Gradient accumulation with losses of the whole batch: embed all chunks, then backpropagate chunk by chunk."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from sit_jax.parallel.mesh import pin_batch, pin_state

Tree = Any


def split(x: jax.Array, chunks: int) -> jax.Array:
    """Splits a batch [B, ...] into chunks [chunks, B / chunks, ...]; each device splits its own rows, none are moved.

    Chunk c holds the c-th part of the rows of every device, so that all devices work on every chunk.
    """
    parts = x.reshape(_devices(), chunks, -1, *x.shape[1:]).swapaxes(0, 1)
    return pin_batch(parts.reshape(chunks, -1, *x.shape[1:]), axis=1)


def join(x: jax.Array) -> jax.Array:
    """Joins the chunks of `split`, or values computed from their rows, in the order of the batch."""
    parts = x.reshape(len(x), _devices(), -1, *x.shape[2:]).swapaxes(0, 1)
    return pin_batch(parts.reshape(-1, *x.shape[2:]))


def _devices() -> int:
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.size


def value_and_grad(
    forward: Callable[[Tree, Tree], Tree],
    combine: Callable[[Tree, Tree], tuple[jax.Array, Tree]],
    params: Tree,
    chunks: Tree,
) -> tuple[tuple[jax.Array, Tree], Tree]:
    """Returns ((loss, aux), gradient by `params`) of a batch split into stacked chunks; exact for any number of chunks.

    `forward(params, chunk)` returns what the loss needs from a chunk. `combine(outputs, params)` returns (loss, aux)
    from the stacked outputs of all chunks; it may mix rows of different chunks, as NT-Xent does. The first pass keeps
    only the outputs. The loss gives their cotangents. The second pass recomputes each chunk and backpropagates its
    cotangent to the parameters. The memory use equals one chunk; the extra cost is one forward pass.
    """
    if len(jax.tree.leaves(chunks)[0]) == 1:
        only = jax.tree.map(lambda x: x[0], chunks)
        return jax.value_and_grad(lambda p: combine(stacked(forward(p, only)), p), has_aux=True)(params)
    outputs = jax.lax.map(lambda chunk: forward(params, chunk), chunks)
    value, (cotangents, direct) = jax.value_and_grad(combine, (0, 1), has_aux=True)(outputs, params)

    def add(gradients: Tree, inputs: tuple[Tree, Tree]) -> tuple[Tree, None]:
        chunk, cotangent = inputs
        (gradient,) = jax.vjp(lambda p: forward(p, chunk), params)[1](cotangent)
        return pin_state(jax.tree.map(jnp.add, gradients, gradient)), None

    return value, jax.lax.scan(add, pin_state(direct), (chunks, cotangents))[0]


def stacked(tree: Tree) -> Tree:
    """Adds a leading axis for the only chunk to each array."""
    return jax.tree.map(lambda x: x[None], tree)

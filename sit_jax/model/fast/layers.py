"""Runs stacked layers: in a loop or unrolled, with or without rematerialisation, whole or in two halves of the rows."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from sit_jax.model.fast.compute import Compute
from sit_jax.parallel.mesh import keep_row_major, pin_batch

Layer = TypeVar("Layer", bound=nnx.Module)


def run_layers(
    blocks: nnx.Module, x: jax.Array, keys: jax.Array | None, rates: jax.Array, drop: bool, compute: Compute
) -> jax.Array:
    """Runs the first layers of the stack `blocks`, one per drop-path rate in `rates`, [V, T, D] to [V, T, D].

    `keys` [V] holds one key per row in training and is None otherwise. `drop` turns stochastic depth on.

    If `compute.halves` is set, training on a mesh of one device runs an even number of rows in two independent halves.
    One half then uses the CPU cores that the other half leaves idle. Several devices keep all cores busy without
    halves, and halves would make them sum the gradients twice.
    """
    if keys is None or not compute.halves or len(x) % 2 or jax.sharding.get_abstract_mesh().size != 1:
        return _run(blocks, x, keys if drop else None, rates, compute)
    half = len(x) // 2
    parts = (x[:half], keys[:half]), (x[half:], keys[half:])
    return jnp.concatenate([_run(blocks, rows, keys if drop else None, rates, compute) for rows, keys in parts])


def _run(blocks: nnx.Module, x: jax.Array, keys: jax.Array | None, rates: jax.Array, compute: Compute) -> jax.Array:
    graphdef, stacked = nnx.split(blocks, nnx.Param)

    def layer(x: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
        params, rate, index = inputs
        layer_keys = None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, index)
        x = keep_row_major(pin_batch(x)) if compute.unroll else pin_batch(x)
        return nnx.merge(graphdef, params)(x, rate, layer_keys), None

    # A loop keeps the recomputation separate from the forward pass. Without a loop, XLA could merge the two.
    layer = jax.checkpoint(layer, prevent_cse=compute.unroll) if compute.remat else layer
    count = len(rates)
    layers = (jax.tree.map(lambda leaf: leaf[:count], stacked), rates, jnp.arange(count))
    return jax.lax.scan(layer, x, layers, unroll=compute.unroll)[0]


def last_layer(blocks: Layer) -> Layer:
    """Returns the last layer of a stack."""
    graphdef, stacked = nnx.split(blocks, nnx.Param)
    return nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[-1], stacked))

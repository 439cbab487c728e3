"""Random keys: everything random is a pure function of (seed, step, name of the stream, global row)."""

import zlib

import jax
import jax.numpy as jnp


def named_key(key: jax.Array, name: str) -> jax.Array:
    """Returns the key of the stream `name`; adding a stream never shifts the others."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def row_keys(key: jax.Array, rows: int) -> jax.Array:
    """Returns one key a row, [rows]; the key of a row depends on its global index alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))

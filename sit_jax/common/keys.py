"""Random keys: everything random is a pure function of (seed, step, name of the stream, global row)."""

import zlib

import jax
import jax.numpy as jnp


def named_key(key: jax.Array, name: str) -> jax.Array:
    """Returns the key of the stream `name`; adding a stream never shifts the others."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def row_keys(key: jax.Array, rows: int | jax.Array) -> jax.Array:
    """Returns one key a row, for the global indices `rows` [n] or for 0 to `rows` - 1; it depends on them alone."""
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows) if isinstance(rows, int) else rows)


def view_rows(images: int | jax.Array, views: int = 2) -> jax.Array:
    """Returns the global indices of the views of images, [views * n]: image i has views * i and those after it."""
    images = jnp.arange(images) if isinstance(images, int) else images
    return (views * images[:, None] + jnp.arange(views)).reshape(-1)

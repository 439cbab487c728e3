"""Random keys: every random number is a pure function of (seed, step, stream name, global row)."""

import zlib

import jax
import jax.numpy as jnp


def named_key(key: jax.Array, name: str) -> jax.Array:
    """Returns the key of the stream `name`; a new stream never changes the existing streams."""
    return jax.random.fold_in(key, zlib.crc32(name.encode()))


def row_keys(key: jax.Array, rows: int | jax.Array) -> jax.Array:
    """Returns one key per row, [n]: a function of `key` and the global index only.

    `rows` are the global indices [n], or their number for the indices 0 to `rows` - 1.
    """
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows) if isinstance(rows, int) else rows)


def view_rows(images: int | jax.Array, views: int = 2) -> jax.Array:
    """Returns the global indices of the views of n images, [views * n]; image i has views * i to views * (i + 1) - 1.

    `images` are the global indices of the images [n], or their number for the indices 0 to `images` - 1.
    """
    images = jnp.arange(images) if isinstance(images, int) else images
    return (views * images[:, None] + jnp.arange(views)).reshape(-1)

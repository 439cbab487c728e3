"""The rotation task: every view is rotated by 0, 90, 180 or 270 degrees."""

import jax
import jax.numpy as jnp

from sit_jax.common.keys import row_keys


def rotate(images: jax.Array, quarters: jax.Array) -> jax.Array:
    """Rotates every image counter-clockwise by its number of quarter turns, as `np.rot90` does.

    `images` is [V, s, s, c]; `quarters` is [V] int32 in 0..3. Returns the same shape and dtype; pixels are only moved.
    """
    size = images.shape[1]
    row, column = jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij")
    last = size - 1
    sources = [(row, column), (column, last - row), (last - row, last - column), (last - column, row)]
    source = jnp.stack([(y * size + x).ravel() for y, x in sources])[quarters]
    # A gather reads each pixel once; a choice among rotated copies recomputes their input up to eight times.
    pixels = images.reshape(len(images), size * size, -1)
    return jnp.take_along_axis(pixels, source[..., None], axis=1, mode="promise_in_bounds").reshape(images.shape)


def random_rotation(
    key: jax.Array, views: jax.Array, rows: jax.Array | None = None, turned: float = 0.75
) -> tuple[jax.Array, jax.Array]:
    """Rotates every view at random; returns the rotated views [V, s, s, c] and the classes [V] int32 in 0..3.

    With probability `turned`, a view is rotated by 90, 180 or 270 degrees, equally likely; at 0.75, all four classes
    are equally likely. `rows` [V] are the global indices of the views if they are part of a batch.
    """
    draw = jax.vmap(lambda key: jax.random.uniform(key, ()))
    share = draw(row_keys(key, len(views) if rows is None else rows))
    angle = 1 + jnp.floor(3 * share / max(turned, 1e-6))
    quarters = jnp.where(share < turned, jnp.minimum(angle, 3), 0).astype(jnp.int32)  # rounding may reach 4
    return rotate(views, quarters), quarters

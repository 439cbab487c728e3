"""Colour operations on one image [h, w, 3] with values in [0, 1], used by the views and by the corruptions."""

import jax
import jax.numpy as jnp
import ml_collections

LUMA = (0.299, 0.587, 0.114)
# RGB <-> YIQ: in YIQ a turn of the hue is a rotation of the last two axes.
RGB_TO_YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def grayscale(image: jax.Array) -> jax.Array:
    """Removes the colour of [..., 3]; the three channels of the result are equal (ITU-R 601 luma)."""
    luma = jnp.sum(image * jnp.array(LUMA, image.dtype), axis=-1, keepdims=True)
    return jnp.broadcast_to(luma, image.shape)


def rotate_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Rotates the hue of [h, w, 3] by `turn` (1 is a full circle), keeping the luma."""
    to_yiq = jnp.array(RGB_TO_YIQ, image.dtype)
    cos, sin = jnp.cos(2 * jnp.pi * turn), jnp.sin(2 * jnp.pi * turn)
    one, zero = jnp.ones_like(cos), jnp.zeros_like(cos)
    rotation = jnp.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos]).reshape(3, 3)
    return image @ (jnp.linalg.inv(to_yiq) @ rotation @ to_yiq).T


def jitter(key: jax.Array, image: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of one image, in this order.

    `image` is [h, w, 3] float32 in [0, 1], and so is the result. A strength s in `config.brightness`, `.contrast` or
    `.saturation` draws a factor from U(max(0, 1 - s), 1 + s); `config.hue` draws a turn from U(-s, s), s <= 0.5.
    """
    keys = jax.random.split(key, 4)

    def factor(key: jax.Array, strength: float) -> jax.Array:
        return jax.random.uniform(key, minval=max(0.0, 1 - strength), maxval=1 + strength)

    def blend(image: jax.Array, other: jax.Array | float, weight: jax.Array) -> jax.Array:
        return jnp.clip(other + weight * (image - other), 0.0, 1.0)

    if config.brightness:
        image = blend(image, 0.0, factor(keys[0], config.brightness))
    if config.contrast:
        image = blend(image, grayscale(image).mean(), factor(keys[1], config.contrast))
    if config.saturation:
        image = blend(image, grayscale(image), factor(keys[2], config.saturation))
    if config.hue:
        turn = jax.random.uniform(keys[3], minval=-config.hue, maxval=config.hue)
        image = jnp.clip(rotate_hue(image, turn), 0.0, 1.0)
    return image

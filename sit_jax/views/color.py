"""Colour operations on one image [H, W, c] with values in [0, 1], for views and corruptions.

Three channels are red, green and blue. Images of one, two, four or more channels have no colour here: operations on
colour leave them as they are, and brightness and contrast act on each channel.
"""

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

LUMA = (0.299, 0.587, 0.114)
# RGB <-> YIQ: in YIQ, a hue shift is a rotation of the last two axes.
RGB_TO_YIQ = np.array(((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112)))
YIQ_TO_RGB = np.linalg.inv(RGB_TO_YIQ)


def has_colour(image: jax.Array) -> bool:
    """Tells whether [..., c] has the channels red, green and blue: c = 3."""
    return image.shape[-1] == 3


def luma(image: jax.Array) -> jax.Array:
    """Returns the brightness [..., 1] of pixels [..., 3] (ITU-R 601)."""
    # Written out, because a reduction or a matrix product takes 30 times as long on CPU.
    return LUMA[0] * image[..., 0:1] + LUMA[1] * image[..., 1:2] + LUMA[2] * image[..., 2:3]


def grayscale(image: jax.Array) -> jax.Array:
    """Removes the colour of [..., c]: three channels become the luma (ITU-R 601); other images stay as they are."""
    return jnp.broadcast_to(luma(image), image.shape) if has_colour(image) else image


def solarize(image: jax.Array) -> jax.Array:
    """Inverts the values of [..., c] from 0.5 up (BYOL, arXiv 2006.07733, appendix B)."""
    return jnp.where(image < 0.5, image, 1.0 - image)


def rotate_hue(image: jax.Array, turn: jax.Array) -> jax.Array:
    """Rotates the hue of [H, W, 3] by `turn` (1 is a full circle) and keeps the luma."""
    cos, sin = jnp.cos(2 * jnp.pi * turn), jnp.sin(2 * jnp.pi * turn)
    one, zero = jnp.ones_like(cos), jnp.zeros_like(cos)
    rotation = jnp.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos]).reshape(3, 3)
    matrix = jnp.array(YIQ_TO_RGB, image.dtype) @ rotation @ jnp.array(RGB_TO_YIQ, image.dtype)
    return matrix[:, 0] * image[..., 0:1] + matrix[:, 1] * image[..., 1:2] + matrix[:, 2] * image[..., 2:3]


def jitter(key: jax.Array, image: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Changes brightness, contrast, saturation and hue of one image, in this order.

    `image` and the result are [H, W, c] float32 in [0, 1]. A strength x in `config.brightness`, `.contrast` or
    `.saturation` draws a factor from U(max(0, 1 - x), 1 + x); x in `config.hue` draws a turn from U(-x, x), x <= 0.5.
    Saturation and hue change only images of three channels.
    """
    keys = jax.random.split(key, 4)

    def factor(key: jax.Array, strength: float) -> jax.Array:
        return jax.random.uniform(key, minval=max(0.0, 1 - strength), maxval=1 + strength)

    def blend(image: jax.Array, other: jax.Array | float, weight: jax.Array) -> jax.Array:
        return jnp.clip(other + weight * (image - other), 0.0, 1.0)

    if config.brightness:
        image = blend(image, 0.0, factor(keys[0], config.brightness))
    if config.contrast:
        mean = image.mean(axis=0).mean(axis=0)
        # The luma of the mean equals the mean of the luma, but is faster. Bands of a sensor have their own levels.
        image = blend(image, luma(mean) if has_colour(image) else mean, factor(keys[1], config.contrast))
    if config.saturation and has_colour(image):
        image = blend(image, luma(image), factor(keys[2], config.saturation))
    if config.hue and has_colour(image):
        turn = jax.random.uniform(keys[3], minval=-config.hue, maxval=config.hue)
        image = jnp.clip(rotate_hue(image, turn), 0.0, 1.0)
    return image

"""RandAugment on the device: one random operation of 15 per image and layer (arXiv 1909.13719).

Operations, magnitudes and probabilities follow `rand-m9-mstd0.5-inc1`, DeiT's setting for fine-tuning. The strength
grows with the magnitude, 0 to 10. Operations work on [s, s, c] float32 in [0, 1].
"""

import math

import jax
import jax.numpy as jnp
import ml_collections
from jax.scipy.ndimage import map_coordinates

from sit_jax.views.color import grayscale, has_colour

FILL = 0.5  # value of pixels that a geometric operation uncovers
LEVELS = 255.0


def randaugment(keys: jax.Array, images: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Augments each image by `config.layers` operations, each with probability `config.probability`.

    `keys` is [B]; `images` and the result are [B, s, s, c] float32 in [0, 1]. The magnitude of each operation is drawn
    from N(magnitude, magnitude_std) and clipped to 0..10.
    """
    return jax.vmap(lambda key, image: augment_one(key, image, config))(keys, images)


def augment_one(key: jax.Array, image: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Augments one image [s, s, c]."""
    for layer in range(config.layers):
        op_key, use_key, level_key, sign_key = jax.random.split(jax.random.fold_in(key, layer), 4)
        op = jax.random.randint(op_key, (), 0, len(GEOMETRIC) + len(COLOUR))
        magnitude = config.magnitude + config.magnitude_std * jax.random.normal(level_key)
        sign = jnp.where(jax.random.bernoulli(sign_key), 1.0, -1.0)
        changed = apply(op, image, jnp.clip(magnitude, 0.0, 10.0) / 10, sign)
        image = jnp.where(jax.random.bernoulli(use_key, config.probability), changed, image)
    return image


def apply(op: jax.Array, image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Applies operation `op` of (*GEOMETRIC, *COLOUR); `level` [] is in [0, 1], `sign` [] is 1 or -1."""
    # All geometric operations share one resampling, which dominates their cost.
    matrices = jnp.stack([operation(level * sign) for operation in GEOMETRIC])
    warped = affine(image, matrices[jnp.minimum(op, len(GEOMETRIC) - 1)])
    colour = jax.lax.switch(jnp.maximum(op - len(GEOMETRIC), 0), COLOUR, image, level, sign)
    return jnp.where(op < len(GEOMETRIC), warped, colour)


def matrix(xx: float | jax.Array, xy: float | jax.Array, x: float | jax.Array, *row: float | jax.Array) -> jax.Array:
    """Returns [2, 3]: maps an output point (x, y, 1) to its source, in image sides relative to the centre."""
    return jnp.array([[xx, xy, x], row])


def rotate(strength: jax.Array) -> jax.Array:
    """Rotates by up to 30 degrees; a positive strength in [-1, 1] is counter-clockwise."""
    angle = strength * math.pi / 6
    return matrix(jnp.cos(angle), -jnp.sin(angle), 0.0, jnp.sin(angle), jnp.cos(angle), 0.0)


def shear_x(strength: jax.Array) -> jax.Array:
    """Shears by up to 0.3 along x, about the upper edge."""
    return matrix(1.0, 0.3 * strength, 0.15 * strength, 0.0, 1.0, 0.0)


def shear_y(strength: jax.Array) -> jax.Array:
    """Shears by up to 0.3 along y, about the left edge."""
    return matrix(1.0, 0.0, 0.0, 0.3 * strength, 1.0, 0.15 * strength)


def translate_x(strength: jax.Array) -> jax.Array:
    """Shifts by up to 0.45 of the side along x."""
    return matrix(1.0, 0.0, 0.45 * strength, 0.0, 1.0, 0.0)


def translate_y(strength: jax.Array) -> jax.Array:
    """Shifts by up to 0.45 of the side along y."""
    return matrix(1.0, 0.0, 0.0, 0.0, 1.0, 0.45 * strength)


def affine(image: jax.Array, transform: jax.Array) -> jax.Array:
    """Resamples [s, s, c] bilinearly; pixels from outside the image get FILL."""
    side = image.shape[0]
    position = (jnp.arange(side) + 0.5) / side - 0.5
    y, x = jnp.meshgrid(position, position, indexing="ij")
    x, y = jnp.einsum("rc,chw->rhw", transform, jnp.stack([x, y, jnp.ones_like(x)]), precision="highest")
    inside = (jnp.abs(x) < 0.5) & (jnp.abs(y) < 0.5)
    pixels = [(y + 0.5) * side - 0.5, (x + 0.5) * side - 0.5]
    resampled = jnp.stack(
        [map_coordinates(image[..., c], pixels, order=1, mode="nearest") for c in range(image.shape[-1])], axis=-1
    )
    return jnp.where(inside[..., None], resampled, FILL)


def autocontrast(image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Stretches each channel to the full range; a constant channel is unchanged."""
    del level, sign
    # Compare rounded levels, as Pillow does: the crop leaves rounding noise in constant images, which is no contrast.
    levels = jnp.round(image * LEVELS)
    low, high = levels.min(axis=(0, 1)), levels.max(axis=(0, 1))
    stretched = jnp.clip((image * LEVELS - low) / jnp.maximum(high - low, 1.0), 0.0, 1.0)
    return jnp.where(high > low, stretched, image)


def equalize(image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Equalises the histogram of each channel on 256 levels."""
    del level, sign

    def channel(levels: jax.Array) -> jax.Array:
        counts = jnp.bincount(levels.ravel(), length=256)
        step = (levels.size - counts[levels.max()]) // 255
        before = jnp.cumsum(counts) - counts
        table = jnp.minimum((step // 2 + before) // jnp.maximum(step, 1), 255)
        return jnp.where(step > 0, table[levels], levels)

    levels = jnp.round(image * LEVELS).astype(jnp.int32)
    return jax.vmap(channel, in_axes=-1, out_axes=-1)(levels) / LEVELS


def invert(image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Inverts all values."""
    del level, sign
    return 1.0 - image


def posterize(image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Keeps the highest 4 (level 0) to 0 (level 1) bits of each value."""
    del sign
    shift = 4 + jnp.floor(level * 4).astype(jnp.int32)
    return ((jnp.round(image * LEVELS).astype(jnp.int32) >> shift) << shift) / LEVELS


def solarize(image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Inverts values from a threshold up; it falls from 256 (level 0) to 0 (level 1)."""
    del sign
    threshold = 256 - jnp.floor(level * 256)
    return jnp.where(jnp.round(image * LEVELS) >= threshold, 1.0 - image, image)


def solarize_add(image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Adds up to 110 levels to values below 128."""
    del sign
    brighter = jnp.minimum(image + jnp.floor(level * 110) / LEVELS, 1.0)
    return jnp.where(jnp.round(image * LEVELS) < 128, brighter, image)


def blend(degenerate: jax.Array | float, image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Moves an image towards a degenerate image or away from it, by up to 0.9 of their difference."""
    factor = jnp.maximum(1.0 + sign * level * 0.9, 0.1)
    return jnp.clip(degenerate + factor * (image - degenerate), 0.0, 1.0)


def color(image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Changes the saturation; without three channels, changes nothing."""
    return blend(grayscale(image), image, level, sign)


def contrast(image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Changes the contrast relative to the mean grey; without three channels, to the mean of each channel."""
    mean = grayscale(image).mean() if has_colour(image) else image.mean(axis=(0, 1))
    return blend(mean, image, level, sign)


def brightness(image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Changes the brightness."""
    return blend(0.0, image, level, sign)


def sharpness(image: jax.Array, level: jax.Array, sign: jax.Array) -> jax.Array:
    """Sharpens or smooths; the outermost pixels are unchanged."""
    rows = [image[1 + dy : image.shape[0] - 1 + dy] for dy in (-1, 0, 1)]
    around = sum(row[:, 1 + dx : image.shape[1] - 1 + dx] for row in rows for dx in (-1, 0, 1))
    inner = image[1:-1, 1:-1]
    return blend(image.at[1:-1, 1:-1].set((around + 4.0 * inner) / 13), image, level, sign)


GEOMETRIC = (rotate, shear_x, shear_y, translate_x, translate_y)
COLOUR = (
    *(autocontrast, equalize, invert, posterize, solarize, solarize_add),
    *(color, contrast, brightness, sharpness),
)

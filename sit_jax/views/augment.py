"""Augmented views of images: random resized crop, flip, colour jitter, normalisation (SiT, section 4)."""

import math

import jax
import jax.numpy as jnp
import ml_collections

from sit_jax.common.keys import named_key, row_keys
from sit_jax.views.blur import gaussian_blur
from sit_jax.views.color import grayscale, jitter, solarize

CROP_DRAWS = 10
BLUR_SIGMA, BLUR_WIDTH = (0.1, 2.0), 0.1  # pixels; share of the view's side (arXiv 2006.07733, appendix B)


def normalise(images: jax.Array) -> jax.Array:
    """Maps values in [0, 1] to [-1, 1], the range of the model's input and reconstruction."""
    return images * 2.0 - 1.0


def to_unit(images: jax.Array) -> jax.Array:
    """Maps stored values to float32 in [0, 1]: uint8 and uint16 are divided by the largest value of their type."""
    return images.astype(jnp.float32) / float(jnp.iinfo(images.dtype).max)


def whole_images(images: jax.Array, image_size: int) -> jax.Array:
    """Resizes whole images for evaluation: stored [n, H, W, c] to [n, s, s, c] float32 in [-1, 1], s = `image_size`."""
    shape = (images.shape[0], image_size, image_size, images.shape[-1])
    return normalise(jnp.clip(jax.image.resize(to_unit(images), shape, "cubic", antialias=True), 0.0, 1.0))


def random_resized_crop(key: jax.Array, image: jax.Array, image_size: int, area: tuple, ratio: tuple) -> jax.Array:
    """Crops a random box (see `crop_sides`) of one image and resizes it (bicubic, antialiased).

    `image` is [H, W, c] float32 in [0, 1]. Returns [s, s, c] in [0, 1], with s = `image_size`.
    """
    box_key, y_key, x_key = jax.random.split(key, 3)
    size = jnp.array(image.shape[:2], jnp.float32)
    sides = crop_sides(box_key, image.shape[1] / image.shape[0], area, ratio)
    start = jnp.stack([jax.random.uniform(y_key), jax.random.uniform(x_key)]) * (1.0 - sides) * size
    scale = image_size / (sides * size)
    shape = (image_size, image_size, image.shape[-1])
    # Full float32 precision is several times slower on a GPU; the gain would be below the rounding of uint8 images.
    crop = jax.image.scale_and_translate(
        image, shape, (0, 1), scale, -start * scale, "cubic", antialias=True, precision=jax.lax.Precision.HIGH
    )
    return jnp.clip(crop, 0.0, 1.0)


def crop_sides(key: jax.Array, image_ratio: float, area: tuple, ratio: tuple) -> jax.Array:
    """Draws height and width of a crop, [2], as shares of the image's height and width.

    `image_ratio` is the image's width / height. The crop's area is a share of the image from U(*area); its
    width / height in pixels is log-uniform in `ratio`. As in torchvision's RandomResizedCrop, up to ten boxes are
    drawn and the first that fits is used; if none fits, the largest box with the nearest ratio.
    """
    area_key, ratio_key = jax.random.split(key)
    share = jax.random.uniform(area_key, (CROP_DRAWS,), minval=area[0], maxval=area[1])
    low, high = math.log(ratio[0]), math.log(ratio[1])
    relative = jnp.exp(jax.random.uniform(ratio_key, (CROP_DRAWS,), minval=low, maxval=high)) / image_ratio
    sides = jnp.sqrt(jnp.stack([share / relative, share * relative], axis=1))
    fits = jnp.all(sides <= 1, axis=1)
    nearest = min(max(image_ratio, ratio[0]), ratio[1]) / image_ratio
    largest = jnp.array([min(1.0, 1 / nearest), min(1.0, nearest)])
    return jnp.where(jnp.any(fits), sides[jnp.argmax(fits)], largest)


def one_view(key: jax.Array, image: jax.Array, image_size: int, config: ml_collections.ConfigDict) -> jax.Array:
    """Makes one view of one image: stored [H, W, c] to [s, s, c] float32 in [-1, 1], with s = `image_size`."""
    crop_key, flip_key, jitter_key, gray_key, solarize_key = jax.random.split(key, 5)
    view = random_resized_crop(crop_key, to_unit(image), image_size, config.area, config.ratio)
    view = jnp.where(jax.random.bernoulli(flip_key, config.flip), view[:, ::-1], view)
    if config.jitter == 1:
        view = jitter(jitter_key, view, config)
    elif config.jitter:
        use_key, jitter_key = jax.random.split(jitter_key)
        view = jnp.where(jax.random.bernoulli(use_key, config.jitter), jitter(jitter_key, view, config), view)
    if config.grayscale:
        view = jnp.where(jax.random.bernoulli(gray_key, config.grayscale), grayscale(view), view)
    if config.blur:
        use_key, blur_key = jax.random.split(named_key(key, "blur"))
        view = jnp.where(jax.random.bernoulli(use_key, config.blur), blur_view(blur_key, view), view)
    if config.solarize:
        view = jnp.where(jax.random.bernoulli(solarize_key, config.solarize), solarize(view), view)
    return normalise(view)


def blur_view(key: jax.Array, view: jax.Array) -> jax.Array:
    """Blurs a view [s, s, c] by a Gaussian of random sigma; the kernel is a tenth of the side wide."""
    width = 2 * max(1, round(BLUR_WIDTH * view.shape[0] / 2)) + 1
    return gaussian_blur(key[None], view[None], (width, width), BLUR_SIGMA)[0]


def augment(
    key: jax.Array,
    images: jax.Array,
    image_size: int,
    config: ml_collections.ConfigDict,
    rows: jax.Array | None = None,
) -> jax.Array:
    """Makes m = `config.count` independent views of every image.

    `images` is [B, H, W, c] as stored. Returns [V, s, s, c] float32 in [-1, 1], with V = m * B and s = `image_size`.
    The views of an image are adjacent, so that a shard of the batch holds all views of its images. `config` is the
    section `views`. `rows` [V] are the global indices of the views if they are part of a batch.
    """
    total = config.count * len(images)
    keys = row_keys(key, total if rows is None else rows).reshape(len(images), config.count)
    views_of_one = jax.vmap(lambda key, image: one_view(key, image, image_size, config), (0, None))
    return jax.vmap(views_of_one)(keys, images).reshape(total, image_size, image_size, images.shape[-1])

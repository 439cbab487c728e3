"""Augmented views of every image: random resized crop, flip, colour jitter, normalise (SiT, section 4)."""

import math

import jax
import jax.numpy as jnp
import ml_collections

from sit_jax.common.keys import named_key, row_keys
from sit_jax.views.blur import gaussian_blur
from sit_jax.views.color import grayscale, jitter, solarize

CROP_DRAWS = 10
BLUR_SIGMA, BLUR_WIDTH = (0.1, 2.0), 0.1  # in pixels; as a share of the side of the view (arXiv 2006.07733, appendix B)


def normalise(images: jax.Array) -> jax.Array:
    """Maps values in [0, 1] to [-1, 1], the range that the model sees and rebuilds."""
    return images * 2.0 - 1.0


def whole_images(images: jax.Array, image_size: int) -> jax.Array:
    """Resizes whole images for evaluation: [B, H, W, 3] uint8 to [B, image_size, image_size, 3] float32 in [-1, 1]."""
    images = images.astype(jnp.float32) / 255.0
    shape = (images.shape[0], image_size, image_size, 3)
    return normalise(jnp.clip(jax.image.resize(images, shape, "cubic", antialias=True), 0.0, 1.0))


def random_resized_crop(key: jax.Array, image: jax.Array, image_size: int, area: tuple, ratio: tuple) -> jax.Array:
    """Crops a random box of one image and resizes it, bicubic and antialiased.

    `image` is [H, W, 3] float32 in [0, 1]; the result is [image_size, image_size, 3] in [0, 1]; see `crop_sides`.
    """
    box_key, y_key, x_key = jax.random.split(key, 3)
    size = jnp.array(image.shape[:2], jnp.float32)
    sides = crop_sides(box_key, image.shape[1] / image.shape[0], area, ratio)
    start = jnp.stack([jax.random.uniform(y_key), jax.random.uniform(x_key)]) * (1.0 - sides) * size
    scale = image_size / (sides * size)
    shape = (image_size, image_size, 3)
    # The full precision of float32 would cost a GPU several times as much, to round less than a uint8 image does.
    crop = jax.image.scale_and_translate(
        image, shape, (0, 1), scale, -start * scale, "cubic", antialias=True, precision=jax.lax.Precision.HIGH
    )
    return jnp.clip(crop, 0.0, 1.0)


def crop_sides(key: jax.Array, image_ratio: float, area: tuple, ratio: tuple) -> jax.Array:
    """Draws the height and the width of a crop, as shares of those of an image whose width / height is `image_ratio`.

    The box covers a share of the image from U(*area); its width / height, in pixels, is log-uniform in `ratio`. A box
    that does not fit is drawn again, ten times in all, as RandomResizedCrop of torchvision has it; then the largest
    box of the nearest ratio is taken.
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
    """Makes one view of one image: [H, W, 3] uint8 to [image_size, image_size, 3] float32 in [-1, 1]."""
    crop_key, flip_key, jitter_key, gray_key, solarize_key = jax.random.split(key, 5)
    view = image.astype(jnp.float32) / 255.0
    view = random_resized_crop(crop_key, view, image_size, config.area, config.ratio)
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
    """Blurs a view [s, s, 3] by a Gaussian of random width, whose kernel covers a tenth of the side."""
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

    `images` is [B, H, W, 3] uint8. Returns [m * B, image_size, image_size, 3] float32 in [-1, 1], interleaved: the
    views of image i are next to each other, so that a shard of the batch keeps all views of its images. `config` is the
    section `views`. `rows` [m * B] are the global indices of the views where they are a part of a batch.
    """
    total = config.count * len(images)
    keys = row_keys(key, total if rows is None else rows).reshape(len(images), config.count)
    views_of_one = jax.vmap(lambda key, image: one_view(key, image, image_size, config), (0, None))
    return jax.vmap(views_of_one)(keys, images).reshape(total, image_size, image_size, 3)

"""Two augmented views of every image: random resized crop, flip, colour jitter, normalise (SiT, section 4)."""

import jax
import jax.numpy as jnp
import ml_collections

from sit_jax.keys import row_keys
from sit_jax.views.color import grayscale, jitter, solarize


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

    `image` is [H, W, 3] float32 in [0, 1]; the result is [image_size, image_size, 3] in [0, 1]. The box covers a share
    of the image from U(*area); its width / height is log-uniform in `ratio`; a side longer than the image is cut.
    """
    area_key, ratio_key, y_key, x_key = jax.random.split(key, 4)
    share = jax.random.uniform(area_key, minval=area[0], maxval=area[1])
    aspect = jnp.exp(jax.random.uniform(ratio_key, minval=jnp.log(ratio[0]), maxval=jnp.log(ratio[1])))
    sides = jnp.minimum(jnp.sqrt(jnp.stack([share / aspect, share * aspect])), 1.0)
    size = jnp.array(image.shape[:2], jnp.float32)
    start = jnp.stack([jax.random.uniform(y_key), jax.random.uniform(x_key)]) * (1.0 - sides) * size
    scale = image_size / (sides * size)
    shape = (image_size, image_size, 3)
    # The full precision of float32 would cost a GPU several times as much, to round less than a uint8 image does.
    crop = jax.image.scale_and_translate(
        image, shape, (0, 1), scale, -start * scale, "cubic", antialias=True, precision=jax.lax.Precision.HIGH
    )
    return jnp.clip(crop, 0.0, 1.0)


def one_view(key: jax.Array, image: jax.Array, image_size: int, config: ml_collections.ConfigDict) -> jax.Array:
    """Makes one view of one image: [H, W, 3] uint8 to [image_size, image_size, 3] float32 in [-1, 1]."""
    crop_key, flip_key, jitter_key, gray_key, solarize_key = jax.random.split(key, 5)
    view = image.astype(jnp.float32) / 255.0
    view = random_resized_crop(crop_key, view, image_size, config.area, config.ratio)
    view = jnp.where(jax.random.bernoulli(flip_key, config.flip), view[:, ::-1], view)
    view = jitter(jitter_key, view, config)
    if config.grayscale:
        view = jnp.where(jax.random.bernoulli(gray_key, config.grayscale), grayscale(view), view)
    if config.solarize:
        view = jnp.where(jax.random.bernoulli(solarize_key, config.solarize), solarize(view), view)
    return normalise(view)


def augment(
    key: jax.Array,
    images: jax.Array,
    image_size: int,
    config: ml_collections.ConfigDict,
    rows: jax.Array | None = None,
) -> jax.Array:
    """Makes two independent views of every image.

    `images` is [B, H, W, 3] uint8. Returns [2B, image_size, image_size, 3] float32 in [-1, 1], interleaved: rows 2i
    and 2i+1 are the views of image i, so that a shard of the batch keeps both views of its images. `config` is the
    section `views`: area, ratio, flip, brightness, contrast, saturation, hue, grayscale, solarize. `rows` [2B] are the
    global indices of the views where they are a part of a batch.
    """
    keys = row_keys(key, 2 * len(images) if rows is None else rows).reshape(len(images), 2)
    two_views = jax.vmap(lambda key, image: one_view(key, image, image_size, config), (0, None))
    views = jax.vmap(two_views)(keys, images)
    return views.reshape(2 * len(images), image_size, image_size, 3)

"""Operations of DeiT's recipe on normalised images and targets: random erasing, mixup, CutMix, label smoothing."""

import jax
import jax.numpy as jnp

from sit_jax.views.corrupt import group_size
from sit_jax.views.noise import noise

ERASED_AREA = (0.02, 1 / 3)  # share of the image (arXiv 1708.04896)
ERASED_RATIO = (0.3, 1 / 0.3)


def random_erase(keys: jax.Array, images: jax.Array, probability: float) -> jax.Array:
    """Fills a random box of each image with noise N(0, 1), with probability `probability`.

    `keys` is [B], `images` [B, s, s, c] in [-1, 1].
    """
    size = images.shape[1]

    def erase(key: jax.Array, image: jax.Array) -> jax.Array:
        use_key, area_key, ratio_key, centre_key, noise_key = jax.random.split(key, 5)
        area = jax.random.uniform(area_key, minval=ERASED_AREA[0], maxval=ERASED_AREA[1])
        log_ratio = jnp.log(jnp.array(ERASED_RATIO))
        ratio = jnp.exp(jax.random.uniform(ratio_key, minval=log_ratio[0], maxval=log_ratio[1]))
        sides = jnp.minimum(jnp.sqrt(area * jnp.stack([ratio, 1 / ratio])), 1.0)
        start = jax.random.uniform(centre_key, (2,)) * (1 - sides)
        mask = inside(start, start + sides, size) & jax.random.bernoulli(use_key, probability)
        return jnp.where(mask[..., None], noise(noise_key, image.shape).astype(image.dtype), image)

    return jax.vmap(erase)(keys, images)


def inside(start: jax.Array, end: jax.Array, size: int) -> jax.Array:
    """Returns the mask [s, s] of the pixels with centres in a box, s = `size`; its corners [2] are (y, x) in [0, 1]."""
    position = (jnp.arange(size) + 0.5) / size
    within = (position >= start[:, None]) & (position < end[:, None])
    return within[0][:, None] & within[1][None, :]


def mixup_cutmix(
    keys: jax.Array, images: jax.Array, targets: jax.Array, mixup: float, cutmix: float
) -> tuple[jax.Array, jax.Array]:
    """Mixes each image and its target with a partner in the batch (mixup arXiv 1710.09412, CutMix arXiv 1905.04899).

    `keys` is [B], `images` [B, s, s, c], `targets` [B, C] float32. A row is blended with its partner (mixup) or gets a
    box of its partner (CutMix); with both on, each has probability 0.5. The share of the row's own image is drawn from
    Beta(a, a) with a = `mixup` or `cutmix`; 0 switches it off. Partners are mirrored rows of a group (see
    `group_size`), so that mixing does not move sharded batches.
    """
    if not mixup and not cutmix:
        return images, targets
    share = 0.5 if mixup and cutmix else float(bool(cutmix))

    def draw_mask(key: jax.Array) -> jax.Array:
        which_key, mixup_key, cutmix_key, centre_key = jax.random.split(key, 4)
        blended = jax.random.beta(mixup_key, mixup or 1.0, mixup or 1.0)
        half = jnp.sqrt(1 - jax.random.beta(cutmix_key, cutmix or 1.0, cutmix or 1.0)) / 2
        centre = jax.random.uniform(centre_key, (2,))
        kept = 1.0 - inside(centre - half, centre + half, images.shape[1])
        return jnp.where(jax.random.bernoulli(which_key, share), kept, blended)

    own = jax.vmap(draw_mask)(keys)[..., None]  # [B, s, s, 1]: share of the row's own image in each pixel
    weight = own.mean(axis=(1, 2))
    mixed = own * images + (1 - own) * partners(images)
    return mixed, weight * targets + (1 - weight) * partners(targets)


def partners(x: jax.Array) -> jax.Array:
    """Returns the rows of [B, ...] in reverse order within each group."""
    return x.reshape(-1, group_size(len(x)), *x.shape[1:])[:, ::-1].reshape(x.shape)


def smooth_labels(labels: jax.Array, num_classes: int, smoothing: float) -> jax.Array:
    """Returns targets [B, C]: one-hot labels [B] int, with the share `smoothing` spread over all C classes."""
    return jax.nn.one_hot(labels, num_classes) * (1 - smoothing) + smoothing / num_classes

"""The training input of classifiers: DeiT's augmentation of labelled images as one pure function on the device."""

import jax
import jax.numpy as jnp
import ml_collections

from sit_jax.common.keys import named_key, row_keys
from sit_jax.views.augment import normalise, random_resized_crop, to_unit
from sit_jax.views.mix import mixup_cutmix, random_erase, smooth_labels
from sit_jax.views.randaugment import randaugment


def make_training_images(
    key: jax.Array,
    images: jax.Array,
    labels: jax.Array,
    num_classes: int,
    image_size: int,
    config: ml_collections.ConfigDict,
) -> tuple[jax.Array, jax.Array]:
    """Returns augmented images [B, s, s, c] float32 in [-1, 1] and targets [B, C].

    `images` is [B, H, W, c] as stored, `labels` [B] int32; s = `image_size`, C = `num_classes`. The order is random
    resized crop, flip, RandAugment, random erasing, mixup or CutMix. `config` is a section `augment`. A row depends
    only on its own and its partner's image and key.
    """
    keys = {name: row_keys(named_key(key, name), len(images)) for name in ("crop", "flip", "ops", "erase", "mix")}

    def crop(key: jax.Array, image: jax.Array) -> jax.Array:
        return random_resized_crop(key, to_unit(image), image_size, config.area, config.ratio)

    def flip(key: jax.Array, image: jax.Array) -> jax.Array:
        return jnp.where(jax.random.bernoulli(key, config.flip), image[:, ::-1], image)

    out = jax.vmap(flip)(keys["flip"], jax.vmap(crop)(keys["crop"], images))
    if config.randaugment.layers:
        out = randaugment(keys["ops"], out, config.randaugment)
    out = normalise(out)
    if config.random_erase:
        out = random_erase(keys["erase"], out, config.random_erase)
    targets = smooth_labels(labels, num_classes, config.label_smoothing)
    return mixup_cutmix(keys["mix"], out, targets, config.mixup, config.cutmix)

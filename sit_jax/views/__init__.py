"""From source images to what the network sees: views, rotation, corruption; one pure function on the device."""

from typing import NamedTuple

import jax
import ml_collections

from sit_jax.common.keys import named_key, view_rows
from sit_jax.views.augment import augment, whole_images
from sit_jax.views.corrupt import corrupt
from sit_jax.views.rotate import random_rotation, rotate

__all__ = ["Views", "augment", "corrupt", "make_test_views", "make_views", "random_rotation", "rotate", "whole_images"]


class Views(NamedTuple):
    """The views of B images, m each: rows m * i to m * i + m - 1 are of image i (V = m * B, m = `views.count`)."""

    clean: jax.Array  # [V, s, s, 3] float32 in [-1, 1], rotated: the target of the reconstruction
    corrupted: jax.Array  # [V, s, s, 3] float32: what the network sees
    rotation: jax.Array  # [V] int32 in 0..3: quarter turns counter-clockwise
    masks: dict[str, jax.Array]  # {operation: [V, s, s] bool}: the pixels that each corruption wrote


def make_views(
    key: jax.Array,
    images: jax.Array,
    config: ml_collections.ConfigDict,
    rows: jax.Array | None = None,
    turn_key: jax.Array | None = None,
) -> Views:
    """Makes the training input of one step from `images` [B, H, W, 3] uint8, as a pure function of the key.

    `rows` [B] are the global indices of the images where they are a part of a batch. Where `turn_key` is given, it
    draws the rotations in place of `key`: views of several keys are then turned alike. Flip comes before rotation:
    an image and its mirror carry the same rotation class.
    """
    rows = view_rows(len(images) if rows is None else rows, config.views.count)
    views = augment(named_key(key, "augment"), images, config.model.image_size, config.views, rows)
    return rotate_and_corrupt(key, views, config, rows, turn_key)


def make_test_views(
    key: jax.Array, images: jax.Array, config: ml_collections.ConfigDict, rows: jax.Array | None = None
) -> Views:
    """Makes the same from whole images, without crop, flip and jitter, to measure the three tasks on test images."""
    count = config.views.count
    views = whole_images(images, config.model.image_size).repeat(count, axis=0)
    return rotate_and_corrupt(key, views, config, view_rows(len(images) if rows is None else rows, count))


def rotate_and_corrupt(
    key: jax.Array,
    views: jax.Array,
    config: ml_collections.ConfigDict,
    rows: jax.Array,
    turn_key: jax.Array | None = None,
) -> Views:
    """Turns views [V, s, s, 3] with the global indices `rows` at random, keeps them as target, and corrupts a copy."""
    count = config.views.count
    turned = rows // count if config.views.share_rotation else rows
    turn_key = named_key(key if turn_key is None else turn_key, "rotate")
    clean, rotation = random_rotation(turn_key, views, turned, config.views.turned)
    corrupted, masks = corrupt(named_key(key, "corrupt"), clean, config.corrupt, rows, count)
    return Views(clean, corrupted, rotation, masks)

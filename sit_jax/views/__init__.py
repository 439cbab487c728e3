"""From source images to the network's input: views, rotation, corruption; one pure function on the device."""

from typing import NamedTuple

import jax
import ml_collections

from sit_jax.common.keys import named_key, view_rows
from sit_jax.views.augment import augment, to_unit, whole_images
from sit_jax.views.corrupt import corrupt
from sit_jax.views.rotate import random_rotation, rotate

__all__ = [
    "Views",
    "augment",
    "corrupt",
    "make_test_views",
    "make_views",
    "random_rotation",
    "rotate",
    "to_unit",
    "whole_images",
]


class Views(NamedTuple):
    """The V = m * B views of B images, with m = `views.count`: image i has the rows m * i to m * (i + 1) - 1."""

    clean: jax.Array  # [V, s, s, c] float32 in [-1, 1], rotated: the reconstruction target
    corrupted: jax.Array  # [V, s, s, c] float32: the network's input
    rotation: jax.Array  # [V] int32 in 0..3: quarter turns counter-clockwise
    masks: dict[str, jax.Array]  # {operation: [V, s, s] bool}: the pixels that each corruption wrote


def make_views(
    key: jax.Array,
    images: jax.Array,
    config: ml_collections.ConfigDict,
    rows: jax.Array | None = None,
    turn_key: jax.Array | None = None,
) -> Views:
    """Makes the training input of one step from `images` [B, H, W, c] as stored; a pure function of the keys.

    `rows` [B] are the global indices of the images if they are part of a batch. If `turn_key` is given, it draws the
    rotations instead of `key`, so that views of several keys have the same rotations. The flip precedes the rotation:
    an image and its mirror image have the same rotation class.
    """
    rows = view_rows(len(images) if rows is None else rows, config.views.count)
    views = augment(named_key(key, "augment"), images, config.model.image_size, config.views, rows)
    return rotate_and_corrupt(key, views, config, rows, turn_key)


def make_test_views(
    key: jax.Array, images: jax.Array, config: ml_collections.ConfigDict, rows: jax.Array | None = None
) -> Views:
    """Makes `Views` of whole images, without crop, flip and jitter, to measure the three tasks on test images."""
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
    """Rotates views [V, s, s, c] at random, keeps them as the target, and corrupts a copy.

    `rows` [V] are the global indices of the views.
    """
    count = config.views.count
    turned = rows // count if config.views.share_rotation else rows
    turn_key = named_key(key if turn_key is None else turn_key, "rotate")
    clean, rotation = random_rotation(turn_key, views, turned, config.views.turned)
    corrupted, masks = corrupt(named_key(key, "corrupt"), clean, config.corrupt, rows, count)
    return Views(clean, corrupted, rotation, masks)

"""The five local corruptions, all views at once; each reports the mask of what it changed (SiT, section 3)."""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections

from sit_jax.common.keys import named_key, row_keys
from sit_jax.views.blocks import many_blocks, one_block
from sit_jax.views.blur import gaussian_blur
from sit_jax.views.color import grayscale, jitter
from sit_jax.views.noise import noise

DONOR_IMAGES = 8


def corrupt(
    key: jax.Array, images: jax.Array, config: ml_collections.ConfigDict, rows: jax.Array | None = None, views: int = 2
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Corrupts views by grayscale, blur, recolour, random drop and random replace, in this order.

    `images` is [V, s, s, 3] float32 in [-1, 1], interleaved: `views` rows of each image. Returns the corrupted views,
    same shape and dtype, and `{name: [V, s, s] bool}`, the pixels that each operation wrote. A row depends on its own
    key and pixels alone, but for *replace*, which reads its donor. `config` is the section `corrupt`; `rows` [V] are
    the global indices of the views where they are a part of a batch: whole donor groups. Of each group, the first
    images are corrupted, `config.share` of them; the other views stay clean, and cost nothing.
    """
    rows = jnp.arange(len(images)) if rows is None else rows
    group = group_size(len(images) // views)
    count = views * corrupted_images(config.share, group)
    if count == views * group:
        return operate(key, images, images, config, rows, views)

    def cut(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        grouped = x.reshape(-1, views * group, *x.shape[1:])
        return grouped[:, :count].reshape(-1, *x.shape[1:]), grouped[:, count:]

    def join(first: jax.Array, rest: jax.Array) -> jax.Array:
        grouped = first.reshape(len(rest), count, *rest.shape[2:])
        return jnp.concatenate([grouped, rest], axis=1).reshape(-1, *rest.shape[2:])

    (first, clean), (first_rows, _) = cut(images), cut(rows)
    out, masks = operate(key, first, images, config, first_rows, views)
    unchanged = jnp.zeros(clean.shape[:-1], bool)
    return join(out, clean), {name: join(mask, unchanged) for name, mask in masks.items()}


def operate(
    key: jax.Array,
    images: jax.Array,
    donors: jax.Array,
    config: ml_collections.ConfigDict,
    rows: jax.Array,
    views: int,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Runs the operations on views [n, s, s, 3], the first ones of each group of `donors` [V, s, s, 3]."""
    masks, out = {}, images
    operations = OPERATIONS | {"replace": functools.partial(replace, donors=donors, views=views)}
    for name, operation in operations.items():
        mask_keys = row_keys(named_key(key, f"{name}/mask"), rows)
        change_keys = row_keys(named_key(key, f"{name}/change"), rows)
        masks[name] = jax.vmap(lambda key, name=name: _mask(key, images.shape[1], config[name]))(mask_keys)
        out = jnp.where(masks[name][..., None], operation(change_keys, out, config[name]), out)
    return out, masks


def corrupted_images(share: float, group: int) -> int:
    """Returns how many images of a group are corrupted: none without a share, else at least one."""
    return max(1, round(share * group)) if share else 0


def _mask(key: jax.Array, size: int, config: ml_collections.ConfigDict) -> jax.Array:
    if "fraction" in config:
        return many_blocks(key, size, config.fraction, config.block)
    return one_block(key, size, config.block, config.probability)


def to_gray(keys: jax.Array, images: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Removes the colour of [V, s, s, 3]."""
    del keys, config
    return grayscale(images)


def blur(keys: jax.Array, images: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Blurs [V, s, s, 3], see `gaussian_blur`; the section has the ranges `kernel`, of odd widths, and `sigma`."""
    return gaussian_blur(keys, images, config.kernel, config.sigma)


def recolour(keys: jax.Array, images: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Distorts the colours of [V, s, s, 3] in [-1, 1] by the jitter of the section `recolour`."""
    distort = jax.vmap(lambda key, image: jitter(key, image, config))
    return distort(keys, jnp.clip((images + 1) / 2, 0.0, 1.0)) * 2 - 1


def drop(keys: jax.Array, images: jax.Array, config: ml_collections.ConfigDict) -> jax.Array:
    """Returns what fills dropped blocks, [V, s, s, 3]: `noise`, `zeros`, or the `mean` colour of the image.

    Noise is normal, of mean 0 and standard deviation `config.noise_std`, in units of the normalised image.
    """
    if config.fill == "noise":
        drawn = jax.vmap(lambda key: noise(key, images.shape[1:]))(keys)
        return (config.noise_std * drawn).astype(images.dtype)
    if config.fill == "zeros":
        return jnp.zeros_like(images)
    return jnp.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)


def replace(
    keys: jax.Array, images: jax.Array, config: ml_collections.ConfigDict, donors: jax.Array, views: int = 2
) -> jax.Array:
    """Returns for each of the views [n, s, s, 3] the clean view of another image, at random.

    `donors` [V, s, s, 3] lie in fixed groups of consecutive images, `views` rows each: 8 images when that divides the
    batch. The views are the first ones of each group. Where the part of the batch on each device divides by 8 too, that
    costs no communication; the result is the same on every mesh.
    """
    del config
    group = group_size(len(donors) // views)
    groups = donors.reshape(-1, views * group, *donors.shape[1:])
    position = jnp.tile(jnp.arange(len(images) // len(groups)), len(groups))

    def pick(key: jax.Array, row: jax.Array) -> jax.Array:
        shift_key, view_key = jax.random.split(key)
        shift = 1 + jnp.floor(jax.random.uniform(shift_key) * (max(group, 2) - 1)).astype(jnp.int32)
        return views * ((row // views + shift) % group) + jax.random.randint(view_key, (), 0, views)

    index = jax.vmap(pick)(keys, position).reshape(len(groups), -1)
    return jax.vmap(lambda group, index: group[index])(groups, index).reshape(images.shape)


def group_size(batch: int) -> int:
    """Returns how many consecutive images exchange pixels: 8 where that divides the batch, else more."""
    return next((n for n in range(min(DONOR_IMAGES, batch), batch + 1) if batch % n == 0), batch)


# Each takes keys [n], views [n, s, s, 3] and its section.
OPERATIONS: dict[str, Callable] = {
    "grayscale": to_gray,
    "blur": blur,
    "recolour": recolour,
    "drop": drop,
    "replace": replace,
}

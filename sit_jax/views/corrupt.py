"""The five local corruptions, all views at once; each reports the mask of what it changed (SiT, section 3)."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sit_jax.common.keys import named_key, row_keys
from sit_jax.views.blocks import many_blocks, one_block
from sit_jax.views.blur import gaussian_blur
from sit_jax.views.color import grayscale, jitter
from sit_jax.views.noise import noise

DONOR_IMAGES = 8


class Donors(NamedTuple):
    """The clean views that a corruption may take pixels from, in fixed groups of consecutive images."""

    images: jax.Array  # [V, s, s, 3]
    views: int  # rows of each image


class Corruption(NamedTuple):
    """A row of OPERATIONS.

    The section has `block`, a range of sides as shares of the side of the image, and either `probability`, of one
    block, or `fraction`, a range of shares of the area that several blocks cover.
    """

    change: Callable[
        [jax.Array, jax.Array, ConfigDict, Donors], jax.Array
    ]  # (keys [n], views [n, s, s, 3], section, donors)
    section: dict[str, Any]  # its keys and defaults in `corrupt.<name>`
    choices: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # the words that a key may have
    above_0: tuple[str, ...] = ()  # ranges that must start above 0


def corrupt(
    key: jax.Array, images: jax.Array, config: ConfigDict, rows: jax.Array | None = None, views: int = 2
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
        return operate(key, images, Donors(images, views), config, rows)

    def cut(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        grouped = x.reshape(-1, views * group, *x.shape[1:])
        return grouped[:, :count].reshape(-1, *x.shape[1:]), grouped[:, count:]

    def join(first: jax.Array, rest: jax.Array) -> jax.Array:
        grouped = first.reshape(len(rest), count, *rest.shape[2:])
        return jnp.concatenate([grouped, rest], axis=1).reshape(-1, *rest.shape[2:])

    (first, clean), (first_rows, _) = cut(images), cut(rows)
    out, masks = operate(key, first, Donors(images, views), config, first_rows)
    unchanged = jnp.zeros(clean.shape[:-1], bool)
    return join(out, clean), {name: join(mask, unchanged) for name, mask in masks.items()}


def operate(
    key: jax.Array, images: jax.Array, donors: Donors, config: ConfigDict, rows: jax.Array
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Runs the operations on views [n, s, s, 3], the first ones of each group of donors."""
    masks, out = {}, images
    for name, operation in OPERATIONS.items():
        mask_keys = row_keys(named_key(key, f"{name}/mask"), rows)
        change_keys = row_keys(named_key(key, f"{name}/change"), rows)
        masks[name] = jax.vmap(lambda key, name=name: _mask(key, images.shape[1], config[name]))(mask_keys)
        out = jnp.where(masks[name][..., None], operation.change(change_keys, out, config[name], donors), out)
    return out, masks


def corrupted_images(share: float, group: int) -> int:
    """Returns how many images of a group are corrupted: none without a share, else at least one."""
    return max(1, round(share * group)) if share else 0


def _mask(key: jax.Array, size: int, config: ConfigDict) -> jax.Array:
    if "fraction" in config:
        return many_blocks(key, size, config.fraction, config.block)
    return one_block(key, size, config.block, config.probability)


def to_gray(keys: jax.Array, images: jax.Array, config: ConfigDict, donors: Donors) -> jax.Array:
    """Removes the colour of [V, s, s, 3]."""
    return grayscale(images)


def blur(keys: jax.Array, images: jax.Array, config: ConfigDict, donors: Donors) -> jax.Array:
    """Blurs [V, s, s, 3], see `gaussian_blur`; the section has the ranges `kernel`, of odd widths, and `sigma`."""
    return gaussian_blur(keys, images, config.kernel, config.sigma)


def recolour(keys: jax.Array, images: jax.Array, config: ConfigDict, donors: Donors) -> jax.Array:
    """Distorts the colours of [V, s, s, 3] in [-1, 1] by the jitter of the section `recolour`."""
    distort = jax.vmap(lambda key, image: jitter(key, image, config))
    return distort(keys, jnp.clip((images + 1) / 2, 0.0, 1.0)) * 2 - 1


def drop(keys: jax.Array, images: jax.Array, config: ConfigDict, donors: Donors) -> jax.Array:
    """Returns what fills dropped blocks, [V, s, s, 3]: `noise`, `zeros`, or the `mean` colour of the image.

    Noise is normal, of mean 0 and standard deviation `config.noise_std`, in units of the normalised image.
    """
    if config.fill == "noise":
        drawn = jax.vmap(lambda key: noise(key, images.shape[1:]))(keys)
        return (config.noise_std * drawn).astype(images.dtype)
    if config.fill == "zeros":
        return jnp.zeros_like(images)
    return jnp.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)


def replace(keys: jax.Array, images: jax.Array, config: ConfigDict, donors: Donors) -> jax.Array:
    """Returns for each of the views [n, s, s, 3] the clean view of another image, at random.

    A group has 8 images if that divides the batch. The views are the first ones of each group. If 8 also divides the
    part of the batch on each device, that costs no communication. The result is the same on every mesh.
    """
    views = donors.views
    group = group_size(len(donors.images) // views)
    groups = donors.images.reshape(-1, views * group, *donors.images.shape[1:])
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


# In this order. A new corruption is one row and its function.
OPERATIONS: dict[str, Corruption] = {
    "grayscale": Corruption(to_gray, {"probability": 0.3, "block": (0.05, 1.0)}),
    "blur": Corruption(
        blur,
        # Widths of the kernel, odd, and standard deviations, both in pixels.
        {"probability": 0.3, "block": (0.05, 1.0), "kernel": (3, 15), "sigma": (0.1, 5.1)},
        above_0=("sigma",),
    ),
    "recolour": Corruption(
        recolour,
        {
            "probability": 0.3,
            "block": (0.05, 1.0),
            "brightness": 0.8,
            "contrast": 0.8,
            "saturation": 0.8,
            "hue": 0.2,
        },
    ),
    "drop": Corruption(
        drop,
        # Images are in [-1, 1], and photographs have a standard deviation of about 0.5.
        {"fraction": (0.0, 0.1), "block": (0.05, 0.25), "fill": "noise", "noise_std": 1.0},
        choices={"fill": ("noise", "zeros", "mean")},
    ),
    "replace": Corruption(replace, {"fraction": (0.0, 0.1), "block": (0.05, 0.25)}),
}

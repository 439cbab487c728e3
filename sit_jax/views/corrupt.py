"""The five local corruptions, for all views at once; each returns the mask of its changes (SiT, section 3)."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from sit_jax.common.keys import named_key, row_keys
from sit_jax.views.blocks import many_blocks, one_block
from sit_jax.views.blur import gaussian_blur
from sit_jax.views.color import grayscale, has_colour, jitter
from sit_jax.views.noise import noise

DONOR_IMAGES = 8


class Donors(NamedTuple):
    """The clean views from which a corruption may copy pixels, in fixed groups of consecutive images."""

    images: jax.Array  # [V, s, s, c]
    views: int  # rows per image


class Corruption(NamedTuple):
    """A row of OPERATIONS.

    The section has `block`, the range of a block's sides as shares of the image side. It also has either `probability`
    (of a single block) or `fraction` (the range of the share of the area that several blocks cover).
    """

    change: Callable[
        [jax.Array, jax.Array, ConfigDict, Donors], jax.Array
    ]  # (keys [n], views [n, s, s, c], section, donors)
    section: dict[str, Any]  # keys and defaults of `corrupt.<name>`
    choices: Mapping[str, tuple[str, ...]] = MappingProxyType({})  # allowed words, by key
    above_0: tuple[str, ...] = ()  # keys of ranges that must start above 0
    colour: bool = False  # whether it needs colour: without three channels, it is off and its mask is empty

    def off(self) -> dict[str, Any]:
        """Returns the values that switch the corruption off."""
        return {"fraction": (0.0, 0.0)} if "fraction" in self.section else {"probability": 0.0}


def corrupt(
    key: jax.Array, images: jax.Array, config: ConfigDict, rows: jax.Array | None = None, views: int = 2
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Corrupts views by grayscale, blur, recolour, random drop and random replace, in this order.

    `images` is [V, s, s, c] float32 in [-1, 1] with `views` adjacent rows per image. Returns the corrupted views (same
    shape and dtype) and `{name: [V, s, s] bool}`, the pixels that each operation wrote. A row depends only on its own
    key and pixels; *replace* also reads a donor. `config` is the section `corrupt`. `rows` [V] are the global indices
    of the views if they are part of a batch, which must be whole donor groups. In each group, the first images, a
    share `config.share`, are corrupted; the other images stay clean at no cost.
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
    """Applies the operations to `images` [n, s, s, c], the first views of each donor group."""
    masks, out = {}, images
    for name, operation in OPERATIONS.items():
        mask_keys = row_keys(named_key(key, f"{name}/mask"), rows)
        change_keys = row_keys(named_key(key, f"{name}/change"), rows)
        if operation.colour and not has_colour(images):
            masks[name] = jnp.zeros(images.shape[:-1], bool)
            continue
        masks[name] = jax.vmap(lambda key, name=name: _mask(key, images.shape[1], config[name]))(mask_keys)
        out = jnp.where(masks[name][..., None], operation.change(change_keys, out, config[name], donors), out)
    return out, masks


def corrupted_images(share: float, group: int) -> int:
    """Returns the number of corrupted images in a group: 0 if `share` is 0, else at least 1."""
    return max(1, round(share * group)) if share else 0


def _mask(key: jax.Array, size: int, config: ConfigDict) -> jax.Array:
    if "fraction" in config:
        return many_blocks(key, size, config.fraction, config.block)
    return one_block(key, size, config.block, config.probability)


def to_gray(keys: jax.Array, images: jax.Array, config: ConfigDict, donors: Donors) -> jax.Array:
    """Removes the colour of [n, s, s, c]."""
    return grayscale(images)


def blur(keys: jax.Array, images: jax.Array, config: ConfigDict, donors: Donors) -> jax.Array:
    """Blurs [n, s, s, c] (see `gaussian_blur`) with the ranges `kernel` (odd widths) and `sigma` of the section."""
    return gaussian_blur(keys, images, config.kernel, config.sigma)


def recolour(keys: jax.Array, images: jax.Array, config: ConfigDict, donors: Donors) -> jax.Array:
    """Changes the colours of [n, s, s, c] in [-1, 1] by the jitter of the section `recolour`."""
    distort = jax.vmap(lambda key, image: jitter(key, image, config))
    return distort(keys, jnp.clip((images + 1) / 2, 0.0, 1.0)) * 2 - 1


def drop(keys: jax.Array, images: jax.Array, config: ConfigDict, donors: Donors) -> jax.Array:
    """Returns the fill of dropped blocks, [n, s, s, c]: `noise`, `zeros` or the image's `mean` colour.

    Noise is normal with mean 0 and standard deviation `config.noise_std`, in units of the normalised image.
    """
    if config.fill == "noise":
        drawn = jax.vmap(lambda key: noise(key, images.shape[1:]))(keys)
        return (config.noise_std * drawn).astype(images.dtype)
    if config.fill == "zeros":
        return jnp.zeros_like(images)
    return jnp.broadcast_to(images.mean(axis=(1, 2), keepdims=True), images.shape)


def replace(keys: jax.Array, images: jax.Array, config: ConfigDict, donors: Donors) -> jax.Array:
    """Returns for each view of `images` [n, s, s, c] a random clean view of another image in its donor group.

    `images` are the first views of each group. A group has 8 images if 8 divides the batch. If 8 also divides the part
    of the batch on each device, there is no communication. The result is the same on every mesh.
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
    """Returns the images per donor group: the smallest divisor of `batch` from 8 up, or `batch` if it is below 8."""
    return next((n for n in range(min(DONOR_IMAGES, batch), batch + 1) if batch % n == 0), batch)


# Applied in this order. A new corruption needs one row and its function.
OPERATIONS: dict[str, Corruption] = {
    "grayscale": Corruption(to_gray, {"probability": 0.3, "block": (0.05, 1.0)}, colour=True),
    "blur": Corruption(
        blur,
        # Ranges of the odd kernel width and of the standard deviation, in pixels.
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
        # Images are in [-1, 1]; photographs have a standard deviation of about 0.5.
        {"fraction": (0.0, 0.1), "block": (0.05, 0.25), "fill": "noise", "noise_std": 1.0},
        choices={"fill": ("noise", "zeros", "mean")},
    ),
    "replace": Corruption(replace, {"fraction": (0.0, 0.1), "block": (0.05, 0.25)}),
}

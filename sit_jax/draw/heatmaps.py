"""Attention maps as a picture: the parts of an image to which the two tokens attend."""

import math
from collections.abc import Sequence

import numpy as np

from sit_jax.common.text import shown
from sit_jax.draw import pictures
from sit_jax.draw.sheet import BETWEEN, HEIGHT, at_most, columns_of, label_width, line_height

# From 0 to the maximum: black, violet, red, orange, pale yellow (like the colour map "inferno").
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32) / 127.5 - 1
SIDES = (128, 112, 96, 80, 64)  # pixels of an image; a line shows one image per head
OPACITY = 0.65  # of the map over the image
TITLE = "Attention of the last layer from each token to the patches. Each map is scaled to its own maximum."


def attention_picture(images: np.ndarray, maps: np.ndarray, names: Sequence[str], tokens: Sequence[str]) -> np.ndarray:
    """Draws one block per image and in it one row per token: the image, the mean over the heads, each head.

    `images` is [n, s, s, 3] in [-1, 1]; `maps` from `attention_maps` is [n, 2, heads, side, side], `names` [n]. Returns
    [H, W, 3] uint8.
    """
    headings = ["picture", "all heads", *(f"head {i + 1}" for i in range(maps.shape[2]))]
    labels = {f"{token} token": images for token in tokens}
    side = fitting_side(len(images), len(headings), label_width(labels))
    columns = columns_of(side, label_width(labels), len(headings))
    blocks = [pictures.text(TITLE)]
    for image, both, name in zip(images, maps, names, strict=True):
        rows = {}
        for token, heads in zip(tokens, both, strict=True):
            tiles = [image, *(heat(image, weights) for weights in (heads.mean(axis=0), *heads))]
            rows[f"{token} token"] = at_most(np.stack(tiles), side)
        shares = zip(tokens, both.sum(axis=(2, 3)).mean(axis=1), strict=True)
        caption = shown(name[-60:])
        caption += f": {', '.join(f'{token} {share:.0%}' for token, share in shares)} on patches"
        blocks.append(pictures.stack([pictures.text(caption), pictures.labelled_grid(rows, headings, columns)]))
    return pictures.stack(blocks, gap=BETWEEN)


def fitting_side(count: int, columns: int, label: int) -> int:
    """Returns the largest side of the tiles, in pixels, with which the picture fits on a sheet; else the smallest."""
    for side in SIDES:
        lines = math.ceil(columns / columns_of(side, label, columns))
        block = pictures.LINE + lines * (pictures.LINE + line_height(2, side)) + BETWEEN
        if pictures.LINE + count * block <= HEIGHT:
            break
    return side


def heat(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Overlays weights [side, side], scaled to their maximum, as colours on a grey copy of an image [s, s, 3]."""
    patch_size = len(image) // len(weights)
    scaled = weights / max(weights.max(), np.finfo(np.float32).tiny)
    steps = np.linspace(0, 1, len(HEAT))
    colours = np.stack([np.interp(scaled, steps, channel) for channel in HEAT.T], axis=-1)
    colours = colours.repeat(patch_size, axis=0).repeat(patch_size, axis=1)
    return OPACITY * colours + (1 - OPACITY) * image.mean(axis=-1, keepdims=True)

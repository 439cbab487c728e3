"""Attention maps as pictures: the parts of an image to which the two tokens attend."""

import pathlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

from sit_jax.common.text import shown
from sit_jax.draw import pictures
from sit_jax.draw.sheet import BETWEEN, HEIGHT, columns_of, label_width

# From 0 to the maximum: black, violet, red, orange, pale yellow (like the colour map "inferno").
HEAT = np.array([(0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164)], np.float32) / 127.5 - 1
SIDE = 224  # pixels of an image
OPACITY = 0.65  # of the map over the image
TITLE = (
    "Attention of the last layer from each token to the patches, by head; colours from 0 to the largest of each map:"
)
LEGEND = 200  # pixels


def attention_sheets(
    images: np.ndarray, maps: np.ndarray, names: Sequence[str], tokens: Sequence[str]
) -> list[np.ndarray]:
    """Draws one block per image and in it one row per token: the image, the mean over the heads, each head.

    `images` is [n, SIDE, SIDE, 3] in [-1, 1]; `maps` from `attention_maps` is [n, 2, heads, side, side], `names` [n].
    Returns sheets [H, W, 3] uint8; a block that does not fit goes to the next sheet.
    """
    headings = ["photograph", "mean of the heads", *(f"head {i + 1}" for i in range(maps.shape[2]))]
    columns = columns_of(SIDE, label_width({f"{token} token": images for token in tokens}), len(headings))
    sheets: list[list[np.ndarray]] = []
    for image, both, name in zip(images, maps, names, strict=True):
        rows = {}
        for token, heads in zip(tokens, both, strict=True):
            rows[f"{token} token"] = np.stack([image, *(heat(image, one) for one in (heads.mean(axis=0), *heads))])
        shares = zip(tokens, both.sum(axis=(2, 3)).mean(axis=1), strict=True)
        caption = f"{shown(pathlib.PurePath(name).name)}: "
        caption += ", ".join(f"the {token} token gives {share:.0%} to the patches" for token, share in shares)
        grid = pictures.labelled_grid(rows, {"": headings}, columns)
        block = pictures.stack([pictures.text(caption), grid])
        if not sheets or sum(len(one) + BETWEEN for one in sheets[-1]) + len(block) > HEIGHT:
            sheets.append([legend()])
        sheets[-1].append(block)
    return [pictures.stack(blocks, gap=BETWEEN) for blocks in sheets]


def legend() -> np.ndarray:
    """Draws the title with a bar of the colours."""
    title = pictures.text(TITLE)
    bar = colours_of(np.linspace(0, 1, LEGEND)[None].repeat(len(title), axis=0))
    return np.concatenate([title, pictures.to_uint8(bar)], axis=1)


def colours_of(values: np.ndarray) -> np.ndarray:
    """Returns the colours of values [...] from 0 to 1, float [..., 3] in [-1, 1]."""
    steps = np.linspace(0, 1, len(HEAT))
    return np.stack([np.interp(values, steps, channel) for channel in HEAT.T], axis=-1)


def heat(image: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Lays weights [side, side], scaled to their maximum, as colours over a grey copy of an image [s, s, 3]."""
    scaled = (weights / max(weights.max(), np.finfo(np.float32).tiny)).astype(np.float32)
    smooth = np.asarray(Image.fromarray(scaled).resize(image.shape[1::-1], Image.Resampling.BILINEAR))
    return OPACITY * colours_of(smooth) + (1 - OPACITY) * image.mean(axis=-1, keepdims=True)

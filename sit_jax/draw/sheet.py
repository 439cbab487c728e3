"""Sheets that a screen shows: pictures shrink until they fit, and what does not fit goes to further sheets."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np

from sit_jax.draw import pictures
from sit_jax.draw.pictures import COLUMNS, GAP, LINE, SMALLEST_SIDE, WIDTH

HEIGHT = 2000  # pixels of a sheet, at most
SIDES = (192, 160, 128, 112, SMALLEST_SIDE)  # of an image, if its own side is too large
BETWEEN = 8 * GAP  # pixels between the groups of a sheet


class Group(NamedTuple):
    """Images of a sheet that have a title."""

    title: str
    rows: dict[str, np.ndarray]  # by label, images [n, s, s, 3] in [-1, 1]
    headings: Mapping[str, Sequence[str]]  # lines above the columns, by label, texts [n]


def sheets(groups: list[Group], size: int | None = None) -> list[np.ndarray]:
    """Draws groups of images below each other; returns sheets [H, W, 3] uint8, at most WIDTH x HEIGHT pixels.

    If they do not fit on one sheet in their own size, all images are shrunk, to SMALLEST_SIDE at least. If they still
    do not fit, there are more sheets. With `size`, all images have sides of `size` pixels.
    """
    if size:
        groups = [
            Group(title, {name: to_side(row, size) for name, row in rows.items()}, h) for title, rows, h in groups
        ]
    own = next(iter(groups[0].rows.values())).shape[1]
    sides = [own] if size else [own, *(side for side in SIDES if side < own)]
    side = next((side for side in sides if total_height(groups, side) <= HEIGHT), sides[-1])
    done: list[list[np.ndarray]] = [[]]
    for title, rows, headings in groups:
        label = label_width([*rows, *headings])
        line = line_height(len(rows), side) + len(headings) * LINE
        most = columns_of(side, label) * max(1, (HEIGHT - LINE + 4 * GAP) // line)
        count = len(next(iter(rows.values())))
        for start in range(0, count, most):
            part = {name: at_most(row[start : start + most], side) for name, row in rows.items()}
            above = {name: texts[start : start + most] for name, texts in headings.items()}
            block = pictures.stack([pictures.text(title), pictures.labelled_grid(part, above)])
            used = sum(len(above) + BETWEEN for above in done[-1])
            if done[-1] and used + len(block) > HEIGHT:
                done.append([])
            done[-1].append(block)
    return [pictures.stack(blocks, gap=BETWEEN) for blocks in done]


def total_height(groups: list[Group], side: int) -> int:
    """Returns the height of all groups on one sheet, in pixels."""
    heights = []
    for _, rows, headings in groups:
        count = len(next(iter(rows.values())))
        lines = math.ceil(count / columns_of(side, label_width([*rows, *headings])))
        heights.append(LINE + lines * (line_height(len(rows), side) + len(headings) * LINE) - 4 * GAP)
    return sum(heights) + BETWEEN * (len(groups) - 1)


def line_height(rows: int, side: int) -> int:
    """Returns the height of a line that shows all rows of some images, with the gap below it, in pixels."""
    return rows * pictures.shown_side(side) + 4 * GAP


def columns_of(side: int, label: int, most: int = COLUMNS) -> int:
    """Returns the number of images in a line beside a label of this width."""
    return max(1, min(most, (WIDTH - label) // pictures.shown_side(side)))


def label_width(labels: Iterable[str]) -> int:
    """Returns the width of the labels of rows, in pixels."""
    return max(map(pictures.text_width, labels))


def to_side(images: np.ndarray, side: int) -> np.ndarray:
    """Returns images [n, s, s, c] with `side` pixels on each side; enlarged pixels stay visible."""
    method = "linear" if images.shape[1] > side else "nearest"
    return np.asarray(jax.image.resize(images, (len(images), side, side, images.shape[-1]), method))


def at_most(images: np.ndarray, side: int) -> np.ndarray:
    """Returns images [n, s, s, c], resized to `side` pixels if they are larger."""
    if images.shape[1] <= side:
        return images
    return np.asarray(jax.image.resize(images, (len(images), side, side, images.shape[-1]), "linear"))

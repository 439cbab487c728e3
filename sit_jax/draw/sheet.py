"""Sheets that a screen shows: pictures shrink until they fit, and what does not fit goes to further sheets."""

import math

import jax
import numpy as np

from sit_jax.draw import pictures
from sit_jax.draw.pictures import COLUMNS, GAP, LINE, SMALLEST_SIDE, WIDTH

HEIGHT = 2000  # pixels of a sheet, at most
SIDES = (192, 160, 128, 112, 96, 80, SMALLEST_SIDE)  # of an image, if its own side is too large
BETWEEN = 8 * GAP  # pixels between the groups of a sheet

Group = tuple[str, dict[str, np.ndarray]]  # a title, and rows of images [n, s, s, 3] in [-1, 1]


def sheets(groups: list[Group]) -> list[np.ndarray]:
    """Draws groups of images below each other; returns sheets [H, W, 3] uint8, at most WIDTH x HEIGHT pixels.

    If they do not fit on one sheet in their own size, all images are shrunk, to SMALLEST_SIDE at least. If they still
    do not fit, there are more sheets.
    """
    own = next(iter(groups[0][1].values())).shape[1]
    sides = [own, *(side for side in SIDES if side < own)]
    side = next((side for side in sides if total_height(groups, side) <= HEIGHT), sides[-1])
    done: list[list[np.ndarray]] = [[]]
    for title, rows in groups:
        label = label_width(rows)
        line = line_height(len(rows), side)
        most = columns_of(side, label) * max(1, (HEIGHT - LINE + 4 * GAP) // line)
        count = len(next(iter(rows.values())))
        for start in range(0, count, most):
            part = {name: at_most(row[start : start + most], side) for name, row in rows.items()}
            block = pictures.stack([pictures.text(title), pictures.labelled_grid(part)])
            used = sum(len(above) + BETWEEN for above in done[-1])
            if done[-1] and used + len(block) > HEIGHT:
                done.append([])
            done[-1].append(block)
    return [pictures.stack(blocks, gap=BETWEEN) for blocks in done]


def total_height(groups: list[Group], side: int) -> int:
    """Returns the height of all groups on one sheet, in pixels."""
    heights = []
    for _, rows in groups:
        count = len(next(iter(rows.values())))
        lines = math.ceil(count / columns_of(side, label_width(rows)))
        heights.append(LINE + lines * line_height(len(rows), side) - 4 * GAP)
    return sum(heights) + BETWEEN * (len(groups) - 1)


def line_height(rows: int, side: int) -> int:
    """Returns the height of a line that shows all rows of some images, with the gap below it, in pixels."""
    return rows * pictures.shown_side(side) + 4 * GAP


def columns_of(side: int, label: int, most: int = COLUMNS) -> int:
    """Returns the number of images in a line beside a label of this width."""
    return max(1, min(most, (WIDTH - label) // pictures.shown_side(side)))


def label_width(rows: dict[str, np.ndarray]) -> int:
    """Returns the width of the labels of rows, in pixels."""
    return max(map(pictures.text_width, rows))


def at_most(images: np.ndarray, side: int) -> np.ndarray:
    """Returns images [n, s, s, c], resized to `side` pixels if they are larger."""
    if images.shape[1] <= side:
        return images
    return np.asarray(jax.image.resize(images, (len(images), side, side, images.shape[-1]), "linear"))

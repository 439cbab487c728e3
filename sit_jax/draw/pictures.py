"""Pictures for people: rows of images in one PNG, optionally with captions."""

import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from sit_jax.common.files import replacing

SMALLEST_SIDE = 96  # pixels of an image, at least
COLUMNS = 12  # images in a line, at most
WIDTH = 1600  # pixels of a line with several images, with its label, at most
GAP = 2
LINE = 20  # height of a line of text in pixels


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Clips images to [-1, 1] and maps them to uint8 0..255."""
    return np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def to_rgb(images: np.ndarray, channels: Sequence[int] | None = None) -> np.ndarray:
    """Returns images [n, s, s, c] as [n, s, s, 3]: the three `channels`; None: the first three, or grey for c < 3."""
    if channels is not None:
        return images[..., list(channels)]
    return images[..., :3] if images.shape[-1] >= 3 else images.mean(axis=-1, keepdims=True).repeat(3, axis=-1)


def shown_side(side: int) -> int:
    """Returns the side in pixels of an image in `grid`, with the gap around it; `side` is its own side."""
    return side * -(-SMALLEST_SIDE // side) + 2 * GAP


def grid(*rows: np.ndarray) -> np.ndarray:
    """Arranges rows of images [n, s, s, 3] in [-1, 1] as one picture [H, W, 3] uint8; enlarges small images."""
    images = np.stack([to_uint8(np.asarray(row, np.float32)) for row in rows])
    zoom = -(-SMALLEST_SIDE // images.shape[2])
    images = images.repeat(zoom, axis=2).repeat(zoom, axis=3)
    images = np.pad(images, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
    count, columns, side = images.shape[:3]
    return images.transpose(0, 2, 1, 3, 4).reshape(count * side, columns * side, 3)


def labelled_grid(
    rows: dict[str, np.ndarray], headings: Mapping[str, Sequence[str]] | None = None, most: int = COLUMNS
) -> np.ndarray:
    """Arranges rows of images [n, s, s, 3] in [-1, 1] with the label of each row on its left, [H, W, 3] uint8.

    `headings` are lines of texts [n] above the columns, by their labels. A line has `most` columns at most and is WIDTH
    pixels wide at most. If rows are longer, the remaining columns follow in the next line, which shows all rows again.
    """
    count, side = next(iter(rows.values())).shape[:2]
    side = shown_side(side)
    width = max(map(text_width, [*rows, *(headings or {})]))
    lines = math.ceil(count / max(1, min(most, (WIDTH - width) // side)))
    labels = np.concatenate([text(label, width, side) for label in rows])
    pictures = []
    for columns in np.array_split(np.arange(count), lines):
        images = grid(*(row[columns] for row in rows.values()))
        pictures.append(np.concatenate([labels, images], axis=1))
        for label, texts in reversed(list((headings or {}).items())):
            above = [text(fitting(texts[column], side), side, centred=True) for column in columns]
            pictures[-1] = np.concatenate([np.concatenate([text(label, width), *above], axis=1), pictures[-1]])
    return stack(pictures, gap=4 * GAP)


def stack(pictures: Sequence[np.ndarray], gap: int = 0) -> np.ndarray:
    """Stacks pictures [H, W, 3] uint8 vertically on white, `gap` pixels apart."""
    width = max(picture.shape[1] for picture in pictures)
    padded = [
        np.pad(picture, ((0, gap), (0, width - picture.shape[1]), (0, 0)), constant_values=255) for picture in pictures
    ]
    return np.concatenate(padded)[: -gap or None]


def text(line: str, width: int | None = None, height: int = LINE, centred: bool = False) -> np.ndarray:
    """Draws a line of black text on white, [height, width, 3] uint8; without `width`, the picture fits the text."""
    width = width or text_width(line)
    image = Image.new("RGB", (width, height), "white")
    position, anchor = (width / 2, "mm") if centred else (GAP, "lm")
    ImageDraw.Draw(image).text((position, height / 2), line, "black", font(), anchor)
    return np.asarray(image)


def text_width(line: str) -> int:
    """Returns the width of a line of text in pixels, with margins."""
    return math.ceil(font().getlength(line)) + 4 * GAP


def fitting(line: str, width: int) -> str:
    """Returns a line of text that fits in `width` pixels: its start and its end, with three dots between them."""
    kept = line
    while len(kept) > 5 and text_width(kept) > width:
        half = (len(kept) - 4) // 2
        kept = f"{line[:half]}...{line[len(line) - half :]}"
    return kept


def font() -> ImageFont.FreeTypeFont:
    """Returns Pillow's default font."""
    found = ImageFont.load_default(size=13)
    assert isinstance(found, ImageFont.FreeTypeFont)  # because a size is given
    return found


def save_png(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes a picture [H, W, 3] uint8 as PNG; creates the folder."""
    with replacing(path) as temporary:
        Image.fromarray(picture).save(temporary, format="PNG")

"""Galleries: lines of pictures with a title above each line and a caption below each picture."""

import csv
import pathlib
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

from sit_jax.common.errors import InputError
from sit_jax.common.files import replacing
from sit_jax.draw import pictures

WIDTH = 1600  # pixels of a sheet
HEIGHT = 2400  # of a sheet, at most
SIDE = 128  # of a picture
GAP = 8


class Line(NamedTuple):
    """Pictures in a line, which wraps."""

    title: str
    tiles: np.ndarray  # [n, side, side, 3] uint8
    captions: Sequence[str] = ()  # one for each picture, or none


def draw(title: str, lines: Sequence[Line]) -> list[np.ndarray]:
    """Draws sheets [H, WIDTH, 3] uint8; lines that do not fit go to further sheets, each below the title."""
    sheets: list[list[np.ndarray]] = []
    for line in lines:
        block = draw_line(line)
        if not sheets or sum(map(len, sheets[-1])) + len(block) > HEIGHT:
            sheets.append([pictures.text(title, WIDTH, 2 * pictures.LINE)])
        sheets[-1].append(block)
    return [np.concatenate(blocks) for blocks in sheets] or [pictures.text(title, WIDTH, 2 * pictures.LINE)]


def draw_line(line: Line) -> np.ndarray:
    """Draws a line of pictures with its title and captions, [H, WIDTH, 3] uint8."""
    columns = (WIDTH + GAP) // (SIDE + GAP)
    parts = [pictures.text(pictures.fitting(line.title, WIDTH), WIDTH)]
    for start in range(0, len(line.tiles), columns):
        tiles = [enlarged(tile) for tile in line.tiles[start : start + columns]]
        captions = line.captions[start : start + columns] or [""] * len(tiles)
        cells = [
            np.concatenate([tile, pictures.text(pictures.fitting(caption, SIDE), SIDE)]) if line.captions else tile
            for tile, caption in zip(tiles, captions, strict=True)
        ]
        parts.append(side_by_side(cells))
    return np.pad(np.concatenate(parts), ((0, GAP), (0, 0), (0, 0)), constant_values=255)


def side_by_side(cells: Sequence[np.ndarray]) -> np.ndarray:
    """Puts cells [h, SIDE, 3] beside each other on white, [h + GAP, WIDTH, 3] uint8."""
    row = np.full((len(cells[0]) + GAP, WIDTH, 3), 255, np.uint8)
    for i, cell in enumerate(cells):
        row[: len(cell), i * (SIDE + GAP) : i * (SIDE + GAP) + SIDE] = cell
    return row


def enlarged(tile: np.ndarray) -> np.ndarray:
    """Returns a picture with SIDE pixels on each side; small pictures keep visible pixels."""
    how = Image.Resampling.NEAREST if len(tile) <= SIDE // 2 else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(tile).resize((SIDE, SIDE), how))


def save(out: pathlib.Path, sheets: Sequence[np.ndarray]) -> list[pathlib.Path]:
    """Writes sheets as PNG: `out`, then NAME-2.png and so on; returns their paths."""
    paths = [out if number == 1 else out.with_stem(f"{out.stem}-{number}") for number in range(1, len(sheets) + 1)]
    for path, sheet in zip(paths, sheets, strict=True):
        pictures.save_png(path, sheet)
    return paths


def save_csv(out: pathlib.Path, head: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Writes a table as CSV; raises InputError if it cannot be written.

    Names of files are written as they are, whatever their bytes.
    """
    try:
        with replacing(out) as temporary, temporary.open("w", newline="", errors="surrogateescape") as file:
            writer = csv.writer(file)
            writer.writerow(head)
            writer.writerows(rows)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error.strerror or error}); choose another --out") from error

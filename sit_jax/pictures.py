"""Pictures for people: rows of original, corrupted and reconstructed images in one PNG."""

import pathlib

import numpy as np
from PIL import Image

SMALLEST_SIDE = 64  # pixels at which an image is shown at least
GAP = 2


def to_uint8(images: np.ndarray) -> np.ndarray:
    """Maps images in [-1, 1], clipped, to uint8 0..255."""
    return np.round((np.clip(images, -1, 1) + 1) * 127.5).astype(np.uint8)


def grid(*rows: np.ndarray) -> np.ndarray:
    """Lays rows of images [n, s, s, 3] in [-1, 1] out as one picture [H, W, 3] uint8, small images enlarged."""
    images = np.stack([to_uint8(np.asarray(row, np.float32)) for row in rows])
    zoom = -(-SMALLEST_SIDE // images.shape[2])
    images = images.repeat(zoom, axis=2).repeat(zoom, axis=3)
    images = np.pad(images, ((0, 0), (0, 0), (GAP, GAP), (GAP, GAP), (0, 0)), constant_values=255)
    count, columns, side = images.shape[:3]
    return images.transpose(0, 2, 1, 3, 4).reshape(count * side, columns * side, 3)


def save_png(path: pathlib.Path, picture: np.ndarray) -> None:
    """Writes a picture [H, W, 3] uint8, making its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)

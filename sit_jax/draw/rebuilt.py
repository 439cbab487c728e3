"""Rows and headings of pictures of reconstructions."""

from collections.abc import Sequence

import numpy as np

from sit_jax.draw.pictures import to_rgb

LARGEST = 0.5  # difference, of values from -1 to 1, that is drawn white
DIFFERENCE = f"difference (white: {LARGEST:g})"
TURNED = "rotation: true, predicted"


def rebuilt_rows(
    original: np.ndarray, corrupted: np.ndarray, reconstructed: np.ndarray, channels: Sequence[int] | None
) -> dict[str, np.ndarray]:
    """Returns the rows of a picture by label, [n, s, s, 3] in [-1, 1]; the images are [n, s, s, c] in [-1, 1].

    The last row is the absolute difference of reconstruction and original, mean over the channels, as grey.
    """
    difference = np.abs(np.clip(reconstructed, -1, 1) - original).mean(axis=-1, keepdims=True)
    grey = np.minimum(difference / LARGEST, 1) * 2 - 1
    rows = {"original": original, "corrupted": corrupted, "reconstructed": reconstructed}
    return {name: to_rgb(row, channels) for name, row in rows.items()} | {DIFFERENCE: grey.repeat(3, axis=-1)}


def turns(rotation: np.ndarray, predicted: np.ndarray) -> list[str]:
    """Returns the true and the predicted rotation of images, quarter turns int [n], as texts."""
    pairs = zip(90 * rotation, 90 * predicted, strict=True)
    return [f"{true}°, {said}°" if true == said else f"{true}°, not {said}°" for true, said in pairs]

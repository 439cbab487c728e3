"""Verifies an export: runs it on images, and compares with the model."""

import pathlib

import ml_collections
import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.common.layout import layout_of
from sit_jax.data import open_source
from sit_jax.data.load import StreamedImages
from sit_jax.exports.formats import Format, missing
from sit_jax.exports.weights import Weights

COUNT = 16
TOLERANCE = 1e-4  # largest difference over the largest value; float32 programs differ by about 1e-6


def check(weights: Weights, row: Format, folder: pathlib.Path) -> str:
    """Returns a line with the largest differences; raises InputError if a program gives other values.

    If a package is missing, the line says that nothing was compared, and what to install.
    """
    if absent := missing(row):
        return f"written, not compared: {', '.join(absent)} not installed; pip install {' '.join(absent)}, export again"
    images, what = some_images(weights.config)
    expected, found = weights.expected(images), row.run(weights, folder, images)
    differences = {name: relative(found[name], expected[name]) for name in found}
    worst = max(differences.values())
    text = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    if not worst <= TOLERANCE:
        raise InputError(f"{folder}: gives other values than the model ({text} of the largest); please report this")
    return f"compared on {len(images)} {what}: largest differences, of the largest value: {text}"


def relative(found: np.ndarray, expected: np.ndarray) -> float:
    """Returns the largest difference over the largest value; infinity for another shape."""
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def some_images(config: ml_collections.ConfigDict) -> tuple[np.ndarray, str]:
    """Returns images of the run, float32 [n, s, s, c] in [0, 1], or random ones if its data is not here."""
    side, layout = config.model.image_size, layout_of(config.data)
    try:
        records = open_source(config.data.source).train
        chosen = records.take(range(min(COUNT, len(records))))
        images = StreamedImages(chosen, side, layout=layout).gather(range(len(chosen)))
        return (images / np.float32(np.iinfo(layout.dtype).max)).astype(np.float32), "images of the run"
    except InputError:  # the data has moved, or weights of another project have none
        shape = (COUNT, side, side, layout.channels)
        return np.random.default_rng(0).random(shape, np.float32), "random images (the data of the run is not here)"

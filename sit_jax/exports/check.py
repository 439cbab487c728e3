"""Verifies an export: runs it on images, and compares with the model."""

import pathlib

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.common.layout import layout_of
from sit_jax.data import open_source
from sit_jax.data.load import StreamedImages
from sit_jax.exports import plain
from sit_jax.exports.formats import Format, missing
from sit_jax.exports.hugging_face import HEADS
from sit_jax.exports.programs import NAMES, as_tokens
from sit_jax.exports.weights import Weights
from sit_jax.weights.files import read_weights
from sit_jax.weights.layouts import rename_hugging_face

COUNT = 16
TOLERANCE = 1e-4  # largest difference over the largest value; float32 programs differ by about 1e-6


def check(weights: Weights, row: Format, folder: pathlib.Path) -> str:
    """Returns a line with the largest differences; raises InputError if a program gives other values.

    If a package of the format is missing, plain operations compute with the weights that are read back from the file,
    and the line says what to install.
    """
    images, what = some_images(weights.config)
    absent = missing(row)
    expected, found = weights.expected(images), (reread if absent else row.run)(weights, folder, images)
    differences = {name: relative(found[name], expected[name]) for name in found}
    worst = max(differences.values())
    text = ", ".join(f"{name} {value:.1e}" for name, value in differences.items())
    if not worst <= TOLERANCE:
        raise RuntimeError(f"the export gives other values than the model ({text} of the largest); please report this")
    line = f"compared on {len(images)} {what}: largest differences, of the largest value: {text}"
    names = " ".join(absent)
    return f"{line} (read back, without {names}: pip install {names} compares with it too)" if absent else line


def reread(weights: Weights, folder: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what plain operations compute with the weights in a folder for PyTorch."""
    arrays = rename_hugging_face(read_weights(folder).arrays)
    for head, name in HEADS.items():
        arrays |= {f"{head}.{key}": arrays[f"{name}.{key}"] for key in ("weight", "bias") if f"{name}.{key}" in arrays}
    on_device = {name: jnp.asarray(array) for name, array in arrays.items()}
    found = jax.jit(lambda x: plain.outputs(on_device, x, weights.heads, weights.epsilon))(images)
    return as_tokens({name: np.asarray(array) for name, array in zip(NAMES, found, strict=False)})


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

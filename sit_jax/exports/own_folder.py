"""A folder under our own names, with the encoder and its heads, for `sit_jax.load`."""

import pathlib

import jax
import numpy as np

from sit_jax.config.saved import to_json
from sit_jax.exports.files import write_arrays, write_json
from sit_jax.exports.weights import Weights
from sit_jax.weights.files import read_weights
from sit_jax.weights.own import KEY, STEP, flat, tree_of


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `model.safetensors` and `config.json`."""
    write_arrays(folder, flat(jax.device_get(weights.params)))
    write_json(folder, "config.json", {KEY: to_json(weights.config), STEP: weights.step})


def run(weights: Weights, folder: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the tokens that the model computes with the weights of the folder."""
    tree = tree_of(read_weights(folder).arrays)
    return weights._replace(params=jax.tree.map(jax.numpy.asarray, tree), class_names=()).expected(images)


LOADING = """import sit_jax
encoder = sit_jax.load("{folder}")
features = encoder(images)"""

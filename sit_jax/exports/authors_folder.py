"""A folder in the layout of the authors' SiT, encoder and heads, for programs built on their code."""

import pathlib

import jax
import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.exports.files import HALF, write_arrays, write_json
from sit_jax.exports.weights import Weights
from sit_jax.weights.authors import to_authors
from sit_jax.weights.foreign import read_foreign


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `model.safetensors`; config.json says the normalisation. Raises InputError without the paper's heads."""
    heads = jax.device_get({name: head for name, head in weights.params.items() if name != "encoder"})
    if "kernel" not in heads.get("contrastive", {}) or weights.config.model.channels != 3:
        raise InputError("--format=authors needs the paper's heads and three channels: train with :paper, or use timm")
    write_arrays(folder, to_authors(jax.device_get(weights.params["encoder"]), heads, {}))
    write_json(folder, "config.json", {"mean": [HALF] * 3, "std": [HALF] * 3, "num_attention_heads": weights.heads})


def run(weights: Weights, folder: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the tokens that the model computes with the weights read back from the folder."""
    encoder = jax.tree.map(jax.numpy.asarray, read_foreign(folder).encoder)
    return weights._replace(params={"encoder": encoder}, class_names=()).expected(images)


LOADING = """import safetensors.torch
model.load_state_dict(safetensors.torch.load_file("{folder}/model.safetensors"), strict=False)  # their SiT
# strict=False: the weights of their losses are not exported"""

"""Writes the files that all exports share."""

import json
import pathlib

from safetensors.numpy import save_file

from sit_jax.common.files import replacing
from sit_jax.exports.weights import Weights
from sit_jax.weights.names import Arrays

HALF = 0.5  # mean and std of the images: the encoder takes [-1, 1]
WEIGHTS = "model.safetensors"


def write_arrays(folder: pathlib.Path, arrays: Arrays) -> None:
    """Writes `model.safetensors`; the header says, as PyTorch expects, that the arrays are its own."""
    with replacing(folder / WEIGHTS) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the umask allows; the library writes a file for its owner alone
        save_file(arrays, temporary, metadata={"format": "pt"})
        temporary.chmod(mode)


def write_json(folder: pathlib.Path, name: str, content: dict) -> None:
    """Writes a JSON file."""
    with replacing(folder / name) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def labels(weights: Weights) -> dict:
    """Returns `id2label` and `label2id` of a classifier; {} for an encoder."""
    names = weights.class_names
    if not names:
        return {}
    return {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}

"""The table of export formats."""

import importlib.util
import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sit_jax.exports import authors_folder, hugging_face, own_folder, programs, timm_folder
from sit_jax.exports.weights import Weights


class Format(NamedTuple):
    """A format: what it is, its writer, what runs it, and the lines that load it."""

    summary: str
    write: Callable[[Weights, pathlib.Path], None]
    run: Callable[[Weights, pathlib.Path, np.ndarray], dict[str, np.ndarray]]
    packages: tuple[str, ...]  # that `run` needs, beside those of this project
    loading: str
    needs_names: bool = True  # timm's names, which a stem of convolutions has not
    takes_classifier: bool = True
    classifying: str = ""  # a line that gives the logits of a classifier
    images: str = "normalised by mean 0.5 and standard deviation 0.5"


PLAIN = "as they are: the program normalises them"
FORMATS = {
    "timm": Format(
        *("timm, PyTorch", timm_folder.write, timm_folder.run, ("torch", "timm", "torchvision"), timm_folder.LOADING),
        classifying=timm_folder.CLASSIFYING,
    ),
    "hf": Format(
        *("Hugging Face transformers", hugging_face.write, hugging_face.run, ("torch", "transformers")),
        loading=hugging_face.LOADING,
        classifying=hugging_face.CLASSIFYING,
    ),
    "safetensors": Format(
        *("our own names, with all heads", own_folder.write, own_folder.run, (), own_folder.LOADING),
        needs_names=False,
        takes_classifier=False,
    ),
    "authors": Format(
        *("the layout of the authors' SiT", authors_folder.write, authors_folder.run, (), authors_folder.LOADING),
        takes_classifier=False,
    ),
    "onnx": Format(
        *("ONNX", programs.write_onnx, programs.run_onnx, ("onnxruntime",), programs.LOADING_ONNX),
        classifying=programs.CLASSIFYING_ONNX,
        images=PLAIN,
    ),
    "stablehlo": Format(
        *("StableHLO of jax.export", programs.write_stablehlo, programs.run_stablehlo, (), programs.LOADING_STABLEHLO),
        classifying=programs.CLASSIFYING_STABLEHLO,
        images=PLAIN,
    ),
}


def missing(row: Format) -> list[str]:
    """Returns the packages of a format that are not installed."""
    return [name for name in row.packages if importlib.util.find_spec(name) is None]

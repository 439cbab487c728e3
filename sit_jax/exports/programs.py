"""Whole programs with the weights inside: ONNX for onnxruntime, StableHLO for JAX and other runtimes of XLA."""

import functools
import json
import logging
import pathlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.common.files import replacing
from sit_jax.exports import plain
from sit_jax.exports.weights import Weights

ONNX, STABLEHLO = "model.onnx", "model.stablehlo"
NAMES = ("features", "patches", "logits")
PLATFORMS = ("cpu", "cuda", "tpu")


def program(weights: Weights) -> Callable:
    """Returns the function to export: images [n, s, s, c] in [0, 1] to the arrays of NAMES."""
    arrays = {name: jnp.asarray(array) for name, array in weights.arrays.items()}
    return functools.partial(plain.outputs, arrays, heads=weights.heads, epsilon=weights.epsilon)


def image_shape(weights: Weights) -> tuple[int, int, int]:
    """Returns [s, s, c]."""
    model = weights.config.model
    return model.image_size, model.image_size, model.channels


def write_onnx(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `model.onnx`, with any number of images; raises InputError without the converter."""
    try:
        import jax2onnx
        import onnx
    except ImportError as error:
        raise InputError("--format=onnx needs its converter; pip install jax2onnx==0.13.0 onnxruntime") from error
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it warns of each shape without a type
    function = program(weights)
    model = jax2onnx.to_onnx(lambda images: function(images), inputs=[("n", *image_shape(weights))])
    rename(model, "images", NAMES)
    if weights.class_names:
        onnx.helper.set_model_props(model, {"classes": json.dumps(weights.class_names)})
    with replacing(folder / ONNX) as temporary:
        onnx.save(model, str(temporary))


def rename(model: "onnx.ModelProto", given: str, results: tuple[str, ...]) -> None:  # type: ignore[name-defined]  # noqa: F821
    """Renames the input and the outputs of a graph."""
    new = {model.graph.input[0].name: given}
    new |= {output.name: name for output, name in zip(model.graph.output, results, strict=False)}
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        value.name = new.get(value.name, value.name)
    for node in model.graph.node:
        node.input[:] = [new.get(name, name) for name in node.input]
        node.output[:] = [new.get(name, name) for name in node.output]


def run_onnx(weights: Weights, folder: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what onnxruntime computes from the file."""
    del weights
    import onnxruntime

    session = onnxruntime.InferenceSession(folder / ONNX, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return as_tokens(dict(zip(names, session.run(None, {"images": images}), strict=True)))


def write_stablehlo(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `model.stablehlo` of `jax.export`: for any number of images, on CPU, CUDA and TPU."""
    (count,) = jax.export.symbolic_shape("n")
    images = jax.ShapeDtypeStruct((count, *image_shape(weights)), jnp.float32)
    exported = jax.export.export(jax.jit(program(weights)), platforms=PLATFORMS)(images)
    with replacing(folder / STABLEHLO) as temporary:
        temporary.write_bytes(exported.serialize())


def run_stablehlo(weights: Weights, folder: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns what JAX computes from the file."""
    del weights
    exported = jax.export.deserialize(bytearray((folder / STABLEHLO).read_bytes()))
    found = exported.call(images)
    return as_tokens({name: np.asarray(array) for name, array in zip(NAMES, found, strict=False)})


def as_tokens(found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Returns `tokens` [n, 2 + N, D] instead of features and patches."""
    patches = found.pop("patches")
    both = found.pop("features").reshape(len(patches), 2, -1)
    return {"tokens": np.concatenate([both, patches], axis=1), **found}


CLASSIFYING_ONNX = """(logits,) = session.run(["logits"], {{"images": images}})
classes = session.get_modelmeta().custom_metadata_map["classes"]  # their names, as JSON"""
CLASSIFYING_STABLEHLO = "logits = exported.call(images)[2]"
LOADING_ONNX = """import onnxruntime
session = onnxruntime.InferenceSession("{folder}/model.onnx")
# images: float32 [n, {side}, {side}, {c}] in [0, 1]
features, patches = session.run(["features", "patches"], {{"images": images}})"""
LOADING_STABLEHLO = """import jax, pathlib
exported = jax.export.deserialize(bytearray(pathlib.Path("{folder}/model.stablehlo").read_bytes()))
features, patches, *_ = exported.call(images)  # images: float32 [n, {side}, {side}, {c}] in [0, 1]"""

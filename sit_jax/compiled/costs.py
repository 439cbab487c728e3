"""FLOPs of the model by formula, and FLOPs of each matrix product in a compiled program."""

import functools
import math
import re
from collections.abc import Mapping

import ml_collections
import numpy as np

from sit_jax.compiled.hlo import Computation, Instruction
from sit_jax.compiled.libraries import library_flops, precision
from sit_jax.model.sizes import SIZES, patch_count, patch_pixels, token_count
from sit_jax.model.stem import stem_sizes
from sit_jax.model.tasks import TASKS


def model_flops(config: ml_collections.ConfigDict) -> int:
    """Returns the model FLOPs of one step, forward and backward, without recomputation and views.

    Only matrix products count, with two FLOPs per multiply-add, over the whole global batch.
    """
    model, views = config.model, config.views.count * config.batch_size
    width, depth, mlp, _ = SIZES[model.size]
    tokens = token_count(model.image_size, model.patch_size)
    layer = tokens * (4 * width**2 + 2 * width * mlp) + 2 * tokens**2 * width
    tasks = sum(task.multiplications(model, width, views) for task in TASKS.values())
    # The backward pass needs two products for each forward product, except for the first: images need no gradient.
    return 2 * (3 * views * depth * layer + 3 * tasks + views * _embedding(model, width))


def _embedding(model: ml_collections.ConfigDict, width: int) -> int:
    """Returns the multiplications from an image to its tokens, forward and backward."""
    patches = patch_count(model)
    if model.stem == "patches":
        return 2 * patches * patch_pixels(model) * width
    sizes = stem_sizes(width, model.patch_size, model.channels)
    products = [patches * 4 ** (len(sizes) - 1 - i) * 9 * inputs * outputs for i, (inputs, outputs) in enumerate(sizes)]
    return 2 * products[0] + 3 * (sum(products[1:]) + patches * width**2)


def product_flops(instruction: Instruction, computation: Computation) -> int:
    """Returns the FLOPs of a matrix product (two per multiply-add), 0 for other instructions."""
    if instruction.opcode == "dot":
        return _dot_flops(instruction, computation)
    if instruction.opcode == "convolution":
        return _convolution_flops(instruction, computation)
    return library_flops(instruction, computation)


def passes(instruction: Instruction, computation: Computation, passes_of: Mapping[str, float]) -> float:
    """Returns a product's time relative to bfloat16: `passes_of` its precision for float32 factors, else 1."""
    if any(operand.arrays[0].dtype != "f32" for operand in computation.operands(instruction)):
        return 1
    asked = instruction.attribute(r"operand_precision=\{(\w+)") or precision(instruction)
    return passes_of.get(asked, 1)


def _dot_flops(instruction: Instruction, computation: Computation) -> int:
    left = computation.operands(instruction)[0].arrays[0]
    axes = instruction.attribute(r"lhs_contracting_dims=\{([\d,]*)\}") or ""
    return 2 * instruction.arrays[0].elements * math.prod(left.dims[int(axis)] for axis in axes.split(",") if axis)


def _convolution_flops(instruction: Instruction, computation: Computation) -> int:
    left = computation.operands(instruction)[0].arrays[0].dims
    kernel = computation.operands(instruction)[1].arrays[0].dims
    result = instruction.arrays[0].dims
    labels = instruction.attribute(r"dim_labels=([\w>\-]+)") or ""
    left_labels, kernel_labels, result_labels = re.split(r"_|->", labels)
    window = {
        name: values.split("x")
        for name, values in re.findall(r"(\w+)=([\w\-]+)", instruction.attribute(r"window=\{([^}]*)\}") or "")
    }
    flops = 2 * result[result_labels.index("b")] * result[result_labels.index("f")] * kernel[kernel_labels.index("i")]
    for axis in (label for label in left_labels if label.isdigit()):
        i = int(axis)
        low = int(window["pad"][i].split("_")[0]) if "pad" in window else 0
        stride, left_step, kernel_step = (
            int(window[name][i]) if name in window else 1 for name in ("stride", "lhs_dilate", "rhs_dilate")
        )
        sizes = left[left_labels.index(axis)], kernel[kernel_labels.index(axis)], result[result_labels.index(axis)]
        flops *= _valid_positions(*sizes, low, stride, left_step, kernel_step)
    return flops


@functools.cache
def _valid_positions(
    left: int, kernel: int, result: int, low: int, stride: int, left_step: int, kernel_step: int
) -> int:
    """Counts the pairs of kernel and result position along an axis that meet an element instead of padding or a hole.

    TPU programs express batched products as convolutions with so much padding or dilation that all other pairs meet
    none.
    """
    position = np.arange(result)[:, None] * stride + np.arange(kernel)[None] * kernel_step - low
    return int(np.sum((position >= 0) & (position <= (left - 1) * left_step) & (position % left_step == 0)))

"""What a step costs: FLOPs of the model by formula, FLOPs and memory traffic of the compiled program by counting."""

import functools
import math
import re

import ml_collections
import numpy as np

from sit_jax.compiled.chips import Chip
from sit_jax.compiled.hlo import COLLECTIVES, Computation, Instruction, Program
from sit_jax.model import SIZES, TOKENS, projector_sizes

# A float32 product on a matrix unit for bfloat16 takes several passes, by its `operand_precision`.
PASSES = {"highest": 6, "high": 3}
# Instructions that move nothing: names for what is there, or the frame around other instructions. Collectives pass for
# free, as one that is spread over several fusions would count in each of them.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("partition-id", "replica-id", "iota", "opt-barrier", "send", "recv", "custom-call", *COLLECTIVES),
}
SLICES = {"slice", "dynamic-slice", "gather", "slice-start"}  # read no more than they return


def model_flops(config: ml_collections.ConfigDict) -> int:
    """Returns the FLOPs of one step that the model needs, forward and backward, without recomputation and views.

    Matrix products only, two FLOPs for a multiplication with its addition, over the whole global batch.
    """
    model, views = config.model, 2 * config.batch_size
    width, depth, mlp, _ = SIZES[model.size]
    pixels, patches = 3 * model.patch_size**2, (model.image_size // model.patch_size) ** 2
    tokens = patches + TOKENS
    layer = tokens * (4 * width**2 + 2 * width * mlp) + 2 * tokens**2 * width
    projector = projector_sizes(width, model.projector_layers, model.embedding_size)
    heads = width * 4 + sum(inputs * outputs for inputs, outputs in projector) + patches * width * pixels
    similarity = views**2 * model.embedding_size
    # The backward pass takes two products for each, but for the patches: nothing wants the gradient of an image.
    return 2 * (views * (3 * depth * layer + 3 * heads + 2 * patches * pixels * width) + 3 * similarity)


def compiled_flops(program: Program, matrix_passes: bool = False) -> int:
    """Returns the FLOPs of all matrix products of one run, on one device, loops with their trip counts.

    With `matrix_passes`, float32 products of a high precision count as the passes that they take on a TPU.
    """
    return sum(
        done.times
        * product_flops(done.instruction, done.computation)
        * (passes(done.instruction, done.computation) if matrix_passes else 1)
        for done in program.executed()
        if done.instruction.opcode in ("dot", "convolution")
    )


def product_flops(instruction: Instruction, computation: Computation) -> int:
    """Returns the FLOPs of one `dot` or `convolution` (two for a multiplication with its addition), else 0."""
    if instruction.opcode == "dot":
        return _dot_flops(instruction, computation)
    return _convolution_flops(instruction, computation) if instruction.opcode == "convolution" else 0


def passes(instruction: Instruction, computation: Computation) -> int:
    """Returns how often a product goes through a matrix unit for bfloat16, by its precision."""
    precision = instruction.attribute(r"operand_precision=\{(\w+)") or ""
    float32 = all(operand.arrays[0].dtype == "f32" for operand in computation.operands(instruction))
    return PASSES.get(precision, 1) if float32 else 1


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
    """Counts the pairs of kernel and result position along one axis that meet an element, not padding or a hole.

    A TPU writes batched products as convolutions with so much padding or dilation that all other pairs meet nothing.
    """
    position = np.arange(result)[:, None] * stride + np.arange(kernel)[None] * kernel_step - low
    return int(np.sum((position >= 0) & (position <= (left - 1) * left_step) & (position % left_step == 0)))


def memory_traffic(program: Program) -> int:
    """Returns the least bytes that one run moves between memory and one device.

    Each instruction reads each operand once and writes its result once, slices read what they return, updates in
    place write what they change, and what a TPU keeps on the chip is free.
    """
    return sum(
        done.times
        * (_read(program, done.instruction, done.computation) + _written(program, done.instruction, done.computation))
        for done in program.executed()
        if not done.fusion and not _free(done.instruction) and not done.instruction.opcode.endswith("-done")
    )


def _free(instruction: Instruction) -> bool:
    return instruction.opcode.removesuffix("-start") in FREE


def _read(program: Program, instruction: Instruction, computation: Computation) -> int:
    operands = computation.operands(instruction)
    fused = _fused(program, instruction)
    total = 0
    for index, operand in enumerate(operands):
        if len(operand.arrays) != 1 or operand.arrays[0].space:
            continue
        if fused:
            total += _read_by_fusion(program, fused, index)
        elif instruction.opcode in SLICES:
            total += instruction.arrays[-2 if instruction.opcode == "slice-start" else 0].bytes if index == 0 else 0
        elif instruction.opcode != "dynamic-update-slice" or index == 1:
            total += operand.bytes
    return total


def _read_by_fusion(program: Program, computation: Computation, index: int) -> int:
    """Returns the bytes that a fused computation reads of its parameter."""
    parameters = (i for i in computation.instructions.values() if i.opcode == "parameter" and i.literal == str(index))
    return sum(_used(program, computation, parameter) for parameter in parameters)


def _used(program: Program, computation: Computation, value: Instruction) -> int:
    total = 0
    for user in computation.instructions.values():
        if value.name not in user.operands:
            continue
        index = user.operands.index(value.name)
        nested = _fused(program, user)
        if user.opcode == "bitcast":
            total += _used(program, computation, user)
        elif user.opcode in SLICES:
            total += user.bytes if index == 0 else 0
        elif nested:
            total += _read_by_fusion(program, nested, index)
        elif not _free(user) and not (user.opcode == "dynamic-update-slice" and index == 0):
            total += value.bytes
    return min(total, value.bytes)


def _written(program: Program, instruction: Instruction, computation: Computation) -> int:
    if instruction.opcode.endswith("-start"):
        target = instruction.arrays[{"copy-start": 0, "slice-start": -2}.get(instruction.opcode, 0)]
        return 0 if target.space else target.bytes
    fused = _fused(program, instruction)
    root = fused.instructions[fused.root] if fused else instruction
    results = fused.operands(root) if fused and root.opcode == "tuple" else [root]
    if len(results) != len(instruction.arrays):
        return 0  # a tuple that only passes on what is there
    return sum(
        _changed(program, fused or computation, result)
        for result, array in zip(results, instruction.arrays, strict=True)
        if not array.space
    )


def _changed(program: Program, computation: Computation, result: Instruction) -> int:
    """Returns the bytes of a result that are new: an update in place writes the update, what is passed on nothing."""
    while result.opcode == "bitcast":
        result = computation.operands(result)[0]
    if result.opcode == "dynamic-update-slice":
        return computation.operands(result)[1].bytes
    nested = _fused(program, result)
    if nested and nested.instructions[nested.root].opcode != "tuple":
        return _changed(program, nested, nested.instructions[nested.root])
    return 0 if _free(result) else result.bytes


def _fused(program: Program, instruction: Instruction) -> Computation | None:
    return (
        program.computations.get(instruction.attribute(r"calls=%?([\w.\-]+)") or "")
        if (instruction.opcode == "fusion")
        else None
    )


def lower_bound(work: dict, chip: Chip, batch_size: int) -> dict:
    """Returns the least seconds of a step for each of compute, memory, links and network, and what follows from them.

    Empty for a chip whose figures are not known. Nothing runs at its peak all the time and not all of it overlaps,
    so that a real step takes longer.
    """
    if not (chip.flops and chip.memory_bandwidth and chip.links and chip.network):
        return {}
    seconds = {
        "compute": work["matrix_flops_per_chip"] / chip.flops,
        "memory": work["memory_bytes_per_chip"] / chip.memory_bandwidth,
        "links": work["link_bytes_per_chip"] / chip.links,
        "network": work["network_bytes_per_chip"] / chip.network,
    }
    by = max(seconds, key=lambda name: seconds[name])
    return {"seconds": seconds, "by": by, "step_seconds": seconds[by], "images_per_second": batch_size / seconds[by]}

"""The kernels of a compiled program: their FLOPs, and the bytes that they must read and write."""

from collections.abc import Mapping
from typing import NamedTuple

from sit_jax.compiled.costs import passes, product_flops
from sit_jax.compiled.hlo import COLLECTIVES, Computation, Instruction, Program
from sit_jax.compiled.libraries import library, results

# Instructions that move no data: aliases and containers of other instructions. Collectives are free, because a
# collective spread over several fusions would count in each of them. Library calls are not free.
FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "call", "after-all"),
    *("partition-id", "replica-id", "iota", "opt-barrier", "send", "recv", "custom-call", "async", *COLLECTIVES),
}
SLICES = {"slice", "dynamic-slice", "gather", "slice-start"}  # read only as much as they return
FUSIONS = {"fusion", "fusion-start"}


class Kernel(NamedTuple):
    """An instruction that runs on the device, with everything fused into it."""

    instruction: Instruction
    computation: Computation  # that contains it
    times: int  # executions per step
    bytes: int  # least bytes read and written by one execution
    flops: int = 0  # of the matrix products in one execution
    matrix_flops: float = 0  # the same, weighted by the time relative to bfloat16 products


def find_kernels(program: Program, passes_of: Mapping[str, float] | None = None) -> list[Kernel]:
    """Returns the kernels of one run on one device, without collectives.

    `passes_of` is the time of a float32 product relative to a bfloat16 product, by precision. Each kernel reads each
    operand once and writes its result once. Slices read only what they return, and updates in place write only what
    they change. Arrays that a TPU keeps on the chip are free.
    """
    found: list[Kernel] = []
    for instruction, computation, times, fusion in program.executed():
        if fusion is None and _runs(instruction):
            moved = _read(program, instruction, computation) + _written(program, instruction, computation)
            found.append(Kernel(instruction, computation, times, moved))
        if flops := product_flops(instruction, computation):
            matrix_flops = flops * passes(instruction, computation, passes_of or {})
            # Fused instructions directly follow their fusion.
            last = found[-1]
            found[-1] = last._replace(flops=last.flops + flops, matrix_flops=last.matrix_flops + matrix_flops)
    return found


def compiled_flops(kernels: list[Kernel]) -> int:
    """Returns the FLOPs of all matrix products of one run on one device, with loops counted by their trip counts."""
    return sum(kernel.times * kernel.flops for kernel in kernels)


def matrix_flops(kernels: list[Kernel]) -> float:
    """Returns the same FLOPs weighted by their time relative to bfloat16 products."""
    return sum(kernel.times * kernel.matrix_flops for kernel in kernels)


def memory_traffic(kernels: list[Kernel]) -> int:
    """Returns the least bytes that one run moves between the memory and one device."""
    return sum(kernel.times * kernel.bytes for kernel in kernels)


def _runs(instruction: Instruction) -> bool:
    return not _free(instruction) and not instruction.opcode.endswith(("-done", "-update"))


def _free(instruction: Instruction) -> bool:
    return instruction.opcode.removesuffix("-start") in FREE and not library(instruction)


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
    """Returns the bytes that a fused computation reads of its parameter `index`."""
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
    fused = _fused(program, instruction)
    root = fused.instructions[fused.root] if fused else instruction
    if library(root):
        return sum(array.bytes for array in results(root))
    if instruction.opcode.endswith("-start") and not fused:
        target = instruction.arrays[{"copy-start": 0, "slice-start": -2}.get(instruction.opcode, 0)]
        return 0 if target.space else target.bytes
    arrays = instruction.arrays
    if instruction.opcode == "fusion-start":  # the result starts with the operands and ends with a number
        arrays = arrays[sum(len(operand.arrays) for operand in computation.operands(instruction)) : -1]
    parts = fused.operands(root) if fused and root.opcode == "tuple" else [root]
    if len(parts) != len(arrays):
        return 0  # a tuple that only forwards existing arrays
    return sum(
        _changed(program, fused or computation, part)
        for part, array in zip(parts, arrays, strict=True)
        if not array.space
    )


def _changed(program: Program, computation: Computation, result: Instruction) -> int:
    """Returns the new bytes of a result: an update in place writes the update, a forwarded array writes nothing."""
    while result.opcode == "bitcast":
        result = computation.operands(result)[0]
    if result.opcode == "dynamic-update-slice":
        return computation.operands(result)[1].bytes
    if result.opcode == "get-tuple-element" and any(library(one) for one in computation.operands(result)):
        return result.bytes
    nested = _fused(program, result)
    if nested and nested.instructions[nested.root].opcode != "tuple":
        return _changed(program, nested, nested.instructions[nested.root])
    return 0 if _free(result) else result.bytes


def _fused(program: Program, instruction: Instruction) -> Computation | None:
    if instruction.opcode not in FUSIONS:
        return None
    return program.computations.get(instruction.attribute(r"calls=%?([\w.\-]+)") or "")

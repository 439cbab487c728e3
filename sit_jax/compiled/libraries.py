"""Calls of NVIDIA's libraries in a compiled program, and their FLOPs."""

import math
import re

from sit_jax.compiled.hlo import Array, Computation, Instruction

TARGET = r'custom_call_target="(__cu[^"]*|__gpu[^"]*)"'
# Number of products in cuDNN's attention, each 2 * T * T * d FLOPs per head. Forward: logits and means. Backward: the
# logits again, and the gradients of weights, values, queries and keys.
PRODUCTS = {"__cudnn$fmhaSoftmax": 2, "__cudnn$fmhaSoftmaxBackward": 5}


def library(instruction: Instruction) -> str:
    """Returns the library function that an instruction calls, "" if it calls none."""
    return (instruction.attribute(TARGET) or "") if instruction.opcode == "custom-call" else ""


def results(instruction: Instruction) -> tuple[Array, ...]:
    """Returns the result arrays of a library call, without its scratch memory."""
    *rest, last = instruction.arrays
    scratch = rest and last.dtype in ("s8", "u8") and len(last.dims) == 1
    return tuple(rest) if scratch else instruction.arrays


def library_flops(instruction: Instruction, computation: Computation) -> int:
    """Returns the FLOPs of a cuBLAS matrix product or a cuDNN attention, 0 for other instructions."""
    target = library(instruction)
    if target.startswith("__cublas"):
        left = computation.operands(instruction)[0].arrays[0]
        return 2 * instruction.arrays[0].elements * math.prod(left.dims[axis] for axis in _contracted(instruction))
    if target in PRODUCTS:
        depth = computation.operands(instruction)[0].arrays[0].dims[-1]
        return 2 * PRODUCTS[target] * math.prod(_logits(instruction)) * depth
    return 0


def precision(instruction: Instruction) -> str:
    """Returns the requested precision of a product: "default", "high" or "highest"."""
    return (instruction.attribute(r'"operand_precision": ?\["(\w+)"') or "default").lower()


def _contracted(instruction: Instruction) -> list[int]:
    return _numbers(instruction.attribute(r'"lhs_contracting_dimensions": ?\[([^\]]*)\]'))


def _logits(instruction: Instruction) -> list[int]:
    """Returns the shape [V, heads, T, T] of the logits, which never reach memory."""
    return _numbers(instruction.attribute(r'"intermediate_tensor_shape": ?\{.*?"dimensions": ?\[([^\]]*)\]'))


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text or "")]

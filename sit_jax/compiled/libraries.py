"""Calls of NVIDIA's libraries in a compiled program: what they compute, which their descriptions tell."""

import math
import re

from sit_jax.compiled.hlo import Array, Computation, Instruction

TARGET = r'custom_call_target="(__cu[^"]*|__gpu[^"]*)"'
# Products of the attention of cuDNN, each 2 * T * T * d FLOPs a head: logits and means; backward the logits again, and
# the gradients of weights, values, queries and keys.
PRODUCTS = {"__cudnn$fmhaSoftmax": 2, "__cudnn$fmhaSoftmaxBackward": 5}


def library(instruction: Instruction) -> str:
    """Returns the library function that an instruction calls, "" for other instructions."""
    return (instruction.attribute(TARGET) or "") if instruction.opcode == "custom-call" else ""


def results(instruction: Instruction) -> tuple[Array, ...]:
    """Returns the arrays that a library call gives back, without its scratch memory."""
    *rest, last = instruction.arrays
    scratch = rest and last.dtype in ("s8", "u8") and len(last.dims) == 1
    return tuple(rest) if scratch else instruction.arrays


def library_flops(instruction: Instruction, computation: Computation) -> int:
    """Returns the FLOPs of a matrix product of cuBLAS or of an attention of cuDNN, 0 for anything else."""
    target = library(instruction)
    if target.startswith("__cublas"):
        left = computation.operands(instruction)[0].arrays[0]
        return 2 * instruction.arrays[0].elements * math.prod(left.dims[axis] for axis in _contracted(instruction))
    if target in PRODUCTS:
        depth = computation.operands(instruction)[0].arrays[0].dims[-1]
        return 2 * PRODUCTS[target] * math.prod(_logits(instruction)) * depth
    return 0


def precision(instruction: Instruction) -> str:
    """Returns the precision that was asked of a product: "default", "high" or "highest"."""
    return (instruction.attribute(r'"operand_precision": ?\["(\w+)"') or "default").lower()


def _contracted(instruction: Instruction) -> list[int]:
    return _numbers(instruction.attribute(r'"lhs_contracting_dimensions": ?\[([^\]]*)\]'))


def _logits(instruction: Instruction) -> list[int]:
    """Returns the shape [B, heads, T, T] of the logits, which are never in memory."""
    return _numbers(instruction.attribute(r'"intermediate_tensor_shape": ?\{.*?"dimensions": ?\[([^\]]*)\]'))


def _numbers(text: str | None) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", text or "")]

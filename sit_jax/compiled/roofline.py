"""The best possible time of a step: its kernels one after another, each at the full speed of the chip."""

from collections.abc import Mapping
from typing import Any

from sit_jax.compiled.causes import seconds_by_cause
from sit_jax.compiled.chips import Chip
from sit_jax.compiled.hlo import Program
from sit_jax.compiled.kernels import Kernel

BESIDE = ("copy-start", "slice-start")  # TPU prefetches that overlap with kernels


def lower_bound(work: Mapping[str, Any], chip: Chip, batch_size: int) -> dict[str, Any]:
    """Returns the least seconds of a step for compute, memory, links and network each, and the rates that follow.

    The bound assumes that all four overlap completely, which no real step does. Returns {} if the chip's figures are
    unknown, and omits an unknown network.
    """
    if not (chip.flops and chip.memory_bandwidth and chip.links):
        return {}
    seconds = {
        "compute": work["matrix_flops_per_chip"] / chip.flops,
        "memory": work["memory_bytes_per_chip"] / chip.memory_bandwidth,
        "links": work["link_bytes_per_chip"] / chip.links,
    }
    if chip.network:
        seconds["network"] = work["network_bytes_per_chip"] / chip.network
    by = max(seconds, key=lambda name: seconds[name])
    return {"seconds": seconds, "by": by, "step_seconds": seconds[by], "images_per_second": batch_size / seconds[by]}


def roofline(
    program: Program, kernels: list[Kernel], chip: Chip, work: Mapping[str, Any], devices: int, batch_size: int
) -> dict[str, Any]:
    """Returns the least seconds of all kernels in sequence, by cause, and the resulting rates of the step.

    Each kernel takes the time of its products or of its bytes at full speed, whichever is longer. These seconds exclude
    collectives and overlapping copies. If memory, links or network need longer than the kernels, they set the time of
    the step. Returns {} if the chip's figures are unknown.
    """
    if not (chip.flops and chip.memory_bandwidth):
        return {}
    flops, bandwidth = chip.flops, chip.memory_bandwidth
    kernels = [kernel for kernel in kernels if kernel.instruction.opcode not in BESIDE]
    causes = seconds_by_cause(
        program, kernels, lambda kernel: max(kernel.matrix_flops / flops, kernel.bytes / bandwidth)
    )
    seconds = sum(part for _, part in causes)
    step = max(seconds, lower_bound(work, chip, batch_size).get("step_seconds", 0))
    return {
        "kernels": sum(kernel.times for kernel in kernels),
        "seconds": seconds,
        "images_per_second": batch_size / step,
        "mfu": work["model_flops"] / devices / flops / step,
        "causes": [{"cause": name, "seconds": part, "share": part / seconds} for name, part in causes],
    }

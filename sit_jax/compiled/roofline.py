"""How fast a step can be at best: its kernels one after another, each at the full speed of the chip."""

from collections.abc import Mapping
from typing import Any

from sit_jax.compiled.causes import seconds_by_cause
from sit_jax.compiled.chips import Chip
from sit_jax.compiled.hlo import Program
from sit_jax.compiled.kernels import Kernel

BESIDE = ("copy-start", "slice-start")  # a TPU fetches ahead with these while kernels run


def lower_bound(work: Mapping[str, Any], chip: Chip, batch_size: int) -> dict[str, Any]:
    """Returns the least seconds of a step for each of compute, memory, links and network, and what follows from them.

    All of it overlaps, which no step reaches. Empty for a chip whose figures are not known; a network that is not
    known is left out.
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
    """Returns the least seconds of the kernels one after another, by cause, and what follows from them for the step.

    Each kernel takes as long as its products or its bytes at full speed, whichever is longer. Collectives and copies
    that run beside are not in these seconds, but slow the step where memory, links or network need longer. Empty for a
    chip whose figures are not known.
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

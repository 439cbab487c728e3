"""The memory that a step needs on one device, and the largest batch that fits."""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import ml_collections

from sit_jax.parallel.mesh import chip_bytes
from sit_jax.train.state import TrainState
from sit_jax.views.corrupt import DONOR_IMAGES

FAR = 8  # the largest multiple of a compiled batch whose memory can be extrapolated
ARGUMENTS = ("parameters", "optimizer", "other_state", "batch")


def argument_memory(abstract: TrainState, batch: object) -> dict[str, int]:
    """Returns the bytes per device of the state and the batch."""
    rest = chip_bytes(abstract) - chip_bytes(abstract.params) - chip_bytes(abstract.opt_state)
    return {
        "parameters": chip_bytes(abstract.params),
        "optimizer": chip_bytes(abstract.opt_state),
        "other_state": rest,
        "batch": chip_bytes(batch),
    }


def compiled_memory(compiled: Any, arguments: Mapping[str, int]) -> dict[str, int]:
    """Returns the bytes per device of a compiled step in addition to its arguments, and the total."""
    stats = compiled.memory_analysis()
    logical = sum(arguments[name] for name in ARGUMENTS)
    parts = {
        "padding": stats.argument_size_in_bytes - logical,
        "temporaries": stats.temp_size_in_bytes,
        "output": stats.output_size_in_bytes - stats.alias_size_in_bytes,
        "program": stats.generated_code_size_in_bytes,
    }
    return parts | {"total": logical + sum(parts.values())}


def largest_batch(memory: Mapping[str, int], config: ml_collections.ConfigDict, devices: int) -> int:
    """Estimates the largest batch that fits from the memory of a compiled batch; 0 if none fits.

    State, gradients and program keep their size; everything else grows with the batch. The result is a multiple that
    devices and microbatches divide into whole groups of donors. It is at most FAR times the compiled batch: beyond
    that, the similarities of NT-Xent, which grow with the square of the batch, would dominate.
    """
    # One copy of the gradients exists at a time, in the dtype of the computation.
    gradients = memory["parameters"] * jnp.dtype(config.dtype).itemsize // jnp.dtype("float32").itemsize
    growing = memory["batch"] + memory["temporaries"] - gradients
    room = memory["capacity"] - (memory["total"] - growing)
    multiple = DONOR_IMAGES * devices * config.microbatches
    return max(0, int(config.batch_size * min(room / growing, FAR))) // multiple * multiple

"""The machine: its description, its measured ceilings, and the memory used by this process."""

import os
import pathlib
import platform
import resource
import sys
import time
from typing import Any

import jax
import jax.numpy as jnp

from sit_jax.common.allocator import VARIABLES
from sit_jax.common.host import cores, processor, versions
from sit_jax.timing.clock import measure

IMPORTED = time.perf_counter()


def describe() -> dict[str, Any]:
    """Returns the conditions of a measurement: devices, processor, load, versions, settings."""
    return {
        "devices": jax.device_count(),
        "device": jax.devices()[0].device_kind,
        "platform": jax.default_backend(),
        "processor": processor(),
        "cores": cores(),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": versions(),
        "settings": {name: os.environ[name] for name in ("XLA_FLAGS", *VARIABLES) if name in os.environ},
    }


def ceilings(dtype: str, repeats: int) -> dict[str, float]:
    """Measures one device: FLOP/s of a large matrix product in `dtype`, bytes/s of adding 1 to a large array.

    A ceiling is the best possible rate, so each is taken from the fastest repeat.
    """
    small = jax.default_backend() == "cpu"
    side, elements = (2048, 2**26) if small else (8192, 2**28)
    device = jax.devices()[0]
    # Random values, because a GPU draws less power on constant data and then clocks higher than in any training.
    matrix = jax.device_put(jax.random.normal(jax.random.key(0), (side, side), dtype), device)
    array = jax.device_put(jnp.ones(elements, jnp.float32), device)
    # As in the training step on a CPU: products with a bfloat16 result would not run in its matrix unit.
    result = jnp.float32 if small else None
    product, copy = jax.jit(lambda m: jnp.matmul(m, m, preferred_element_type=result)), jax.jit(lambda a: a + 1)
    times = measure({"product": lambda: product(matrix), "copy": lambda: copy(array)}, repeats)
    return {
        "flops_per_second": 2 * side**3 / times["product"]["least"],
        "bytes_per_second": 2 * array.nbytes / times["copy"]["least"],
    }


def seconds_since_start() -> float:
    """Returns the age of this process in seconds; without /proc, the seconds since this module was imported."""
    try:
        # Field 22, counted from 1. Field 2, the name in brackets, can contain spaces.
        ticks = int(pathlib.Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, AttributeError):
        return time.perf_counter() - IMPORTED


def peak_host_bytes() -> int:
    """Returns the peak memory of this process in bytes."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def peak_device_bytes() -> int | None:
    """Returns the peak memory on the first device in bytes; None if the device does not report it, such as a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")

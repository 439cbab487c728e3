"""This machine: its processor, the cores of this process, and the versions of packages."""

import importlib.metadata
import os
import platform
import sys

PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy")


def versions() -> dict[str, str]:
    """Returns the versions of PACKAGES."""
    return {name: importlib.metadata.version(name) for name in PACKAGES}


def processor() -> str:
    """Returns the name of the processor."""
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def cores() -> int:
    """Returns the number of cores that this process may use; outside Linux, the number of all cores."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1

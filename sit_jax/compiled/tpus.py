"""The TPUs that a plan can be made for."""

import importlib.util
import os
from typing import Any

import jax
from jax.experimental import topologies

from sit_jax.common.errors import InputError
from sit_jax.compiled.chips import GIB, Chip, Target

LIBTPU = "libtpu==0.0.42.*"  # what jax 0.10.2 asks for; also in requirements-plan.txt
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")
SHAPES = {"v4": CUBIC, "v5e": FLAT, "v5p": (*CUBIC, "16x16x24"), "v6e": FLAT}
PASSES = {"highest": 6, "high": 3}  # passes of a float32 product through a bfloat16 matrix unit

# From the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of https://docs.cloud.google.com/tpu/docs, November 2026.
# The pages give the sum of both directions of the links. The network of v5e and v6e is given for a host of 8 chips (2 x
# 100 Gbit/s) or for a pod of 256 chips (25.6 Tbit/s). For v4, the pages give neither links nor network: the links are 6
# of 50 GB/s per direction (arXiv 2304.01433), and the network is taken from v5p.
CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, 275e12, 1200e9, 300e9, 6.25e9, PASSES),
    "v5e": Chip("TPU v5e", 16 * GIB, 197e12, 819e9, 200e9, 3.125e9, PASSES),
    "v5p": Chip("TPU v5p", 95 * GIB, 459e12, 2765e9, 600e9, 6.25e9, PASSES),
    "v6e": Chip("TPU v6e", 32 * GIB, 918e12, 1638e9, 400e9, 12.5e9, PASSES),
}


def check_shape(topology: str) -> tuple[str, str]:
    """Splits `v5e:4x4` into (kind, shape); raises InputError with the known shapes if the shape is unknown."""
    kind, _, shape = topology.partition(":")
    if shape not in SHAPES[kind]:
        raise InputError(f"--topology={topology} is unknown; known shapes of {kind}: {', '.join(SHAPES[kind])}")
    return kind, shape


def open_tpus(topology: str, slices: int) -> Target:
    """Returns the chips of `slices` slices of a topology, without looking for a TPU.

    Raises InputError if the topology is unknown or libtpu is missing.
    """
    kind, shape = check_shape(topology)
    if not (importlib.util.find_spec("libtpu") or os.environ.get("TPU_LIBRARY_PATH")):
        raise InputError(f'the compiler for TPUs is missing; install it with: pip install "{LIBTPU}"')
    silence_libtpu()
    # One device per chip: v4 joins its two cores only on request, the other chips always.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    if slices > 1:
        options["num_slices"] = slices
    try:
        described = topologies.get_topology_desc(topology, "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f'libtpu cannot describe {topology}: {reason}; try: pip install "{LIBTPU}"') from error
    devices = described.devices
    return Target(CHIPS[kind], devices, int(CHIPS[kind].memory), len(devices) // slices, packages=("libtpu",))


def larger_topology(topology: str) -> str:
    """Returns the topology with the next larger shape, "" for the largest shape."""
    kind, shape = check_shape(topology)
    larger = SHAPES[kind][SHAPES[kind].index(shape) + 1 :]
    return f"{kind}:{larger[0]}" if larger else ""


def silence_libtpu() -> None:
    """Stops libtpu from querying the network for the TPU type, from locking the machine and from writing logs."""
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")  # any valid type
    os.environ.setdefault("TPU_LOG_DIR", "disabled")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")

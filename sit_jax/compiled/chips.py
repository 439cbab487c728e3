"""The devices that a plan can be made for: TPU slices that need not be there, and the CPU of this machine."""

import importlib.util
import os
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from sit_jax.errors import InputError

GIB = 2**30
LIBTPU = "libtpu==0.0.42.*"  # what jax 0.10.2 asks for; also in requirements-plan.txt
FLAT = ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")
CUBIC = ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4", "4x4x8", "4x8x8", "8x8x8", "8x8x16", "8x16x16", "16x16x16")


class Chip(NamedTuple):
    """What one chip has; None where it is not known."""

    name: str
    memory: float  # bytes
    flops: float | None = None  # a second, bfloat16 with float32 sums
    memory_bandwidth: float | None = None  # bytes a second
    links: float | None = None  # bytes a second that it sends to its neighbours, all links together
    network: float | None = None  # bytes a second that it sends to other slices
    topologies: tuple[str, ...] = ()


# From the pages "TPU v4", "TPU v5e", "TPU v5p" and "TPU v6e" of https://docs.cloud.google.com/tpu/docs, November 2026.
# They give the links as the sum of both directions, the network of v5e and v6e for a host of 8 chips (2 x 100 Gbit/s)
# or for a pod of 256 (25.6 Tbit/s). For v4 they give no links and no network: 6 links of 50 GB/s in each direction as
# in arXiv 2304.01433, and the network of v5p.
CHIPS = {
    "v4": Chip("TPU v4", 32 * GIB, 275e12, 1200e9, 300e9, 6.25e9, CUBIC),
    "v5e": Chip("TPU v5e", 16 * GIB, 197e12, 819e9, 200e9, 3.125e9, FLAT),
    "v5p": Chip("TPU v5p", 95 * GIB, 459e12, 2765e9, 600e9, 6.25e9, (*CUBIC, "16x16x24")),
    "v6e": Chip("TPU v6e", 32 * GIB, 918e12, 1638e9, 400e9, 12.5e9, FLAT),
}


def parse_topology(topology: str) -> tuple[str, str]:
    """Splits `v5e:4x4` or `cpu:8`; raises InputError for one that is not known, with those that are."""
    kind, _, shape = topology.partition(":")
    if kind == "cpu":
        if not shape.isdecimal() or not 1 <= int(shape) <= 4096:
            raise InputError(f"--topology={topology} must be cpu:N with N devices from 1 to 4096, such as cpu:8")
    elif kind not in CHIPS:
        raise InputError(
            f"--topology={topology} is unknown; known: {', '.join(CHIPS)} with a shape, such as v5e:4x4, and cpu:N"
        )
    elif shape not in CHIPS[kind].topologies:
        raise InputError(
            f"--topology={topology} is unknown; known shapes of {kind}: {', '.join(CHIPS[kind].topologies)}"
        )
    return kind, shape


def open_devices(topology: str, slices: int) -> tuple[Chip, list[jax.Device]]:
    """Returns the chip and all devices of `slices` slices of a topology, without looking for a TPU.

    To be called before JAX starts its devices. Raises InputError if the topology is unknown or libtpu is missing.
    """
    kind, shape = parse_topology(topology)
    jax.config.update("jax_platforms", "cpu")
    if kind == "cpu":
        jax.config.update("jax_num_cpu_devices", int(shape))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / int(shape)
        return Chip("CPU", memory), jax.devices()
    if not (importlib.util.find_spec("libtpu") or os.environ.get("TPU_LIBRARY_PATH")):
        raise InputError(f'the compiler for TPUs is missing; install it with: pip install "{LIBTPU}"')
    silence_libtpu()
    # One device a chip: v4 joins its two cores only when asked to, the others always.
    options: dict[str, Any] = {"chip_config_name": "megacore"} if kind == "v4" else {}
    if shape == "1x1":
        options["chips_per_host_bounds"] = (1, 1, 1)
    if slices > 1:
        options["num_slices"] = slices
    try:
        described = topologies.get_topology_desc(f"{kind}:{shape}", "tpu", **options)
    except jax.errors.JaxRuntimeError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f'libtpu cannot describe {topology}: {reason}; try: pip install "{LIBTPU}"') from error
    return CHIPS[kind], described.devices


def silence_libtpu() -> None:
    """Keeps libtpu from asking the network which TPU it runs on, from locking the machine, and from writing logs."""
    os.environ.update(TPU_SKIP_MDS_QUERY="1", ALLOW_MULTIPLE_LIBTPU_LOAD="1")
    os.environ.setdefault("TPU_WORKER_HOSTNAMES", "localhost")
    os.environ.setdefault("TPU_ACCELERATOR_TYPE", "v5litepod-4")  # any valid one
    os.environ.setdefault("TPU_LOG_DIR", "disabled")
    os.environ.setdefault("TPU_MIN_LOG_LEVEL", "3")

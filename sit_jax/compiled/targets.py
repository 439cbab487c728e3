"""From the name of a topology to its devices: absent TPUs and GPUs, and the CPU of this machine."""

import os

import jax

from sit_jax.common.errors import InputError
from sit_jax.compiled import gpus, tpus
from sit_jax.compiled.chips import Chip, Target

CPU = "cpu"


def check_topology(topology: str) -> str:
    """Returns the kind of device in `v5e:4x4`, `h100:8` or `cpu:8`; raises InputError if the topology is unknown."""
    kind, _, shape = topology.partition(":")
    if kind == CPU:
        if not shape.isdecimal() or not 1 <= int(shape) <= 4096:
            raise InputError(f"--topology={topology} must be cpu:N with N devices from 1 to 4096, such as cpu:8")
    elif kind in tpus.CHIPS:
        tpus.check_shape(topology)
    elif kind in gpus.CHIPS:
        gpus.parse_shape(topology)
    else:
        raise InputError(
            f"--topology={topology} is unknown; known: {', '.join(tpus.CHIPS)} with a shape, such as v5e:4x4, "
            f"{', '.join(gpus.CHIPS)} with a number, such as h100:8, and cpu:N"
        )
    return kind


def open_target(topology: str, slices: int) -> Target:
    """Returns the devices of a topology, for TPUs of `slices` slices, without looking for an accelerator.

    Call it before JAX starts its devices. Raises InputError if the topology is unknown or its compiler is missing.
    """
    kind = check_topology(topology)
    jax.config.update("jax_platforms", "cpu")
    if kind == CPU:
        return _open_cpu(int(topology.partition(":")[2]))
    return tpus.open_tpus(topology, slices) if kind in tpus.CHIPS else gpus.open_gpus(topology)


def _open_cpu(devices: int) -> Target:
    jax.config.update("jax_num_cpu_devices", devices)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // devices
    return Target(Chip("CPU", memory), jax.devices(), memory, devices)


def larger_topology(topology: str) -> str:
    """Returns the next larger topology of the same kind, "" if there is none."""
    kind = topology.partition(":")[0]
    if kind in gpus.CHIPS:
        return gpus.larger_topology(topology)
    return tpus.larger_topology(topology) if kind in tpus.CHIPS else ""

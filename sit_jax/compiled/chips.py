"""What a plan knows of the devices that it is made for."""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

GIB = 2**30
NOTHING: Mapping[str, Any] = types.MappingProxyType({})


class Chip(NamedTuple):
    """What one chip or GPU has; None where it is not known."""

    name: str
    memory: float  # bytes
    flops: float | None = None  # a second, bfloat16 with float32 sums
    memory_bandwidth: float | None = None  # bytes a second
    links: float | None = None  # bytes a second that it sends to its neighbours, all links together
    network: float | None = None  # bytes a second that it sends to other slices or hosts
    passes: Mapping[str, float] = NOTHING  # how many times the time of a bfloat16 product a float32 one takes, by
    # its precision; 1 where it is left out


class Target(NamedTuple):
    """The devices of a topology."""

    chip: Chip
    devices: list[jax.Device]
    capacity: int  # bytes of a device's memory that JAX takes
    joined: int  # devices that fast links join: those of one TPU slice or host
    unit: str = "chip"  # what one device is called
    groups: str = "slices"  # what is joined by fast links is called
    packages: tuple[str, ...] = ()  # that compile for it
    options: Mapping[str, Any] = NOTHING  # for the compiler

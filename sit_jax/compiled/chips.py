"""The data of the devices that a plan is made for."""

import types
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

GIB = 2**30
NOTHING: Mapping[str, Any] = types.MappingProxyType({})


class Chip(NamedTuple):
    """The data of one chip or GPU; None if unknown."""

    name: str
    memory: float  # bytes
    flops: float | None = None  # per second, bfloat16 with float32 sums
    memory_bandwidth: float | None = None  # bytes per second
    links: float | None = None  # bytes per second sent to neighbours, over all links together
    network: float | None = None  # bytes per second sent to other slices or hosts
    passes: Mapping[str, float] = NOTHING  # time of a float32 product relative to bfloat16, by precision; else 1


class Target(NamedTuple):
    """The devices of a topology."""

    chip: Chip
    devices: list[jax.Device]
    capacity: int  # bytes of a device's memory available to JAX
    joined: int  # devices joined by fast links: one TPU slice or one host
    unit: str = "chip"  # the word for one device
    groups: str = "slices"  # the word for groups joined by fast links
    packages: tuple[str, ...] = ()  # packages that contain its compiler
    options: Mapping[str, Any] = NOTHING  # compiler options

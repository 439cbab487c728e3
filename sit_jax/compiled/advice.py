"""Advice for a step that does not fit."""

import math
from collections.abc import Mapping

import ml_collections

from sit_jax.compiled.gpus import FRACTION_NAMES, MOST
from sit_jax.compiled.targets import larger_topology
from sit_jax.config import checks


def advice(
    config: ml_collections.ConfigDict, mesh_shape: Mapping[str, int], memory: Mapping[str, int], topology: str
) -> list[str]:
    """Returns flags and settings that may make a step fit, the cheapest first; each is an alternative to the others."""
    chips = mesh_shape["slice"] * mesh_shape["data"] * mesh_shape["fsdp"]
    activations = [] if config.model.remat else ["--config.model.remat"]
    activations += [f"--config.microbatches={n}" for n in _more_microbatches(config, chips)[:1]]
    if config.batch_size // 2 % chips == 0 and config.batch_size > chips:
        activations.append(f"--config.batch_size={config.batch_size // 2}")
    shard = _more_shards(mesh_shape, memory)
    larger = larger_topology(topology)
    state_first = _state(memory) > memory["capacity"] / 4
    return [
        *_more_of_the_memory(memory),
        *(shard + activations if state_first else activations + shard),
        *([f"--topology={larger}"] if larger else []),
    ]


def _more_of_the_memory(memory: Mapping[str, int]) -> list[str]:
    """Returns the setting that lets JAX take more of a GPU's memory, if this suffices."""
    enough = memory["capacity"] < memory.get("total", math.inf) <= MOST * memory["whole"]
    return [f"{FRACTION_NAMES[-1]}={MOST}"] if enough else []


def _state(memory: Mapping[str, int]) -> int:
    return memory["parameters"] + memory["optimizer"] + memory["other_state"]


def _more_shards(mesh_shape: Mapping[str, int], memory: Mapping[str, int]) -> list[str]:
    """Returns the flag that shards the state as far as a slice allows, if this can save the missing memory."""
    ways = mesh_shape["data"]
    missing = memory.get("total", memory.get("needed", 0)) - memory.get("available", memory["capacity"])
    if ways == 1 or _state(memory) * (1 - 1 / ways) < missing:
        return []
    return [f"--config.mesh.fsdp={mesh_shape['fsdp'] * ways}"]


def _more_microbatches(config: ml_collections.ConfigDict, chips: int) -> list[int]:
    possible = checks.possible_microbatches(config.batch_size, chips)
    return [n for n in (config.microbatches * 2**i for i in range(1, 8)) if n in possible]

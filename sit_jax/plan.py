"""Tells memory and time of a step on another device; `sit-jax plan` is `python -m sit_jax.plan`.

  sit-jax plan --config=folder --topology=cpu:2
  sit-jax plan --config=stl10:paper --topology=h100:8

Compiles the training step for TPUs or GPUs, which this machine need not have, or for N devices of this CPU
(`--topology=cpu:8`). Reports memory, computation and communication of one device, and the shortest possible step time.
Reads no data. Exit code 0: the step fits into memory; 1: it does not fit.
"""

import importlib.metadata
import pathlib
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
import ml_collections
from absl import flags
from jax.sharding import Mesh

from sit_jax.common import commands, errors
from sit_jax.common.errors import InputError
from sit_jax.common.files import write_json
from sit_jax.common.layout import layout_of
from sit_jax.common.memory import out_of_memory
from sit_jax.compiled import collectives, costs, hlo, tables
from sit_jax.compiled.advice import advice
from sit_jax.compiled.chips import Target
from sit_jax.compiled.gpus import INSTALL
from sit_jax.compiled.kernels import compiled_flops, find_kernels, matrix_flops, memory_traffic
from sit_jax.compiled.memory import argument_memory, compiled_memory, largest_batch
from sit_jax.compiled.roofline import lower_bound, roofline
from sit_jax.compiled.targets import CPU, check_topology, open_target
from sit_jax.config import checks, cli, machine, resolve
from sit_jax.parallel.mesh import make_mesh
from sit_jax.train.state import TrainState, abstract_state, make_training
from sit_jax.train.step import abstract_batch, compile_steps
from sit_jax.weights.start import follow

TOPOLOGY = """v4, v5e, v5p or v6e with a shape, such as v5e:4x4; h100, h200, a100, l4 or rtx4090 with the GPUs of one
host, such as h100:8, or with hosts x GPUs of each host, such as h100:4x8; or cpu:N.
--config.mesh.slices=N plans N TPU slices of that shape."""
NUM_EXAMPLES = 1_000_000  # only the learning-rate schedule depends on it


def make_flags(argv: list[str]) -> flags.FlagValues:
    """Returns the flags of the command, with `--config.<key>=value` as in `argv`."""
    values = cli.make_config_flags(argv)
    cli.add_out_flag(values)
    flags.DEFINE_string("topology", None, TOPOLOGY, flag_values=values)
    return values


def parse_flags(argv: list[str]) -> tuple[ml_collections.ConfigDict, str, str | None]:
    """Returns (configuration, topology, file to write); raises InputError if the command line is wrong."""
    values, config = parse(argv)
    if config.machine == "auto":
        is_cpu = check_topology(values.topology) == CPU
        recipe, what = ("laptop", "no accelerator") if is_cpu else ("gpu", "an accelerator")
        reason = f"because {values.topology} is {what}"
        config = machine.take(recipe, reason, lambda added: parse(machine.with_argument(argv, added))[1])
    return config, values.topology, values.out


def parse(argv: list[str]) -> tuple[flags.FlagValues, ml_collections.ConfigDict]:
    """Returns the parsed flags and the configuration."""
    values = make_flags(argv)
    return values, cli.parse_config(values, argv, ("topology",), __doc__ or "")


def make_plan(config: ml_collections.ConfigDict, topology: str) -> dict[str, Any]:
    """Returns the plan of a step on a topology as plain JSON values; see `sit_jax.compiled.tables`.

    Call it before JAX starts its devices. Raises InputError if the topology is unknown, or if the configuration cannot
    run on it.
    """
    if check_topology(topology) != CPU:  # programs for other machines cannot be read back from the cache
        jax.config.update("jax_enable_compilation_cache", False)
    target = open_target(topology, config.mesh.slices or 1)
    config, _ = follow(config, None)
    config.data.source = config.data.source or "not read"
    checks.check_config(config, len(target.devices), target.devices[0])
    config = resolve.resolve(config, NUM_EXAMPLES, target.devices[0])
    mesh = make_mesh(**config.mesh, devices=target.devices)
    with jax.set_mesh(mesh):
        training = make_training(config)
        abstract, batch = abstract_state(config, training, mesh), abstract_batch(config, mesh)
        step: Any = compile_steps(training, config, abstract, mesh)[0]
        print(f"compiling for {mesh.size} x {target.chip.name}; takes a minute or two", flush=True)
        begin = time.perf_counter()
        options = dict(target.options)
        compiled, reason = compile_or_say_why(lambda: step.lower(abstract, batch).compile(compiler_options=options))
    plan = describe(config, topology, target, mesh) | {"compile_seconds": round(time.perf_counter() - begin, 1)}
    memory = {"whole": int(target.chip.memory), "capacity": target.capacity} | argument_memory(abstract, batch)
    if compiled is None:
        memory |= out_of_memory(reason)
    else:
        memory |= compiled_memory(compiled, memory)
        plan |= {"largest_batch": largest_batch(memory, config, mesh.size)}
        plan |= measure(compiled, config, target, mesh, expected_elements(abstract, config, mesh))
    fits = compiled is not None and memory["total"] <= target.capacity
    todo = [] if fits else advice(config, mesh.shape, memory, topology)
    return plan | {"memory": memory, "fits": fits, "advice": todo}


def compile_or_say_why(compile_: Callable[[], Any]) -> tuple[Any, str]:
    """Returns (the compiled program, ""), or (None, the compiler's message) if the chip has too little memory.

    Raises InputError if cuDNN is missing; no earlier check looks for it.
    """
    try:
        return compile_(), ""
    except RuntimeError as error:
        if "cuDNN not found" in str(error):
            raise InputError(f"cuDNN is missing; install it with: {INSTALL}") from error
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return None, str(error)


def describe(config: ml_collections.ConfigDict, topology: str, target: Target, mesh: Mesh) -> dict[str, Any]:
    """Returns the compiled setup and the versions of the packages."""
    model, names = config.model, {"jax", "jaxlib", *target.packages}
    return {
        "topology": topology,
        "chip": target.chip.name,
        "unit": target.unit,
        "groups": target.groups,
        "chips": mesh.size,
        "mesh": dict(mesh.shape),
        "model": f"{model.size}/{model.patch_size}, {model.image_size} px",
        "batch_size": config.batch_size,
        "microbatches": config.microbatches,
        "remat": model.remat,
        "unroll": model.unroll,
        "attention": model.attention,
        "dtype": config.dtype,
        "versions": {name: importlib.metadata.version(name) for name in sorted(names)},
    }


def expected_elements(abstract: TrainState, config: ml_collections.ConfigDict, mesh: Mesh) -> set[int]:
    """Returns the element counts that collectives may move: parameters and embeddings, whole or in parts."""
    whole = {leaf.size for leaf in jax.tree.leaves(abstract.params)}
    blocks = jax.tree.leaves(abstract.params["model"]["encoder"]["blocks"])
    layers = {leaf.size // leaf.shape[0] for leaf in blocks}
    embeddings = {config.views.count * config.batch_size * config.model.embedding_size}
    parts = [n for n in range(1, mesh.size + 1) if mesh.size % n == 0]
    return {size // n for size in whole | layers | embeddings for n in parts}


def measure(
    compiled: Any, config: ml_collections.ConfigDict, target: Target, mesh: Mesh, expected: set[int]
) -> dict[str, Any]:
    """Returns the work and communication of one device in a step, and a lower bound of the time."""
    chip, program = target.chip, hlo.parse(compiled.as_text())
    found = collectives.merge(collectives.find_collectives(program, mesh.shape, target.joined))
    kernels = find_kernels(program, chip.passes)
    sides = (config.data.image_size, config.model.image_size)
    images = config.batch_size // mesh.size * layout_of(config.data).size(sides[0])
    shapes: set[tuple[int, ...]] = {(side, side, config.data.channels) for side in sides}
    work: dict[str, Any] = {
        "model_flops": costs.model_flops(config),
        "compiled_flops_per_chip": compiled_flops(kernels),
        "matrix_flops_per_chip": matrix_flops(kernels),
        "memory_bytes_per_chip": memory_traffic(kernels),
        "link_bytes_per_chip": sum(one.sent_in_slice for one in found),
        "network_bytes_per_chip": sum(one.sent_across for one in found),
        "loops_counted_once": program.unknown_loops(),
    }
    return {
        "work": work,
        "roofline": roofline(program, kernels, chip, work, mesh.size, config.batch_size),
        "bound": lower_bound(work, chip, config.batch_size),
        "collectives": [
            tables.collective_json(one, collectives.suspicions(one, images, shapes, expected)) for one in found
        ],
    }


def main(argv: list[str]) -> int:
    """Runs the command and returns its exit code: 0 fits, 1 does not fit, 2 wrong input."""
    fits = True

    def command(argv: list[str]) -> bool:
        nonlocal fits
        config, topology, out = parse_flags(argv)
        plan = make_plan(config, topology)
        fits = plan["fits"]
        print(tables.text(plan))
        if out:
            write_json(pathlib.Path(out), plan)
        return True

    code = commands.run(command, argv, resumes=False)
    return errors.FAILED if code == errors.DONE and not fits else code


if __name__ == "__main__":
    commands.end(main(sys.argv))

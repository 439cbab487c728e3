"""Memory, checked before anything long: decoded images against the host, the compiled step against its device."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import ml_collections
from jax.sharding import Mesh

from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.layout import layout_of
from sit_jax.common.memory import available_bytes, gib, is_shortage, out_of_memory, resident_bytes
from sit_jax.config.checks import possible_microbatches
from sit_jax.data import Records
from sit_jax.parallel.hosts import least
from sit_jax.parallel.mesh import chip_bytes
from sit_jax.train.pace import Stopwatch
from sit_jax.train.state import abstract_state, make_training
from sit_jax.train.step import abstract_batch, compile_steps

HOST_SHARE = 0.95  # of the free host memory: the process itself still grows a little
GROWTH = 2**28  # bytes that the evaluation and its programs add to the process: measured, of a small model
SMALLER = "a smaller --config.batch_size, or a smaller model or image (--config=FILE:variant=XS/8,res=64)"


class Compiled(NamedTuple):
    """A compiled training step of a configuration, the bytes that it needs on one device, and how long it took."""

    config: ml_collections.ConfigDict
    step: Callable  # if the compiler itself ran out of memory, the step not compiled
    needed: float
    seconds: float


def check_images(splits: Sequence[Records], config: ml_collections.ConfigDict, fit: bool) -> int:
    """Returns the bytes of host memory that the splits take once they are decoded; streamed ones take none.

    Call it before decoding. Raises InputError if they exceed the free host memory; `fit` streams them instead, and
    lowers `config.data.memory_limit`.
    """
    side, limit = config.data.image_size or config.model.image_size, config.data.memory_limit * 1e9
    sizes = [len(records) * layout_of(config.data).size(side) for records in splits]
    needed, free = sum(size for size in sizes if size <= limit), available_bytes()
    if needed <= HOST_SHARE * free:
        return needed
    what = f"the decoded images do not fit into host memory: {gib(needed)} GiB of {gib(free)}"
    if not fit:
        raise InputError(f"{what}; try --config.data.memory_limit=0, which streams them from disk, or --fit")
    config.data.memory_limit = 0.0
    say(f"{what}: streaming them from disk (data.memory_limit=0)")
    return 0


def compile_fitting(config: ml_collections.ConfigDict, mesh: Mesh, fit: bool, decoded: int) -> Compiled:
    """Compiles the training step of a resolved configuration; call it under `jax.set_mesh(mesh)`, before the state is.

    `decoded` are the bytes of host memory that images still to be decoded take; on a CPU the step does not get them. If
    the step does not fit, `fit` takes the smallest power of two more microbatches that do. Raises InputError if nothing
    fits, or, without `fit`, with the number of microbatches to try.
    """
    on_cpu = jax.default_backend() == "cpu"
    capacity = device_bytes() - (decoded / jax.local_device_count() if on_cpu else 0)
    compiled = compile_step(config, mesh)
    if compiled.needed <= capacity:
        resident = resident_bytes() + GROWTH + decoded if on_cpu else 0
        needed, free = gib(compiled.needed + resident), gib(capacity + resident)
        say(f"memory: the run needs about {needed} GiB, and {free} GiB are free")
        return compiled
    what = f"the step does not fit into memory: {gib(compiled.needed)} GiB of {gib(capacity)}"
    say(f"{what}; looking for what fits")
    smaller = find_smaller(compiled, mesh, capacity)
    if smaller is None:
        raise InputError(f"{what}, and no number of microbatches fits; try --config.model.remat, {SMALLER}")
    remedy, needed = f"microbatches={smaller.config.microbatches}", f"{gib(smaller.needed)} GiB"
    if not fit:
        raise InputError(f"{what}; try --config.{remedy} ({needed}), or --fit, which sets it")
    say(f"--fit sets {remedy} ({needed}): the same losses and gradients, up to rounding")
    return smaller


def device_bytes() -> float:
    """Returns the memory for the step on one device: the least over all hosts."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in jax.local_devices()]
    known = [limit for limit in limits if limit]
    if known:
        return least(min(known))
    if jax.default_backend() != "cpu":  # a device that does not say how much it has
        return math.inf
    return least(HOST_SHARE * available_bytes() / jax.local_device_count())


def compile_step(config: ml_collections.ConfigDict, mesh: Mesh) -> Compiled:
    """Compiles the training step of a resolved configuration and measures its memory."""
    watch, training = Stopwatch(), make_training(config)
    abstract = abstract_state(config, training, mesh)
    step: Any = compile_steps(training, config, abstract, mesh)[0]
    try:
        compiled = step.lower(abstract, abstract_batch(config, mesh)).compile()
    except RuntimeError as error:
        if not is_shortage(error):
            raise
        return Compiled(config, step, out_of_memory(str(error)).get("needed", math.inf), watch.seconds())
    return Compiled(config, compiled, program_bytes(compiled), watch.seconds())


def program_bytes(compiled: Any) -> int:
    """Returns the bytes per device that a compiled program needs with its arguments."""
    stats = compiled.memory_analysis()
    if stats is None:  # a device whose compiler does not tell
        return 0
    beyond = stats.output_size_in_bytes - stats.alias_size_in_bytes + stats.temp_size_in_bytes
    return stats.argument_size_in_bytes + beyond + stats.generated_code_size_in_bytes


def find_smaller(compiled: Compiled, mesh: Mesh, capacity: float) -> Compiled | None:
    """Returns the step with the smallest power of two more microbatches that fits into `capacity`; None without any.

    A number that cannot fit is not compiled: state and one copy of the gradients stay, the rest shrinks at best with
    the number of microbatches.
    """
    now = compiled.config.microbatches
    abstract = abstract_state(compiled.config, make_training(compiled.config), mesh)
    fixed = chip_bytes(abstract) + chip_bytes(abstract.params)
    possible = possible_microbatches(compiled.config.batch_size, mesh.size)
    for factor in (2**i for i in range(1, 12)):
        growing = 0 if math.isinf(compiled.needed) else max(compiled.needed - fixed, 0) / factor
        if now * factor not in possible or fixed + growing > capacity:
            continue
        config = ml_collections.ConfigDict(compiled.config.to_dict())
        config.microbatches = now * factor
        smaller = compile_step(config, mesh)
        if smaller.needed <= capacity:
            return smaller
    return None


def next_remedy(config: ml_collections.ConfigDict, devices: int) -> str:
    """Returns what to do after memory ran out in mid-training: what a resumed run may change comes first."""
    resume, anew = "to resume, run the same command with --config.", f"start in another --workdir with {SMALLER}"
    more = [n for n in possible_microbatches(config.batch_size, devices) if n >= 2 * config.microbatches]
    if more:
        return f"{resume}microbatches={more[0]}"
    return anew if config.model.remat else f"{resume}model.remat; if it runs out again, {anew}"

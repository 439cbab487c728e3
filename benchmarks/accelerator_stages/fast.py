"""Stage `fast`: device ceilings, rates of four models and their variants, and rates with reading."""

import pathlib
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple

import jax
import ml_collections

from benchmarks.accelerator_stages import pictures
from benchmarks.accelerator_stages.machine import add_machine
from benchmarks.accelerator_stages.stage import Skip, Stage
from benchmarks.images import BATCHES
from sit_jax.config import checks, resolve
from sit_jax.config.presets import set_variant
from sit_jax.config.schema import defaults
from sit_jax.data import load_images, open_source
from sit_jax.timing import machine
from sit_jax.timing.clock import measure
from sit_jax.timing.images import RandomImages
from sit_jax.timing.step import Step

GIB = 2**30
COMPILERS = 4  # programs compiled concurrently; nothing else runs on the device while they are timed
LAST_SECONDS = 15.0  # before the end of a stage: compiled programs are timed even if others still compile
STEPS, REPEATS = 5, 5  # steps in flight per measurement, and number of measurements
PLAIN, SCAN = {"model.attention": "xla"}, {"model.unroll": False}


class Case(NamedTuple):
    """A step to time."""

    variant: str
    size: int  # image side in pixels
    batch: int
    changes: Mapping[str, Any] = {}

    @property
    def name(self) -> str:
        """Returns the name in the report."""
        changes = ", ".join(f"{key.rpartition('.')[2]}={value}" for key, value in self.changes.items())
        return f"{self.variant}, {self.size} px, batch {self.batch}, {changes or 'defaults'}"


# Most valuable first. A group is compiled together, then timed.
DEFAULTS = (Case("B/16", 224, 256), Case("S/16", 224, 512), Case("S/4", 32, 512), Case("Ti/4", 32, 512))
VARIANTS = (
    (
        *(Case("B/16", 224, 256, PLAIN), Case("S/16", 224, 512, PLAIN)),
        *(Case("S/4", 32, 512, PLAIN), Case("B/16", 224, 256, SCAN)),
    ),
    (
        *(Case("S/4", 32, 512, SCAN), Case("S/16", 224, 512, SCAN)),
        *(Case("Ti/4", 32, 512, PLAIN), Case("Ti/4", 32, 512, SCAN)),
    ),
    (Case("B/16", 224, 512), Case("S/16", 224, 256), Case("S/4", 32, 256), Case("Ti/4", 32, 256)),
)
TINY = (Case("mu/16", 32, 16), Case("mu/8", 32, 16))
TINY_VARIANTS = ((Case("mu/8", 32, 16, PLAIN), Case("mu/8", 32, 16, SCAN)),)
# Trainings with reading: (index in DEFAULTS, images).
READING = ((2, "CIFAR-10 in memory"), (1, "JPEGs of 500 x 375, streamed"), (0, "JPEGs of 500 x 375, streamed"))
TINY_READING = ((1, "CIFAR-10 in memory"), (0, "JPEGs of 500 x 375, streamed"))


def main(stage: Stage) -> None:
    """Measures the most valuable cases first, as far as the time allows."""
    add_machine(stage)
    dtype = make_config(TINY[0]).model.products  # as in sit_jax.bench
    ceiling: dict[str, float] = {}

    def ceilings() -> dict[str, Any]:
        ceiling.update(machine.ceilings(dtype, 10))
        return {"value": ceiling["flops_per_second"] / 1e12, "unit": f"TFLOP/s of a large product in {dtype}"}

    if stage.attempt("ceilings", "matrix product", ceilings):
        stage.add("ceilings", "copy", value=ceiling["bytes_per_second"] / 1e9, unit="GB/s, read and written")
    begin = time.perf_counter()
    steps = time_group(stage, TINY if stage.dry_run else DEFAULTS, ceiling, needs=0.0)
    needs = time.perf_counter() - begin  # estimate for every other group
    for index, images in TINY_READING if stage.dry_run else READING:
        time_reading(stage, steps.get(index), images)
    steps.clear()  # frees the training states
    for group in TINY_VARIANTS if stage.dry_run else VARIANTS:
        time_group(stage, group, ceiling, needs)


def open_config(case: Case) -> ml_collections.ConfigDict:
    """Returns the configuration of a case: the defaults with random images."""
    config = defaults()
    set_variant(config, case.variant)
    config.model.image_size, config.batch_size = case.size, case.batch
    config.update_from_flattened_dict(case.changes)
    config.data.source = "random"
    return config


def make_config(case: Case) -> ml_collections.ConfigDict:
    """Returns the resolved configuration of a case."""
    config = open_config(case)
    checks.check_config(config, jax.device_count())
    # The same number of images as in the comparison with PyTorch, which then finds this program in the compilation
    # cache.
    return resolve.resolve(config, BATCHES * case.batch)


class Compiled(NamedTuple):
    """A step that is ready to run, and the figures of its compilation."""

    step: Step
    figures: Mapping[str, Any]


def compile_case(case: Case) -> Compiled:
    """Compiles a case."""
    config = make_config(case)
    step = Step(config, RandomImages(case.batch, case.size))
    with jax.set_mesh(step.mesh):
        return Compiled(step, step.compile())


def time_group(stage: Stage, cases: tuple[Case, ...], ceiling: Mapping[str, float], needs: float) -> dict[int, Step]:
    """Compiles cases concurrently and times them one by one; returns the steps that ran, by index."""
    if stage.left() < needs:
        for case in cases:
            stage.attempt("fast", case.name, dict, needs)  # adds the skipped rows
        return {}
    ready: dict[int, Step] = {}
    threads = ThreadPoolExecutor(COMPILERS)
    futures = [threads.submit(compile_case, case) for case in cases]
    late = wait(futures, max(0.0, stage.left() - LAST_SECONDS)).not_done
    threads.shutdown(wait=False, cancel_futures=True)
    for index, (case, future) in enumerate(zip(cases, futures, strict=True)):

        def work(case: Case = case, future: Any = future, index: int = index) -> dict[str, Any]:
            if future in late:
                raise Skip("was not compiled in time")
            compiled = future.result()
            figures = time_steps(compiled, case.batch, ceiling)
            ready[index] = compiled.step
            return figures | ({"note": "others were still compiling"} if late else {})

        stage.attempt("fast", case.name, work, needs=2.0)
    return ready


def time_steps(compiled: Compiled, batch: int, ceiling: Mapping[str, float]) -> dict[str, Any]:
    """Returns the figures of a row, measured with several steps in flight, as in training."""
    step, figures = compiled
    with jax.set_mesh(step.mesh):
        times = measure({"steps": lambda: [step.train() for _ in range(STEPS)]}, REPEATS)["steps"]
    seconds, peak = times["median"] / STEPS, machine.peak_device_bytes()
    return {
        "images_per_second": batch / seconds,
        "milliseconds": 1e3 * seconds,
        "spread": [1e3 * times["least"] / STEPS, 1e3 * times["most"] / STEPS],
        "mfu": figures["model_flops"] / seconds / ceiling["flops_per_second"] if ceiling else None,
        "model_flops": figures["model_flops"],
        "program_gib": figures["program_bytes"] / GIB,
        "peak_gib": None if peak is None else peak / GIB,
        "compile_seconds": figures["trace_seconds"] + figures["compile_seconds"],
        "attention": step.config.model.attention,
        "unroll": step.config.model.unroll,
        "dtype": step.config.dtype,
    }


def time_reading(stage: Stage, step: Step | None, images: str) -> None:
    """Adds the rate of a step on batches read as in training."""

    def work() -> dict[str, Any]:
        if step is None:
            raise Skip("its step did not run")
        size = step.config.data.image_size
        if images.startswith("CIFAR"):
            source = pictures.cifar10(pathlib.Path(stage.data), stage.dry_run)
            step.source = load_images(open_source(source).pretrain, size)
        else:
            count = max(step.config.batch_size, 32 if stage.dry_run else 640)
            folder = pictures.jpegs(pathlib.Path(stage.work) / "jpegs", count)
            step.source = load_images(open_source(f"folder:{folder}").pretrain, size, memory_limit_gb=0.0)
        with jax.set_mesh(step.mesh):
            return step.time_reading(20)

    model = "" if step is None else f"{step.config.model.size}/{step.config.model.patch_size}, "
    stage.attempt("reading", f"{model}{images}", work, needs=5.0 if stage.dry_run else 15.0)

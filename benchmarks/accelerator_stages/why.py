"""Stage `why`: a trace of three steps, and the slowest kernels with their rooflines."""

import dataclasses
import pathlib
import warnings
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Any

import jax

from benchmarks.accelerator_stages.fast import Case, compile_case
from benchmarks.accelerator_stages.machine import add_machine, on_gpu
from benchmarks.accelerator_stages.stage import Skip, Stage, fresh
from sit_jax.compiled import causes, hlo, kernels
from sit_jax.timing import machine
from sit_jax.timing.clock import measure

CASE, TINY = Case("B/16", 224, 256), Case("mu/8", 32, 16)
STEPS, TOP = 3, 10
WHERE = 80  # the most characters of a source location in a row


@dataclasses.dataclass
class Work:
    """The least work of an instruction in all its runs of one step, and its purpose."""

    flops: int = 0
    bytes: int = 0
    cause: str = ""
    where: str = ""


def main(stage: Stage) -> None:
    """Traces the step and adds the results of the trace."""
    add_machine(stage)
    case, found = TINY if stage.dry_run else CASE, {}

    def compiled() -> dict[str, Any]:
        found["step"], figures = compile_case(case)
        with jax.set_mesh(found["step"].mesh):
            jax.block_until_ready(found["step"].train())
            time = measure({"step": found["step"].train}, 5)["step"]["median"]
        found["ceilings"] = machine.ceilings(found["step"].config.model.products, 5)  # as in sit_jax.bench
        return {"value": 1e3 * time, "unit": f"ms per step of {case.name}, without a trace", "compiled": figures}

    def traced() -> dict[str, Any]:
        folder = fresh(pathlib.Path(stage.work) / "trace")
        with jax.set_mesh(found["step"].mesh), jax.profiler.trace(str(folder)):
            jax.block_until_ready([found["step"].train() for _ in range(STEPS)])
        found["times"], found["calls"], found["names"] = read_trace(folder)
        if not found["times"]:
            raise Skip("the trace names no kernel with its instruction")
        total = sum(found["times"].values()) / STEPS
        return {"value": total / 1e6, "unit": "ms of kernels per step, concurrent kernels counted separately"}

    if not stage.attempt("trace", "step", compiled) or not stage.attempt("trace", "kernels", traced):
        return
    work: dict[str, Work] = {}

    def counted() -> dict[str, Any]:
        work.update(count(hlo.parse(found["step"].step.as_text())))
        known = sum(time for name, time in found["times"].items() if name in work)
        return {"value": known / sum(found["times"].values()), "unit": "of that time, from instructions of the program"}

    stage.attempt("trace", "joined with the program", counted)
    total = sum(found["times"].values())
    add_causes(stage, found, work)
    for name, time in found["times"].most_common(TOP):
        stage.attempt("kernels", name, lambda n=name, t=time: row(n, t, total, found, work.get(n)))


def count(program: hlo.Program) -> dict[str, Work]:
    """Returns the work of each kernel of the program, by the name of its instruction."""
    found: dict[str, Work] = defaultdict(Work)
    for kernel in kernels.find_kernels(program):
        work = found[kernel.instruction.name]
        work.flops += kernel.times * kernel.flops
        work.bytes += kernel.times * kernel.bytes
        work.cause = causes.cause(program, kernel)
        work.where = f"{program.source(kernel.instruction)} {hlo.operation(kernel.instruction)}".strip()
    return dict(found)


def row(name: str, time: float, total: float, found: dict[str, Any], work: Any) -> dict[str, Any]:
    """Returns the row of a kernel, per step; its roofline uses the measured ceilings."""
    figures = {
        "milliseconds": time / STEPS / 1e6,
        "share": time / total,
        "calls": found["calls"][name] / STEPS,
        "kernel": found["names"][name],
    }
    if work is None:
        return figures | {"where": "not an instruction of the program"}
    seconds = least_seconds(work, found["ceilings"])
    return figures | {
        "gflop": work.flops / 1e9,
        "megabytes": work.bytes / 1e6,
        "roofline_milliseconds": 1e3 * seconds,
        "times": figures["milliseconds"] / (1e3 * seconds) if seconds else None,
        "where": f"{work.cause}: {work.where[-WHERE:]}",
    }


def least_seconds(work: Work, ceilings: Mapping[str, float]) -> float:
    """Returns the roofline of a kernel: its time at the measured full speed of products or of the memory."""
    return max(work.flops / ceilings["flops_per_second"], work.bytes / ceilings["bytes_per_second"])


def add_causes(stage: Stage, found: Mapping[str, Any], work: Mapping[str, Work]) -> None:
    """Adds the time of all kernels of a step and the sum of their rooflines, by purpose."""
    measured: Counter[str] = Counter()
    roofline: Counter[str] = Counter()
    for name, time in found["times"].items():
        measured[work[name].cause if name in work else causes.UNNAMED] += time / STEPS / 1e6
    for kernel in work.values():
        roofline[kernel.cause] += 1e3 * least_seconds(kernel, found["ceilings"])
    for what, milliseconds in measured.most_common():
        figures = {"milliseconds": milliseconds, "share": milliseconds / measured.total()}
        stage.add("causes", what, **figures, roofline_milliseconds=roofline[what])


def read_trace(folder: pathlib.Path) -> tuple[Counter[str], Counter[str], dict[str, str]]:
    """Returns nanoseconds, number of events and kernel name of each instruction named in the trace.

    On a GPU, only its streams count; elsewhere, all threads of the host.
    """
    times: Counter[str] = Counter()
    calls: Counter[str] = Counter()
    names: dict[str, str] = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for path in folder.rglob("*.xplane.pb"):
            for plane in jax.profiler.ProfileData.from_file(str(path)).planes:
                for line in plane.lines:
                    if on_gpu() and not (plane.name.startswith("/device:GPU") and line.name.startswith("Stream")):
                        continue
                    for event in line.events:
                        # A kernel without an instruction, such as a copy, counts under its own name.
                        name = str(dict(event.stats).get("hlo_op") or (event.name if on_gpu() else ""))
                        if name:
                            times[name] += event.duration_ns
                            calls[name] += 1
                            names[name] = event.name
    return times, calls, names

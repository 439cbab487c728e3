"""Times programs in turns, so that other load on the machine affects all of them alike."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import jax


class Time(TypedDict):
    """Seconds of one run of a program: median, least and most over the repeats."""

    median: float
    least: float
    most: float


def measure(programs: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, Time]:
    """Runs each program once to warm up, then `repeats` times in turns."""
    for program in programs.values():
        jax.block_until_ready(program())
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(repeats):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program())
            seconds[name].append(time.perf_counter() - begin)
    return {
        name: Time(median=statistics.median(values), least=min(values), most=max(values))
        for name, values in seconds.items()
    }

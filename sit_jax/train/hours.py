"""--hours: measures a step, an evaluation and the start-up, and sets the length of the schedule."""

import contextlib
import math
import time
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from jax.sharding import Mesh

from sit_jax.common.console import format_seconds, say
from sit_jax.common.errors import InputError
from sit_jax.config.resolve import with_steps
from sit_jax.data import Batches
from sit_jax.parallel.hosts import from_first
from sit_jax.parallel.mesh import put_batch
from sit_jax.train.pace import Pace, Stopwatch, seconds_of_process
from sit_jax.train.run import Trainable

LEAST, MOST, SHARE = 3.0, 20.0, 0.03  # seconds of measured steps, and their share of the time asked for
SAVED_BYTES_PER_SECOND = 1e8
ENDING = 2.0  # seconds of the last save and of the end of the process
PAGE = 25.0  # seconds of the page at the end: mostly compilation and the map


class Silent:
    """Stands in for the writer of metrics while an evaluation is only timed."""

    def write_image(self, *_: object) -> None:
        """Writes nothing."""


def check_hours(hours: float | None, overrides: dict[str, object]) -> None:
    """Raises InputError if `hours` is not above 0, or if the length is also given in another way."""
    if hours is None:
        return
    if not hours > 0 or math.isinf(hours):
        raise InputError(f"--hours={hours} must be above 0, such as --hours=2")
    given = [name for name in ("steps", "examples", "epochs") if overrides.get(name) is not None]
    if given:
        raise InputError(f"--hours and --config.{given[0]} both set the length; keep one of them")


def for_measuring(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """Returns a resolved configuration with a length that no cache of compiled programs holds.

    The schedule is part of the program, so that the program for the length found is compiled anew. Its compilation
    takes as long as this one, provided that this one is no copy from the cache.
    """
    return with_steps(config, 10**8 + from_first(int(time.time()) % 10**8))


def choose_steps(
    hours: float,
    config: ml_collections.ConfigDict,
    trainable: Trainable,
    batches: Batches,
    mesh: Mesh,
    compile_seconds: float,
) -> int:
    """Returns the number of steps with which a run that starts now ends `hours` after the start of its process.

    `config` is resolved, with another number of steps. `compile_seconds` are those of one compilation of the training
    step, which is compiled anew for the number found. All hosts return the same number. Raises InputError if not a
    single step fits.
    """
    pace, state = Pace(config), trainable.init()
    pace.saving = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / SAVED_BYTES_PER_SECOND
    if trainable.evaluation is not None:
        watch = Stopwatch()
        trainable.evaluation(state, 0, Silent())  # type: ignore[arg-type]
        pace.evaluation = watch.without_compilation()
    with contextlib.closing(batches.iterate()) as stream:

        def next_batch() -> dict[str, jax.Array]:
            read = next(stream).items()
            return {name: put_batch(rows, batches.local, config.batch_size, mesh) for name, rows in read}

        pace.step = time_steps(hours, state, trainable.train_step, next_batch)
    passed = seconds_of_process() + compile_seconds + ENDING + (PAGE if config.eval.page else 0.0)
    steps = from_first(longest(pace, hours * 3600 - passed - pace.evaluation))
    if steps < 1:
        least = passed + 2 * pace.evaluation + pace.saving + pace.step
        raise InputError(
            f"--hours={hours:g} is too short: start-up, two evaluations and a step take {format_seconds(least)}; "
            f"give --hours={math.ceil(least / 36) / 100 + 0.01:.2f} or more"
        )
    epochs = steps * config.batch_size / config.data.num_examples
    say(
        f"--hours={hours:g}: {steps} steps, {epochs:.3g} epochs (a step takes {pace.step:.3g} s, "
        f"an evaluation {pace.evaluation:.3g} s)"
    )
    if epochs < 1:
        say("this is less than one pass over the images: a smaller model or image would learn more in this time")
    return steps


def time_steps(
    hours: float, state: object, train_step: Callable, next_batch: Callable[[], dict[str, jax.Array]]
) -> float:
    """Returns the mean seconds of a step, with its reading; all hosts run the same number of steps."""

    def run(count: int) -> float:
        nonlocal state
        watch = Stopwatch()
        for _ in range(count):
            state, metrics = train_step(state, next_batch())
            jax.block_until_ready(metrics)
        return watch.seconds() / count

    run(1)
    first = run(2)
    seconds = min(max(SHARE * hours * 3600, LEAST), MOST)
    return run(from_first(int(np.clip(seconds / first, 2, 10_000))))


def longest(pace: Pace, seconds: float) -> int:
    """Returns the largest number of steps whose steps, evaluations and saves after step 0 take at most `seconds`."""

    def total(steps: int) -> float:
        pace.config.steps = steps
        return pace.left(0)

    pace.config = ml_collections.ConfigDict(pace.config.to_dict())
    low, high = 0, max(int(seconds / pace.step), 0) + 1  # `low` fits, `high` does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) <= seconds else (low, middle)
    return low

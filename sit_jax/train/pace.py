"""How long a run still takes: from the times of its steps, evaluations and saves so far."""

import time

import jax
import ml_collections
import psutil

from sit_jax.common.console import format_seconds

FIRST = 3  # steps after the first that the first estimate measures
COMPILING = tuple(
    f"/jax/core/compile/{name}_duration" for name in ("jaxpr_trace", "jaxpr_to_mlir_module", "backend_compile")
)
_compiled = 0.0


def _listen(event: str, duration_secs: float, **_: str | int) -> None:
    global _compiled
    _compiled += duration_secs if event in COMPILING else 0.0


jax.monitoring.register_event_duration_secs_listener(_listen)


class Stopwatch:
    """Measures seconds from its making on, and those of them without compilation."""

    def __init__(self) -> None:
        self.start, self.compiled = time.perf_counter(), _compiled

    def seconds(self) -> float:
        """Returns the seconds until now."""
        return time.perf_counter() - self.start

    def without_compilation(self) -> float:
        """Returns the seconds until now without compilation; the next run of the same programs takes about as long."""
        return max(self.seconds() - (_compiled - self.compiled), 0.0)


class Pace:
    """The seconds of a step, an evaluation and a save of a run, and the time that the rest of the run takes."""

    def __init__(self, config: ml_collections.ConfigDict, evaluates: bool = True):
        self.config, self.evaluates = config, evaluates
        self.step = self.evaluation = self.saving = 0.0
        self.taken = 0  # steps in this process
        self.first = Stopwatch()

    def left(self, step: int) -> float:
        """Returns the seconds from the end of `step` updates to the end of the run."""
        rest = self.config.steps - step
        return rest * self.step + self.pauses(step)

    def pauses(self, step: int) -> float:
        """Returns the seconds of evaluations and saves after `step` updates."""
        evaluations = visits(step, self.config.steps, self.config.eval_every) if self.evaluates else 0
        saves = visits(step, self.config.steps, self.config.checkpoint_every)
        return evaluations * (self.evaluation + self.saving) + saves * self.saving

    def count(self, metrics: object) -> bool:
        """Counts a step that was started; tells whether the first estimate can be made now. Waits for two steps."""
        self.taken += 1
        if self.taken == 1:
            jax.block_until_ready(metrics)
            self.first = Stopwatch()
        if self.taken != 1 + FIRST:
            return False
        jax.block_until_ready(metrics)
        self.step = self.first.without_compilation() / FIRST
        return True

    def pause(self, seconds: float) -> None:
        """Excludes seconds that were no step from the first estimate."""
        self.first.start += seconds


def visits(step: int, steps: int, every: int) -> int:
    """Returns the number of multiples of `every` after `step` and before `steps`, and one more for the end."""
    return max((steps - 1) // every - step // every, 0) + 1


def seconds_of_process() -> float:
    """Returns the age of this process, start-up included."""
    return time.time() - psutil.Process().create_time()


def estimate_line(passed: float, left: float, start: int) -> str:
    """Returns the estimate of the whole time, or for a resumed run of the rest of it, with the time of the end."""
    text = f"about {format_seconds(left)} to go" if start else f"about {format_seconds(passed + left)} in all"
    end = time.localtime(time.time() + left)
    today = time.strftime("%F", end) == time.strftime("%F")
    return f"{text}, until {time.strftime('%H:%M' if today else '%a %d %b %H:%M', end)}"

"""The training loop: restores, then evaluates and saves if due, runs a step, and logs if due."""

import pathlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from sit_jax.common.console import live, say
from sit_jax.common.errors import InputError, NonFiniteError, ShortageError, StoreError
from sit_jax.common.memory import is_shortage
from sit_jax.data import Batches
from sit_jax.parallel.hosts import several
from sit_jax.parallel.mesh import put_batch
from sit_jax.parallel.stop import StopRequested, StopSignal
from sit_jax.train.checkpoint import Checkpoints
from sit_jax.train.lock import Lock
from sit_jax.train.metrics import Clock, MetricsWriter, evaluation_line, fetch_finite, progress_line
from sit_jax.train.pace import Pace, Stopwatch, estimate_line, seconds_of_process
from sit_jax.train.sessions import Session
from sit_jax.train.state import TrainState
from sit_jax.train.writers import Safe

IN_FLIGHT = 2  # maximum steps that the host runs ahead of the device
HOST_REMEDY = (  # if Python itself finds no memory, which no option of the step changes
    "close other programs, or stream the images with --config.data.memory_limit=0, and run the same command to resume"
)


class Trainable(NamedTuple):
    """The task-specific part of a run; the loop is the same for pre-training and for classifiers."""

    abstract: TrainState  # shapes, dtypes and shardings of the state
    init: Callable[[], TrainState]  # makes the state at step 0
    train_step: Callable[[TrainState, dict], tuple[TrainState, dict]]  # (state, batch) -> (state, metrics)
    evaluation: Callable[[TrainState, int, MetricsWriter], dict[str, float]] | None  # its `eval/` metrics
    losses: tuple[str, ...]  # the metrics shown next to `loss`
    remedy: str  # what to do after the memory of the device ran out
    is_last: bool  # whether the command ends with this run, so that its end can be foretold


class Run:
    """One training run: its state, checkpoints, metrics and loop."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        mesh: jax.sharding.Mesh,
        batches: Batches,
        trainable: Trainable,
        lock: Lock,
        others: Sequence[Safe] = (),
    ):
        self.config, self.batches, self.trainable, self.mesh = config, batches, trainable, mesh
        self.lock = lock
        self.checkpoints = Checkpoints(workdir, config.keep_latest, config.keep_best)
        restored = self.checkpoints.restore_latest(trainable.abstract)
        self.state, self.start = restored or (trainable.init(), 0)
        self.already_evaluated = restored is not None and self.checkpoints.was_evaluated(self.start)
        self.writer = MetricsWriter(workdir, self.start, self.already_evaluated, others)
        self.session = Session(workdir, self.start)
        self.clock, self.pace = Clock(), Pace(config, trainable.evaluation is not None)
        self.logged: dict[str, float] = {}  # the metrics of the last progress line
        self.pending: list[dict[str, jax.Array]] = []  # metrics of the steps since the last `check`

    def train(self) -> bool:
        """Runs to the end or to a stop signal, saves, and returns whether it reached the end."""
        stream = self.batches.iterate(self.start)
        if self.start < self.config.steps:
            self.session.write(self.start)
        ended = False
        with StopSignal() as stop:
            try:
                finished = self._steps(stream, stop)
                self.checkpoints.finish()
                if self.start < self.config.steps:
                    self.session.write(self.session.values["step"], ended=finished)
                ended = True
                return finished
            except (MemoryError, RuntimeError) as error:
                if not is_shortage(error) or several():
                    raise
                self.checkpoints.close()
                raise ShortageError(self._shortage(error)) from error
            except BaseException as error:
                # Finish the save in flight, unless it needs other hosts, which do not know of the error.
                if not several() or isinstance(error, NonFiniteError):
                    self.checkpoints.close()
                raise
            finally:
                self.writer.close(ended)
                stream.close()

    def _steps(self, stream: Iterator[dict[str, np.ndarray]], stop: StopSignal) -> bool:
        """Runs the steps; the order matters: a checkpoint contains nothing of the batch after it."""
        config = self.config
        for step in range(self.start, config.steps + 1):
            self.lock.check()
            last = step == config.steps
            stopping = stop.requested(step) and not last
            metrics = None
            if (last or step % config.eval_every == 0) and not stopping and not self.evaluated(step):
                metrics = self.evaluate(step)
            if step > self.start and (last or stopping or metrics or step % config.checkpoint_every == 0):
                self.save(step, metrics)
            if last or stopping:
                return last
            try:
                self._step(stream, stop)
            except StopRequested:  # while it waited for data
                if step > self.start and step != self.checkpoints.requested:
                    self.save(step, None)
                return False
            except (InputError, StoreError):  # an image cannot be read; other hosts do not know of it
                if not several() and step > self.start and step != self.checkpoints.requested:
                    self.save(step, None)
                raise
            if step == 0 or (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                self.log(step + 1)
            elif self.logged and live.possible() and live.due():
                live.show(self._progress(step + 1))
        raise AssertionError("the loop returns at the last step")

    def evaluated(self, step: int) -> bool:
        """Tells whether `step` needs no evaluation: there is none, or the resumed run had already done it."""
        return self.trainable.evaluation is None or (step == self.start and self.already_evaluated)

    def _step(self, stream: Iterator[dict[str, np.ndarray]], stop: StopSignal) -> None:
        """Takes the next batch and starts a step; waits only for an earlier step or for the compilation."""
        begin = time.perf_counter()
        with stop.interrupting():
            read = next(stream)
        batch = {name: self._put(rows) for name, rows in read.items()}
        self.clock.waited += time.perf_counter() - begin
        with jax.transfer_guard("disallow"):
            self.state, metrics = self.trainable.train_step(self.state, batch)
        self.pending.append(metrics)
        if self.clock.compiling:
            jax.block_until_ready(metrics)
            self.clock.restart()
        else:
            self.clock.steps += 1
        if len(self.pending) > IN_FLIGHT:
            jax.block_until_ready(self.pending[-IN_FLIGHT])
        if self.pace.count(metrics) and self.trainable.is_last:
            left = self.pace.left(self.start + self.pace.taken)
            say(estimate_line(seconds_of_process(), left, self.start))

    def _put(self, rows: np.ndarray) -> jax.Array:
        return put_batch(rows, self.batches.local, self.config.batch_size, self.mesh)

    def check(self, step: int) -> dict[str, float] | None:
        """Fetches the metrics of the steps up to `step`; raises NonFiniteError if one is not finite."""
        pending, self.pending = self.pending, []
        return fetch_finite(step - len(pending) + 1, pending, self.trainable.losses) if pending else None

    def log(self, step: int) -> None:
        """Writes and prints the metrics of the update that led to `step`."""
        metrics = {f"train/{name}": value for name, value in (self.check(step) or {}).items()}
        metrics |= self.clock.measure(self.config.batch_size)
        self.writer.write(step, self.epoch(step), metrics)
        self.session.write(step)
        if "time/images_per_second" in metrics:
            self.pace.step = self.config.batch_size / metrics["time/images_per_second"]
        self.logged = metrics
        if live.possible() and step < self.config.steps:
            live.show(self._progress(step))
        else:
            say(self._progress(step))

    def _progress(self, step: int) -> str:
        left = self.pace.left(step) if self.pace.step else None
        return progress_line(step, self.config.steps, self.trainable.losses, self.logged, self.epoch(step), left)

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluates the weights after `step` updates; writes and prints the metrics (see Evaluation)."""
        watch = self.drain()
        assert self.trainable.evaluation is not None
        metrics = self.trainable.evaluation(self.state, step, self.writer)
        self.writer.write(step, self.epoch(step), metrics)
        say(evaluation_line(step, metrics))
        self.pace.evaluation = watch.without_compilation()
        self._pause(watch)
        return metrics

    def save(self, step: int, metrics: dict[str, float] | None) -> None:
        """Saves the state after `step` updates; raises NonFiniteError if a loss or gradient was not finite."""
        watch = self.drain()
        self.check(step)
        self.checkpoints.save(self.state, step, metrics)
        self.session.write(step)
        self.pace.saving = watch.seconds()
        self._pause(watch)

    def drain(self) -> Stopwatch:
        """Waits for the steps in flight, which count as training time, and returns a stopwatch that starts now."""
        jax.block_until_ready(self.pending)
        return Stopwatch()

    def _pause(self, watch: Stopwatch) -> None:
        seconds = watch.seconds()
        self.clock.pause(seconds)
        self.pace.pause(seconds)

    def epoch(self, step: int) -> float:
        """Returns the exact number of passes over the data after `step` updates."""
        return step * self.config.batch_size / self.config.data.num_examples

    def _shortage(self, error: BaseException) -> str:
        """Returns what to say after memory ran out; the newest checkpoint is kept."""
        steps = self.checkpoints.steps()
        kept = f"the checkpoint of step {steps[-1]} is kept" if steps else "there is no checkpoint yet"
        reason = " ".join(str(error).split())[:120]
        remedy = HOST_REMEDY if isinstance(error, MemoryError) else self.trainable.remedy
        return f"memory ran out ({reason or 'Python found none'}); {kept}; {remedy}"

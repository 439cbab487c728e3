"""The training loop: restores, then evaluates and saves if due, runs a step, and logs if due."""

import pathlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import jax
import ml_collections
import numpy as np

from sit_jax.common.console import say, say_all
from sit_jax.common.errors import InputError, NonFiniteError
from sit_jax.config.checks import check_config
from sit_jax.config.resolve import resolve
from sit_jax.config.workdir import check_workdir, keep_products
from sit_jax.data import Batches, image_options, load_images, open_source
from sit_jax.model.tasks import TASKS
from sit_jax.parallel.hosts import several
from sit_jax.parallel.mesh import local_rows, make_mesh, put_batch
from sit_jax.parallel.stop import StopSignal
from sit_jax.train.announce import announce, write_config
from sit_jax.train.checkpoint import Checkpoints
from sit_jax.train.metrics import Clock, MetricsWriter, evaluation_line, fetch_finite, progress_line
from sit_jax.train.state import TrainState, abstract_state, init_state, make_training
from sit_jax.train.step import compile_steps
from sit_jax.train.validation import EvalData, Evaluation, load_eval_data

IN_FLIGHT = 2  # maximum steps that the host runs ahead of the device


def train(config: ml_collections.ConfigDict, workdir: pathlib.Path) -> bool:
    """Trains to the end, or until a stop signal; returns whether it reached the end.

    Resumes from the newest checkpoint in `workdir`, if there is one. Raises InputError before any compilation if the
    configuration, the data or the work directory is wrong. Raises NonFiniteError if a loss is no longer finite; the
    last good checkpoint is kept.
    """
    check_config(config, jax.device_count())
    mesh = make_mesh(**config.mesh)
    source = open_source(config.data.source)
    say_all(source.notes)
    images = load_images(source.pretrain, **image_options(config))
    if len(images) < 2:
        raise InputError(
            f"{config.data.source}: has a single image, and training needs views of other images; give two or more"
        )
    config = resolve(keep_products(config, workdir), len(images))
    check_workdir(workdir, config)
    batches = Batches(images, config.batch_size, config.seed, local_rows(mesh, config.batch_size))
    eval_data = load_eval_data(source, images, config)
    write_config(workdir, config)
    with jax.set_mesh(mesh):
        run = Run(config, workdir, mesh, batches, pretraining(config, workdir, mesh, eval_data))
        announce(config, run.state.params, run.start, workdir)
        return run.train()


class Trainable(NamedTuple):
    """The task-specific part of a run; the loop is the same for pre-training and for classifiers."""

    abstract: TrainState  # shapes, dtypes and shardings of the state
    init: Callable[[], TrainState]  # makes the state at step 0
    train_step: Callable[[TrainState, dict], tuple[TrainState, dict]]  # (state, batch) -> (state, metrics)
    evaluation: Callable[[TrainState, int, MetricsWriter], dict[str, float]] | None  # its `eval/` metrics
    losses: tuple[str, ...]  # the metrics shown next to `loss`


def pretraining(
    config: ml_collections.ConfigDict, workdir: pathlib.Path, mesh: jax.sharding.Mesh, eval_data: EvalData
) -> Trainable:
    """Returns the trainable of the three SiT tasks."""
    training = make_training(config)
    abstract = abstract_state(config, training, mesh)
    train_step, eval_step = compile_steps(training, config, abstract, mesh)
    evaluation = Evaluation(eval_data, eval_step, config, mesh, workdir)
    return Trainable(abstract, lambda: init_state(config, training, mesh), train_step, evaluation, tuple(TASKS))


class Run:
    """One training run: its state, checkpoints, metrics and loop."""

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        workdir: pathlib.Path,
        mesh: jax.sharding.Mesh,
        batches: Batches,
        trainable: Trainable,
    ):
        self.config, self.batches, self.trainable, self.mesh = config, batches, trainable, mesh
        self.checkpoints = Checkpoints(workdir, config.keep_latest, config.keep_best)
        restored = self.checkpoints.restore_latest(trainable.abstract)
        self.state, self.start = restored or (trainable.init(), 0)
        self.already_evaluated = restored is not None and self.checkpoints.was_evaluated(self.start)
        self.writer = MetricsWriter(workdir, self.start, self.already_evaluated)
        self.clock = Clock()
        self.pending: list[dict[str, jax.Array]] = []  # metrics of the steps since the last `check`

    def train(self) -> bool:
        """Runs to the end or to a stop signal, saves, and returns whether it reached the end."""
        stream = self.batches.iterate(self.start)
        with StopSignal() as stop:
            try:
                finished = self._steps(stream, stop)
                self.checkpoints.finish()
                return finished
            except BaseException as error:
                # Finish the save in flight, unless it needs other hosts, which do not know of the error.
                if not several() or isinstance(error, NonFiniteError):
                    self.checkpoints.close()
                raise
            finally:
                self.writer.close()
                stream.close()

    def _steps(self, stream: Iterator[dict[str, np.ndarray]], stop: StopSignal) -> bool:
        """Runs the steps; the order matters: a checkpoint contains nothing of the batch after it."""
        config = self.config
        for step in range(self.start, config.steps + 1):
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
                self._step(stream)
            except InputError:  # an unreadable image; other hosts do not know of it
                if not several() and step > self.start and step != self.checkpoints.requested:
                    self.save(step, None)
                raise
            if step == 0 or (step + 1) % config.log_every == 0 or step + 1 == config.steps:
                self.log(step + 1)
        raise AssertionError("the loop returns at the last step")

    def evaluated(self, step: int) -> bool:
        """Tells whether `step` needs no evaluation: there is none, or the resumed run had already done it."""
        return self.trainable.evaluation is None or (step == self.start and self.already_evaluated)

    def _step(self, stream: Iterator[dict[str, np.ndarray]]) -> None:
        """Takes the next batch and starts a step; waits only for an earlier step or for the compilation."""
        begin = time.perf_counter()
        batch = {name: self._put(rows) for name, rows in next(stream).items()}
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
        say(progress_line(step, self.config.steps, self.trainable.losses, metrics, self.clock))

    def evaluate(self, step: int) -> dict[str, float]:
        """Evaluates the weights after `step` updates; writes and prints the metrics (see Evaluation)."""
        begin = self.drain()
        assert self.trainable.evaluation is not None
        metrics = self.trainable.evaluation(self.state, step, self.writer)
        self.writer.write(step, self.epoch(step), metrics)
        say(evaluation_line(step, metrics))
        self.clock.pause(time.perf_counter() - begin)
        return metrics

    def save(self, step: int, metrics: dict[str, float] | None) -> None:
        """Saves the state after `step` updates; raises NonFiniteError if a loss or gradient was not finite."""
        begin = self.drain()
        self.check(step)
        self.checkpoints.save(self.state, step, metrics)
        self.clock.pause(time.perf_counter() - begin)

    def drain(self) -> float:
        """Waits for the steps in flight, which count as training time, and returns the current time."""
        jax.block_until_ready(self.pending)
        return time.perf_counter()

    def epoch(self, step: int) -> float:
        """Returns the exact number of passes over the data after `step` updates."""
        return step * self.config.batch_size / self.config.data.num_examples

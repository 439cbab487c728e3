"""Stage `learn`: a training planned by its measured rate to fill the time, then k-NN and linear of its encoder."""

import dataclasses
import functools
import json
import os
import pathlib
import signal
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import jax
import orbax.checkpoint as ocp

from benchmarks.accelerator_stages import encoder, pixels, protocols, training
from benchmarks.accelerator_stages.machine import add_machine
from benchmarks.accelerator_stages.stage import Skip, Stage
from sit_jax.config import checks, resolve
from sit_jax.data import image_options, load_images, open_source
from sit_jax.eval.data import Labelled, load_labelled
from sit_jax.eval.restore import Restored, restore
from sit_jax.timing.step import Step
from sit_jax.train.loop import train

# Trainings of a call in order, as time allows: name -> changes of the configuration.
VARIANTS: dict[str, dict[str, Any]] = {"": {}, "temperature-0.5": {"loss.temperature": 0.5}}
WORTHWHILE = 60.0  # least seconds for a training with its compilation and evaluation
RATE_SECONDS = 4.0  # duration of the rate measurement
SAFETY = 0.94  # planned share of the time for training
EVALUATIONS = 4  # per training
FORWARD = 5.0  # least number of images encoded in the training time of one image: two views, forward and backward
MARGIN = 8.0  # seconds for the last checkpoint and the files
DRY_STEPS = 40


def main(stage: Stage) -> None:
    """Trains and evaluates each variant that the time allows."""
    add_machine(stage)
    if not stage.attempt("learn", "images", lambda: {"note": training.prepare(stage, {}).data.source}):
        return
    beside = pixels.start(stage)
    measured: Measured | None = None
    for variant, changes in VARIANTS.items():
        run = Learning(stage, variant, changes, measured)
        if variant and stage.left() < WORTHWHILE:
            stage.add("learn", f"training, {run.title}", "skipped", note=f"{stage.left():.0f} s are left")
        elif not run.go():
            break
        measured = run.measured
    pixels.wait(stage, beside)


@dataclasses.dataclass
class Measured:
    """The measurements that plan a training; the same for all variants."""

    rate: float  # source images per second
    compile_seconds: float  # of the step
    labels: Labelled
    num_images: int
    evaluation_seconds: float  # for k-NN and the linear classifier of one encoder; an estimate until measured


class Learning:
    """One training and its evaluation."""

    def __init__(self, stage: Stage, variant: str, changes: Mapping[str, Any], measured: Measured | None):
        self.stage, self.first, self.measured = stage, not variant, measured
        self.folder = training.folder(pathlib.Path(stage.work), stage.train, stage.dry_run, variant)
        self.config = training.prepare(stage, changes)
        self.title = f"T={self.config.loss.temperature:g}"
        self.finished = False

    def go(self) -> bool:
        """Measures, trains and evaluates; returns whether the training reached its last step."""
        stage, name = self.stage, f"training, {self.title}"
        if self.measured is None:
            if not stage.attempt("learn", f"rate, {self.title}", self.measure, needs=5.0):
                return False
            seconds = 2 * self.facts.evaluation_seconds
            if seconds > stage.left():
                stage.add("learn", name, "skipped", note=f"k-NN and linear alone would take about {seconds:.0f} s")
                return False
            self.baselines()
        if stage.attempt("learn", name, self.train):
            self.evaluate()
        return self.finished

    @property
    def facts(self) -> Measured:
        """Returns the measurements."""
        assert self.measured is not None
        return self.measured

    def measure(self) -> dict[str, Any]:
        """Loads the images, compiles a step, and measures its rate on batches read as in training."""
        config = self.config
        checks.check_config(config, jax.device_count())
        labels = load_labelled(config.data.source, config, 0)
        images = load_images(open_source(config.data.source).pretrain, **image_options(config))
        step, begin = Step(resolve.resolve(config, len(images)), images), time.perf_counter()
        with jax.set_mesh(step.mesh):
            step.compile()
            compile_seconds = time.perf_counter() - begin
            rate = step.time_reading(5)["images_per_second"]
            if not self.stage.dry_run:
                rate = step.time_reading(round(RATE_SECONDS * rate / config.batch_size))["images_per_second"]
        guess = 2 * len(labels.train_labels) / (FORWARD * rate)
        self.measured = Measured(rate, compile_seconds, labels, len(images), guess)
        return {"value": rate, "unit": "source images/s", "compile_seconds": compile_seconds}

    def baselines(self) -> None:
        """Adds the scores of random weights and stores their duration."""
        start = protocols.random_weights(resolve.resolve(self.config, self.facts.num_images))
        begin = time.perf_counter()
        protocols.add_scores(self.stage, "random weights", protocols.of_encoder(start, self.facts.labels, start.params))
        self.facts.evaluation_seconds = time.perf_counter() - begin

    def plan_steps(self) -> int:
        """Returns the number of training steps: from the existing run, or as many as end in time."""
        path = self.folder / "config.json"
        if path.exists() and self.steps_done():
            return json.loads(path.read_text())["steps"]
        # The number of steps is part of the program, so the step is compiled again, and the evaluation as well.
        evaluation = (self.config.eval.num_train + 3 * self.config.eval.num_test) / (FORWARD * self.facts.rate)
        overhead = 1.5 * self.facts.compile_seconds + (EVALUATIONS + 1) * evaluation
        steps = int((self.training_seconds() * SAFETY - overhead) * self.facts.rate / self.config.batch_size)
        if steps < 1:
            raise Skip(f"{self.stage.left():.0f} s are left, too few for a training with its evaluation")
        return min(steps, DRY_STEPS) if self.stage.dry_run else steps

    def training_seconds(self) -> float:
        """Returns the seconds until the evaluation must start."""
        return self.stage.left() - 1.2 * self.facts.evaluation_seconds - (1.0 if self.stage.dry_run else MARGIN)

    def train(self) -> dict[str, Any]:
        """Trains from the existing checkpoint, if any, and stops in time for the evaluation."""
        config = self.config
        config.steps = self.plan_steps()
        every = max(1, config.steps // EVALUATIONS)
        config.update(eval_every=every, checkpoint_every=every, log_every=min(config.log_every, every))
        before = self.steps_done()
        with stopped_after(self.training_seconds()):
            self.finished = train(config, self.folder)
        note = f"of {config.steps}, {self.steps_done() * config.batch_size / self.facts.num_images:.1f} epochs"
        note += f"; an earlier call made {before} of them" if before else ""
        if not self.finished:
            note += "; stopped in time for the evaluation: another call with --stages=learn resumes it"
        return {"value": self.steps_done(), "unit": "steps", "note": note}

    def steps_done(self) -> int:
        """Returns the step of the newest checkpoint, 0 without one."""
        folder = self.folder / "checkpoints"
        return max(ocp.utils.checkpoint_steps(folder), default=0) if folder.is_dir() else 0

    def evaluate(self) -> None:
        """Adds the scores of the encoder and of its averaged weights, and saves the encoder."""
        note = "" if self.finished else f"after {self.steps_done()} of {self.config.steps} steps"
        restored: dict[str, Restored] = {}

        def read(weights: str) -> dict[str, Any]:
            restored[weights] = restore(self.folder, None, weights, {})
            return {"value": restored[weights].step, "unit": "steps"}

        for weights in ("params", "ema") if self.config.optim.ema else ("params",):
            if not self.stage.attempt("learn", f"checkpoint, {weights}, {self.title}", lambda w=weights: read(w), 2.0):
                return
            found = restored[weights]
            if self.first and weights == "params":
                save = functools.partial(self.save_encoder, found.params["encoder"])
                self.stage.attempt("learn", "encoder in bfloat16", save)
            scores = protocols.of_encoder(found, self.facts.labels, found.params)
            protocols.add_scores(self.stage, f"pre-trained {weights}, {self.title}", scores, note)

    def save_encoder(self, params: dict[str, Any]) -> dict[str, Any]:
        """Writes the encoder to the folder of results."""
        left_out = encoder.save(jax.device_get(params), pathlib.Path(self.stage.out))
        files = sorted(pathlib.Path(self.stage.out).glob("encoder-*.npz"))
        note = f"omitted for lack of room: {', '.join(left_out)}" if left_out else "all arrays"
        return {"value": sum(path.stat().st_size for path in files) / 2**20, "unit": "MiB", "note": note}


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Sends SIGTERM to this process after `seconds`, repeatedly until the body has ended."""
    done = threading.Event()

    def stop() -> None:
        if not done.wait(max(0.0, seconds)):
            while not done.wait(1.0):  # a signal sent before the loop listens would be lost
                os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    thread = threading.Thread(target=stop)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)

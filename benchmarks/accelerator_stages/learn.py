"""Stage `learn`: a training as long as the time allows, measured first; k-NN and linear of what it has learned."""

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

from benchmarks.accelerator_stages import encoder, pictures, pixels, protocols, training
from benchmarks.accelerator_stages.machine import add_machine
from benchmarks.accelerator_stages.stage import Skip, Stage
from sit_jax import checks
from sit_jax.data import image_options, load_images, open_source
from sit_jax.eval.data import load_labelled
from sit_jax.eval.restore import restore
from sit_jax.timing.step import Step
from sit_jax.train.loop import train

# What a call trains, one after the other while there is time: changes of the configuration, by what they are called.
VARIANTS: dict[str, dict[str, Any]] = {"": {}, "temperature-0.5": {"loss.temperature": 0.5}}
WORTHWHILE = 60.0  # seconds that a training must get, with its compilation and its evaluation
RATE_SECONDS = 4.0  # in which the rate is measured
SAFETY = 0.94  # share of its time that a training is planned for
EVALUATIONS = 4  # in a training
FORWARD = 5.0  # images that are encoded in the time that one is trained on, at least: two views, forward and back
MARGIN = 8.0  # seconds for the last checkpoint and the files
DRY_STEPS = 40


def main(stage: Stage) -> None:
    """Trains and evaluates, each variant that there is time for."""
    add_machine(stage)
    beside = pixels.start(stage)
    for variant, changes in VARIANTS.items():
        run = Learning(stage, variant, changes)
        if variant and stage.left() < WORTHWHILE:
            stage.add("learn", f"training {run.title}", "skipped", note=f"{stage.left():.0f} s are left")
        elif not run.go():
            break
    pixels.wait(stage, beside)


class Learning:
    """One training with its evaluation."""

    def __init__(self, stage: Stage, variant: str, changes: Mapping[str, Any]):
        self.stage, self.first = stage, not variant
        self.folder = training.folder(pathlib.Path(stage.work), stage.train, stage.dry_run, variant)
        self.config = training.prepare(stage, changes)
        self.title = f"({variant or pathlib.Path(stage.train).stem})"
        self.rate = 0.0  # source images a second
        self.compile_seconds = 0.0
        self.evaluation_seconds = 0.0

    def go(self) -> bool:
        """Goes through all of it; returns whether the training has come to its end."""
        stage, name = self.stage, f"training {self.title}"
        if not stage.attempt("learn", f"rate {self.title}", self.measure_rate, needs=5.0):
            return False
        self.evaluation_seconds = 2 * len(self.labels.train_labels) / (FORWARD * self.rate)
        if 2 * self.evaluation_seconds > stage.left():
            note = f"k-NN and linear alone would take about {2 * self.evaluation_seconds:.0f} s"
            stage.add("learn", name, "skipped", note=note)
            return False
        if self.first:
            self.baselines()
        if not stage.attempt("learn", name, self.train):
            return False
        self.evaluate()
        return self.finished

    def measure_rate(self) -> dict[str, Any]:
        """Loads the images, compiles a step, and measures its rate on batches that are read as in training."""
        config = self.config
        config.data.source = pictures.cifar10(pathlib.Path(self.stage.data), self.stage.dry_run)
        checks.check_config(config, jax.device_count())
        self.labels = load_labelled(config.data.source, config, 0)
        images = load_images(open_source(config.data.source).pretrain, **image_options(config))
        resolved = checks.resolve(config, len(images))
        step, begin = Step(resolved, images), time.perf_counter()
        with jax.set_mesh(step.mesh):
            step.compile()
            self.compile_seconds = time.perf_counter() - begin
            rate = step.time_reading(5)["images_per_second"]
            count = round(RATE_SECONDS * rate / config.batch_size)
            self.rate = rate if self.stage.dry_run else step.time_reading(count)["images_per_second"]
        self.num_images = len(images)
        return {"value": self.rate, "unit": "source images/s", "compile_seconds": self.compile_seconds}

    def baselines(self) -> None:
        """Adds the scores of random weights, and keeps how long they take."""
        config = checks.resolve(self.config, self.num_images)
        start = protocols.random_weights(config)
        begin = time.perf_counter()
        protocols.add_scores(self.stage, "random weights", protocols.of_encoder(start, self.labels, start.params))
        self.evaluation_seconds = time.perf_counter() - begin

    def plan_steps(self) -> int:
        """Returns the steps of the training: those of the run that is there, or as many as end in time."""
        path = self.folder / "config.json"
        if path.exists() and self.steps_done():
            return json.loads(path.read_text())["steps"]
        # The number of steps is a part of the program: it is compiled anew. The evaluation is compiled beside it.
        evaluation = (self.config.eval.num_train + 3 * self.config.eval.num_test) / (FORWARD * self.rate)
        seconds = self.training_seconds() * SAFETY - 1.5 * self.compile_seconds - (EVALUATIONS + 1) * evaluation
        steps = int(seconds * self.rate / self.config.batch_size)
        if steps < 1:
            raise Skip(f"{self.stage.left():.0f} s are left, too few for a training with its evaluation")
        return min(steps, DRY_STEPS) if self.stage.dry_run else steps

    def training_seconds(self) -> float:
        """Returns the seconds until the evaluation must begin."""
        return self.stage.left() - 1.2 * self.evaluation_seconds - (1.0 if self.stage.dry_run else MARGIN)

    def train(self) -> dict[str, Any]:
        """Trains, from the checkpoint that is there, and stops in time for the evaluation."""
        config = self.config
        config.steps = self.plan_steps()
        every = max(1, config.steps // EVALUATIONS)
        config.update(eval_every=every, checkpoint_every=every, log_every=min(config.log_every, every))
        before = self.steps_done()
        with stopped_after(self.training_seconds()):
            self.finished = train(config, self.folder)
        note = f"of {config.steps}, {self.steps_done() * config.batch_size / self.num_images:.1f} epochs"
        note += f"; an earlier call made {before} of them" if before else ""
        if not self.finished:
            note += "; stopped in time for the evaluation: another call with --stages=learn goes on"
        return {"value": self.steps_done(), "unit": "steps", "note": note}

    def steps_done(self) -> int:
        """Returns the step of the newest checkpoint, 0 where there is none."""
        folder = self.folder / "checkpoints"
        return max(ocp.utils.checkpoint_steps(folder), default=0) if folder.is_dir() else 0

    def evaluate(self) -> None:
        """Adds the scores of the encoder, and brings it home."""
        note = "" if self.finished else f"after {self.steps_done()} of {self.config.steps} steps"
        restored = restore(self.folder, None, "params", {})
        if self.first:
            self.stage.attempt("learn", "encoder in bfloat16", lambda: self.save_encoder(restored.params["encoder"]))
        protocols.add_scores(
            self.stage, f"pre-trained {self.title}", protocols.of_encoder(restored, self.labels, restored.params), note
        )
        if self.config.optim.ema and self.stage.left() > 1.2 * self.evaluation_seconds:
            average = restore(self.folder, None, "ema", {})
            what = f"average of the weights {self.title}"
            protocols.add_scores(self.stage, what, protocols.of_encoder(average, self.labels, average.params), note)

    def save_encoder(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Writes the encoder to the folder that is brought home."""
        left_out = encoder.save(jax.device_get(params), pathlib.Path(self.stage.out))
        files = sorted(pathlib.Path(self.stage.out).glob("encoder-*.npz"))
        note = f"left out, as they find no room: {', '.join(left_out)}" if left_out else "all arrays"
        return {"value": sum(path.stat().st_size for path in files) / 2**20, "unit": "MiB", "note": note}


@contextmanager
def stopped_after(seconds: float) -> Iterator[None]:
    """Sends this process SIGTERM when the seconds are over, again and again until what is inside has ended."""
    done = threading.Event()

    def stop() -> None:
        if not done.wait(max(0.0, seconds)):
            while not done.wait(1.0):  # one that comes before the loop listens would be lost
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

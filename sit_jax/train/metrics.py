"""Reports of a run: `metrics.jsonl` and TensorBoard events in the work directory, progress lines on screen."""

import errno
import json
import math
import os
import pathlib
import time
from collections.abc import Callable, Sequence

import jax
import numpy as np

from sit_jax.common.console import format_seconds, warn
from sit_jax.common.errors import NonFiniteError
from sit_jax.common.files import replacing
from sit_jax.common.memory import gib, used_bytes
from sit_jax.draw.pictures import save_png
from sit_jax.model.tasks import TASKS
from sit_jax.train.board import Board
from sit_jax.train.writers import Safe

PROBED = ("rank_me", "knn_top1", "linear_top1")  # shown on screen next to the task metrics


class MetricsWriter:
    """Writes scalars as lines of `metrics.jsonl`, as TensorBoard events and to other writers; on the first host only.

    Lines after `start_step` come from a killed run and will be repeated, so they are removed. The evaluation of
    `start_step` is removed too, unless it was `already_evaluated`. If lines cannot be written, as on a full disk, they
    are written with the next lines; the first failure is logged.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int, already_evaluated: bool, others: Sequence[Safe] = ()):
        self.others = others  # of --log; none on other hosts
        self.path = workdir / "metrics.jsonl"
        self.enabled = jax.process_index() == 0
        if not self.enabled:
            return
        self._cut(start_step, already_evaluated)
        self.waiting = b""  # lines not written yet
        self.failing = False
        self.file = self.path.open("r+b", buffering=0)
        self.size = self.file.seek(0, os.SEEK_END)  # the file is complete up to here
        self.board = Board(workdir, start_step)

    def _cut(self, start_step: int, already_evaluated: bool) -> None:
        lines = self.path.read_text(errors="replace").splitlines() if self.path.exists() else []
        rows = [row for row in map(parse_line, lines) if row and row["step"] <= start_step]
        if not already_evaluated:
            rows = [row for row in rows if row["step"] < start_step or "eval/loss" not in row]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))

    def write(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """Writes one line; `metrics` are host floats by full name, such as "train/loss"."""
        if not self.enabled:
            return
        line = json.dumps({"step": step, "epoch": round(epoch, 4), **metrics}) + "\n"
        self.waiting += line.encode()
        self._try(self._flush)
        self._try(lambda: self.board.write(step, metrics))
        for other in self.others:
            other.call("write", step, metrics)

    def write_image(self, step: int, name: str, path: pathlib.Path, image: np.ndarray) -> None:
        """Writes a picture [H, W, 3] uint8 to `path` and to TensorBoard under `name`."""
        if self.enabled:
            self._try(lambda: save_png(path, image))
            self._try(lambda: self.board.write(step, {}, {name: image}))
            for other in self.others:
                other.call("write_image", step, name, image)

    def _flush(self) -> None:
        """Writes the waiting lines; the next call overwrites lines that a full disk cut short."""
        self.file.seek(self.size)
        self.file.truncate()
        written = self.file.write(self.waiting)
        if written != len(self.waiting):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.size, self.waiting = self.size + written, b""

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
        except OSError as error:
            if not self.failing:
                warn(f"metrics and pictures cannot be written ({error.strerror or error}); the training continues")
            self.failing = True

    def close(self, ended: bool = True) -> None:
        """Writes the waiting lines, and closes both files and the other writers; `ended`: without an error."""
        if self.enabled:
            for other in self.others:
                other.call("close", ended)
            self._try(self._flush)
            if self.waiting:
                warn(f"{len(self.waiting.splitlines())} lines of {self.path} could not be written and are lost")
            self._try(self.board.close)
            self.file.close()


def parse_line(line: str) -> dict | None:
    """Returns the object of a line of `metrics.jsonl`; None if a kill cut the line short or it is damaged."""
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def fetch_finite(first_step: int, pending: list[dict[str, jax.Array]], losses: tuple[str, ...]) -> dict[str, float]:
    """Fetches the metrics of the steps from `first_step` on; returns the metrics of the last step as floats.

    Raises NonFiniteError for the first step with a non-finite value in `losses`, their sum or the gradient norm.
    """
    fetched = [{name: float(value) for name, value in row.items()} for row in jax.device_get(pending)]
    for offset, row in enumerate(fetched):
        for name in (*losses, "loss", "grad_norm"):
            if not math.isfinite(row[name]):
                raise NonFiniteError(f"train/{name} is {row[name]} at step {first_step + offset}")
    return fetched[-1]


class Clock:
    """Measures training time without compilation, evaluation and saving, and the share spent waiting for data."""

    def __init__(self) -> None:
        self.seconds_per_step = math.nan
        self.restart()
        self.compiling = True  # until the first step is done

    def restart(self) -> None:
        """Restarts the measurement."""
        self.start, self.steps, self.waited, self.compiling = time.perf_counter(), 0, 0.0, False

    def pause(self, seconds: float) -> None:
        """Excludes time that was not training."""
        self.start += seconds

    def measure(self, batch_size: int) -> dict[str, float]:
        """Returns the two `time/` metrics since the last call and restarts; nothing before the second step."""
        seconds = max(time.perf_counter() - self.start, 1e-9)
        steps, waited = self.steps, self.waited
        self.restart()
        if not steps:
            return {}
        self.seconds_per_step = seconds / steps
        return {
            "time/images_per_second": batch_size * steps / seconds,
            "time/data_wait_fraction": min(waited / seconds, 1.0),
        }


def progress_line(
    step: int, total: int, losses: tuple[str, ...], metrics: dict[str, float], epoch: float, left: float | None
) -> str:
    """Returns the progress line: step, epoch, losses of the last log, speed, memory and seconds `left`."""
    parts = [f"step {step}/{total} ({step / total:.0%})", f"epoch {epoch:.3g}"]
    parts += [f"{name} {metrics[f'train/{name}']:.4g}" for name in ("loss", *losses)]
    if "time/images_per_second" in metrics:
        parts.append(f"{metrics['time/images_per_second']:.0f} images/s")
    parts.append(f"{gib(used_bytes())} GiB")
    if left is not None:
        parts.append(f"{format_seconds(left)} left")
    return "  ".join(parts)


def evaluation_line(step: int, metrics: dict[str, float]) -> str:
    """Returns the evaluation line with some of the metrics; the file has all."""
    brief = [*(name for task in TASKS.values() for name in task.shown), *PROBED]
    shown = [f"eval/{name}" for name in brief if f"eval/{name}" in metrics] or list(metrics)
    return "  ".join([f"step {step} evaluation", *(f"{name[5:]} {metrics[name]:.4g}" for name in shown)])

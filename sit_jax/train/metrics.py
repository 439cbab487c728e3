"""What a run reports: `metrics.jsonl` and TensorBoard events in the work directory, a progress line on screen."""

import json
import math
import os
import pathlib
import time

import jax
import numpy as np
import tensorboardX

from sit_jax.errors import NonFiniteError


class MetricsWriter:
    """Writes scalars as lines of `metrics.jsonl` and as TensorBoard events; on the first host only.

    Lines after `start_step` are left over from a run that was killed and that is about to repeat them: they go.
    """

    def __init__(self, workdir: pathlib.Path, start_step: int):
        self.path = workdir / "metrics.jsonl"
        self.enabled = jax.process_index() == 0
        if not self.enabled:
            return
        self._cut(start_step)
        self.file = self.path.open("a")
        purge = start_step + 1 if start_step else None
        self.board = tensorboardX.SummaryWriter(str(workdir), purge_step=purge)

    def _cut(self, start_step: int) -> None:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        rows = [row for row in map(parse_line, lines) if row and row["step"] <= start_step]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows))
        os.replace(temporary, self.path)

    def write(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """Writes one line; `metrics` are host floats by their full names, such as "train/loss"."""
        if not self.enabled:
            return
        self.file.write(json.dumps({"step": step, "epoch": round(epoch, 4), **metrics}) + "\n")
        self.file.flush()
        for name, value in metrics.items():
            self.board.add_scalar(name, value, step)

    def write_image(self, step: int, name: str, image: np.ndarray) -> None:
        """Shows a picture [H, W, 3] uint8 in TensorBoard."""
        if self.enabled:
            self.board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Closes both files."""
        if self.enabled:
            self.file.close()
            self.board.close()


def parse_line(line: str) -> dict | None:
    """Returns the object of a line of `metrics.jsonl`; None for one that a kill cut short."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None


def fetch_finite(first_step: int, pending: list[dict[str, jax.Array]], losses: tuple[str, ...]) -> dict[str, float]:
    """Fetches the metrics of the steps from `first_step` on, and returns those of the last one as floats.

    Raises NonFiniteError for the first step where one of `losses`, their sum or the gradient is not finite.
    """
    fetched = [{name: float(value) for name, value in row.items()} for row in jax.device_get(pending)]
    for offset, row in enumerate(fetched):
        for name in (*losses, "loss", "grad_norm"):
            if not math.isfinite(row[name]):
                raise NonFiniteError(f"train/{name} is {row[name]} at step {first_step + offset}")
    return fetched[-1]


class Clock:
    """Measures training time without compilation, evaluation and saving, and the share of it spent waiting for data."""

    def __init__(self) -> None:
        self.seconds_per_step = math.nan
        self.restart()
        self.compiling = True  # until the first step is done

    def restart(self) -> None:
        """Starts to measure from here."""
        self.start, self.steps, self.waited, self.compiling = time.perf_counter(), 0, 0.0, False

    def pause(self, seconds: float) -> None:
        """Takes time out of the measurement that was not training."""
        self.start += seconds

    def measure(self, batch_size: int) -> dict[str, float]:
        """Returns the two `time/` metrics since the last call, and starts again; nothing before the second step."""
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


def progress_line(step: int, total: int, losses: tuple[str, ...], metrics: dict[str, float], clock: Clock) -> str:
    """Returns the line that shows how far a run is, how it goes and how long it will still take."""
    parts = [f"step {step}/{total} ({step / total:.0%})"]
    parts += [f"{name} {metrics[f'train/{name}']:.4g}" for name in ("loss", *losses)]
    if "time/images_per_second" in metrics:
        parts.append(f"{metrics['time/images_per_second']:.0f} images/s")
        parts.append(f"{format_seconds((total - step) * clock.seconds_per_step)} left")
    return "  ".join(parts)


def format_seconds(seconds: float) -> str:
    """Returns a duration for people: "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def say(line: str) -> None:
    """Prints a line for the user, once and not once a host."""
    if jax.process_index() == 0:
        print(line, flush=True)

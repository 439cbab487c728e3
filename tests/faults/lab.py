"""Shared by the trials: a work folder, runs of the command, and the comparison with an undisturbed run."""

import dataclasses
import itertools
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging

ROOT = pathlib.Path(__file__).parent.parent.parent
STEPS, LOG_EVERY, SAVE_EVERY, EVAL_EVERY = 48, 2, 6, 12
VALUES = {
    "steps": STEPS,
    "log_every": LOG_EVERY,
    "checkpoint_every": SAVE_EVERY,
    "eval_every": EVAL_EVERY,
    "keep_latest": 4,
    "model.image_size": 16,
    "optim.warmup_steps": 4,
    "optim.base_learning_rate": 1e-3,
}
TEMPORARY = ".orbax-checkpoint-tmp"
LOSSES = ("loss", "reconstruction", "rotation", "contrastive")


class Failed(Exception):
    """The program behaved wrongly."""


class NotHit(Exception):
    """The fault did not happen, for example because the run had already ended; the trial is inconclusive."""


class Skipped(Exception):
    """This machine cannot make the fault."""


@dataclasses.dataclass
class Trial:
    """One fault: `act` makes the fault and returns a note, or raises Failed, NotHit or Skipped."""

    kind: str
    name: str
    act: Callable[[np.random.Generator], str]
    weight: float = 1.0  # approximate duration relative to an undisturbed run


class Results:
    """The results of a finished run: the lines of its metrics without times, and the arrays of its last checkpoint."""

    def __init__(self, workdir: pathlib.Path):
        self.metrics = read_metrics(workdir)
        self.arrays = read_arrays(workdir / "checkpoints" / str(STEPS) / "state")


class Lab:
    """A work folder with the results of the undisturbed run."""

    def __init__(self, folder: pathlib.Path, small_disk: pathlib.Path | None):
        logging.set_verbosity(logging.ERROR)  # orbax warns for every checkpoint read here
        self.folder, self.small_disk = folder, small_disk
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.reference_dir = folder / "reference"
        self.reference: Results | None = None
        self.numbers, self.runs, self.lock, self.closed = itertools.count(), [], threading.Lock(), False
        self.limit = 900.0  # seconds after which a run counts as hanging; lowered once the duration is known
        self.seconds = self.save_seconds = float("nan")
        own = {"JAX_COMPILATION_CACHE_DIR": "xla", "XDG_CACHE_HOME": "cache"}
        # One device, so that results must be equal bit for bit.
        self.env = os.environ | {name: str(folder / value) for name, value in own.items()}
        self.env |= {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}

    def new_workdir(self, name: str) -> pathlib.Path:
        """Returns the path of a work directory that does not exist yet."""
        return self.folder / f"{name}-{next(self.numbers)}"

    def make_reference(self) -> str:
        """Makes the undisturbed run, which also compiles first, and measures the duration of saves."""
        run = Run(self, self.reference_dir)
        starts, ends = {}, {}
        while run.alive():
            now, names = time.monotonic(), saving(self.reference_dir)
            for name in names:
                starts.setdefault(name, now)
                ends[name] = now
            time.sleep(0.002)
        run.expect(0)
        lengths = [ends[name] - starts[name] for name in starts]
        self.save_seconds = float(np.median(lengths)) if lengths else 0.1
        self.seconds = max(6.0, 0.4 * run.seconds)  # without the compilation; measured by `make_control`
        self.limit = max(180.0, 6 * run.seconds)
        self.reference = Results(self.reference_dir)
        rows = self.reference.metrics
        evaluations = [row for row in rows if "eval/loss" in row]
        if not evaluations or rows[-1]["step"] != STEPS:
            raise Failed("the undisturbed run has no evaluations or no last line")
        return f"{run.seconds:.1f} s with compilation; a save takes {self.save_seconds * 1000:.0f} ms"

    def make_control(self) -> str:
        """Runs again undisturbed, requires equal results, and measures the duration of a run."""
        workdir = self.new_workdir("control")
        run = self.finish(workdir)
        self.seconds = run.seconds
        return f"{run.seconds:.1f} s"

    def finish(self, workdir: pathlib.Path, expected: Results | None = None) -> "Run":
        """Runs the command to its end and compares its results with the undisturbed run; raises Failed."""
        run = Run(self, workdir)
        run.expect(0)
        self.compare(workdir, expected)
        return run

    def compare(self, workdir: pathlib.Path, expected: Results | None = None) -> None:
        """Raises Failed if a finished run differs from the undisturbed run in metrics or arrays, bit for bit."""
        expected = expected or self.reference
        with self.lock:  # orbax reads from one thread at a time
            found = Results(workdir)
        for row, wanted in itertools.zip_longest(found.metrics, expected.metrics):
            if row != wanted:
                raise Failed(f"metrics.jsonl differs: {describe_difference(row, wanted)}")
        if found.arrays.keys() != expected.arrays.keys():
            raise Failed("the last checkpoint holds different arrays")
        wrong = [name for name, value in found.arrays.items() if not same_bits(value, expected.arrays[name])]
        if wrong:
            raise Failed(f"{len(wrong)} arrays of the last checkpoint differ, such as {wrong[0]}")
        if saving(workdir):
            raise Failed(f"{saving(workdir)} is left over")

    def close(self) -> None:
        """Kills the remaining runs; no new run can start."""
        self.closed = True
        for run in self.runs:
            run.kill()


class Run:
    """The running command in its own process."""

    def __init__(self, lab: Lab, workdir: pathlib.Path, *flags: str):
        if lab.closed:
            raise Skipped("interrupted")
        command = [sys.executable, "-m", "sit_jax.main", "--config=configs/digits.py:runlocal", f"--workdir={workdir}"]
        command += [f"--config.{name}={value}" for name, value in VALUES.items()]
        base = lab.logs / f"{workdir.name}-{next(lab.numbers)}"
        self.paths = [base.with_suffix(".out"), base.with_suffix(".err")]
        self.workdir, self.limit, self.begin, self.seconds = workdir, lab.limit, time.monotonic(), float("nan")
        with self.paths[0].open("wb") as out, self.paths[1].open("wb") as err:
            self.process = subprocess.Popen([*command, *flags], cwd=ROOT, env=lab.env, stdout=out, stderr=err)
        lab.runs.append(self)

    def out(self) -> str:
        """Returns its stdout."""
        return self.paths[0].read_text(errors="replace")

    def err(self) -> str:
        """Returns its stderr without the log lines of libraries."""
        lines = self.paths[1].read_text(errors="replace").splitlines()
        return "\n".join(line for line in lines if not re.match(r"(WARNING: All log|[IWE]\d{4} |I0000)", line))

    def alive(self) -> bool:
        """Returns whether it is still running."""
        return self.process.poll() is None

    def wait(self, limit: float | None = None) -> int:
        """Returns its exit code; raises Failed if it does not end in time."""
        try:
            code = self.process.wait(max(1.0, (limit or self.limit)))
        except subprocess.TimeoutExpired:
            self.kill()
            raise Failed(f"it hangs: not ended after {limit or self.limit:.0f} s; {self.phase()}") from None
        self.seconds = time.monotonic() - self.begin
        return code

    def expect(self, code: int) -> None:
        """Waits for its end; raises Failed with its last line if its exit code is not `code`."""
        found = self.wait()
        if found != code:
            words = (self.err() or self.out()).strip().splitlines()[-1:]
            raise Failed(f"exit code {found} instead of {code} ({self.phase()}): {' '.join(words)[:200]}")

    def kill(self) -> None:
        """Sends SIGKILL and waits for its end."""
        self.process.kill()
        self.process.wait()

    def send(self, number: int) -> None:
        """Sends a signal; raises NotHit if it has ended."""
        if not self.alive():
            raise NotHit("the run had ended")
        os.kill(self.process.pid, number)

    def until(self, condition: Callable[[], bool], poll: float = 0.01) -> None:
        """Waits until a condition holds; raises NotHit if the run ends earlier, Failed if it hangs."""
        end = time.monotonic() + self.limit
        while not condition():
            if not self.alive() and not condition():
                raise NotHit("the run had ended")
            if time.monotonic() > end:
                self.kill()
                raise Failed(f"it hangs: {self.phase()}")
            time.sleep(poll)

    def step(self) -> int:
        """Returns the last reported step, -1 before the first report."""
        return max((int(step) for step in re.findall(r"^step (\d+)\b", self.out(), re.M)), default=-1)

    def phase(self) -> str:
        """Returns its phase in a word or two."""
        if self.step() >= 0:
            return f"step {self.step()}"
        ready = re.search("^(compiling|resuming)", self.out(), re.M)
        return "compilation" if ready else "start-up"

    def resumed_from(self) -> int | None:
        """Returns the step of the checkpoint that it resumed from; None if it started from scratch."""
        found = re.search(r"^resuming from the checkpoint of step (\d+)$", self.out(), re.M)
        return int(found[1]) if found else None

    def catches(self, number: int) -> bool:
        """Returns whether it handles or blocks a signal; before Python starts it does not, and the signal kills it."""
        try:
            status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
            masks = re.findall(r"^Sig(?:Cgt|Blk):\s*(\w+)", status, re.M)
            return any(int(mask, 16) >> (number - 1) & 1 for mask in masks)
        except FileNotFoundError:  # without /proc, it does so from its first line of output on
            return bool(self.out())


def read_metrics(workdir: pathlib.Path) -> list[dict]:
    """Returns the lines of metrics.jsonl without the times, which always differ; raises Failed if a line is broken."""
    try:
        rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise Failed(f"metrics.jsonl cannot be read: {error}") from error
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Returns the arrays of a checkpoint by name, independent of the devices that wrote it; raises Failed."""
    try:
        tree = ocp.StandardCheckpointer().metadata(path).item_metadata.tree
        arguments = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            restored = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=arguments))
    except Exception as error:  # orbax raises many types
        raise Failed(f"{path} cannot be read: {' '.join(str(error).split())[:200]}") from error
    leaves = jax.tree_util.tree_leaves_with_path(restored)
    return {jax.tree_util.keystr(name): np.asarray(leaf) for name, leaf in leaves}


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    """Returns whether two arrays are equal bit for bit."""
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def describe_difference(row: dict | None, wanted: dict | None) -> str:
    """Returns how a line of metrics differs from the expected line."""
    if row is None or wanted is None:
        side, line = ("missing", wanted) if row is None else ("too much", row)
        kind = "evaluation" if "eval/loss" in line else "training"
        return f"a line is {side}: {kind} at step {line['step']}"
    names = [name for name in row.keys() | wanted.keys() if row.get(name) != wanted.get(name)]
    name = "step" if "step" in names else sorted(names)[0]
    return f"{name} is {row.get(name)} instead of {wanted.get(name)} in the line of step {wanted['step']}"


def kept(workdir: pathlib.Path) -> list[int]:
    """Returns the steps of the checkpoints in a work directory, ascending."""
    try:
        names = os.listdir(workdir / "checkpoints")
    except FileNotFoundError:
        return []
    return sorted(int(name) for name in names if name.isdigit())


def saving(workdir: pathlib.Path) -> list[str]:
    """Returns the names of checkpoints being written, or left unfinished by a killed run."""
    try:
        return [name for name in os.listdir(workdir / "checkpoints") if name.endswith(TEMPORARY)]
    except FileNotFoundError:
        return []


def remove(path: pathlib.Path) -> None:
    """Removes a file or a folder, if it exists."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def describe_signal(code: int) -> str:
    """Returns a readable exit code."""
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

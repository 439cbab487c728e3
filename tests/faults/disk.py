"""A full disk: training continues, saved checkpoints stay intact, and once there is space again nothing is lost."""

import contextlib
import errno
import functools
import os
import pathlib
import shutil
import signal
import subprocess
from collections.abc import Iterator

import numpy as np

from faults.lab import ROOT, SAVE_EVERY, STEPS, Failed, Lab, NotHit, Run, Skipped, Trial, kept, read_arrays, saving

MEGABYTES = 16  # a checkpoint has half a megabyte
FAILED = 1


def disk_trials(lab: Lab, count: int) -> list[Trial]:
    """Returns trials whose disk fills during a save or between saves, and is freed during or after the run."""
    trials = []
    for i in range(count):
        freed, in_save = i % 2 == 0, i % 4 in (0, 3)
        name = f"full {'in' if in_save else 'before'} a save, {'freed in time' if freed else 'to the end'}"
        act = functools.partial(disk_full, lab, freed=freed, in_save=in_save)
        trials.append(Trial("disk_full", name, act, 1.2 if freed else 2.2))
    return trials


@contextlib.contextmanager
def small_disk(lab: Lab) -> Iterator[pathlib.Path]:
    """Yields a small file system for one trial: a new one in memory, or a folder on the given one."""
    path = lab.new_workdir("disk")
    if lab.small_disk:
        path = lab.small_disk / path.name
        if shutil.disk_usage(lab.small_disk).free > 2**28:
            raise Skipped(f"{lab.small_disk} has more than 256 MB to fill")
        path.mkdir()
    else:
        path.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={MEGABYTES}m", "tmpfs", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            raise Skipped(f"no small file system: {error}; give one with --small_disk") from error
        if done.returncode:
            raise Skipped(f"no small file system: {done.stderr.strip()}; give one with --small_disk")
    try:
        yield path
    finally:
        if lab.small_disk:
            shutil.rmtree(path, ignore_errors=True)
        else:
            subprocess.run(["umount", "--lazy", str(path)], check=False)


def fill(path: pathlib.Path) -> None:
    """Writes a file until the disk is full."""
    with path.open("wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise


@contextlib.contextmanager
def halted(run: Run) -> Iterator[None]:
    """Pauses a run, so that a fault falls between two of its steps on any machine."""
    run.send(signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(run.process.pid, signal.SIGCONT)


def disk_full(lab: Lab, rng: np.random.Generator, freed: bool, in_save: bool) -> str:
    """Fills the disk during a run, and frees it during the run or after its end."""
    with small_disk(lab) as disk:
        workdir, ballast = disk / "run", disk / "ballast"
        run = Run(lab, workdir)
        target = int(rng.integers(1, STEPS // SAVE_EVERY - 2)) * SAVE_EVERY
        run.until(lambda: max(kept(workdir), default=0) >= target, poll=0.002)
        if in_save:  # a program that checks the free space before saving finds enough
            run.until(lambda: bool(saving(workdir)), poll=0.001)
        with halted(run):
            fill(ballast)
            saved = kept(workdir)
        if freed:
            run.until(lambda: said_so(run))
            with halted(run):
                ballast.unlink()
                with lab.lock:  # the older checkpoints are intact
                    for step in kept(workdir):
                        read_arrays(workdir / "checkpoints" / str(step) / "state")
        code = run.wait()
        if not said_so(run):
            raise NotHit(f"no save failed; exit code {code}")
        if f'File "{ROOT / "sit_jax"}' in run.err():
            raise Failed(f"a traceback of the program: {run.err()[-300:]}")
        lines = run.err().splitlines()
        noise = f"{sum(not line.startswith(('warning: ', 'error: ')) for line in lines)} lines from the libraries"
        if freed:
            run.expect(0)
            lab.compare(workdir)
            return f"full after {saved[-1]}, trained to the end; {noise}"
        if code != FAILED or not any(line.startswith("error: ") for line in lines):
            raise Failed(f"exit code {code} instead of {FAILED}, with an error: {run.err()[-200:]}")
        step, line = run.step(), next(line for line in lines if line.startswith("error: "))
        if step < STEPS:
            raise Failed(f"it did not train to the end, only to step {step}: {line}")
        if max(kept(workdir), default=0) < saved[-1]:
            raise Failed(f"the checkpoint of step {saved[-1]} is lost")
        ballast.unlink()
        finished = lab.finish(workdir)
        return f"full after {saved[-1]}, trained on to {step}; {noise}; resumed from {finished.resumed_from()}"


def said_so(run: Run) -> bool:
    """Returns whether a run has reported that it could not save."""
    return "could not be saved" in run.out() + run.err()

"""Runs that are killed at any moment or during a save, and runs that are asked to stop."""

import functools
import os
import signal
import time

import numpy as np

from faults.lab import (
    LOG_EVERY,
    SAVE_EVERY,
    STEPS,
    TEMPORARY,
    Failed,
    Lab,
    NotHit,
    Run,
    Trial,
    describe_signal,
    kept,
    saving,
)

STOPPED = 75


def kill_trials(lab: Lab, count: int) -> list[Trial]:
    """Returns SIGKILL trials: half at times spread evenly over a run, half at steps spread evenly over a run."""
    trials = []
    for i in range(count):
        act = functools.partial(kill, lab, moment(i, count), again=i % 4 == 3)
        trials.append(Trial("kill", f"kill {i}", act, 2.0))
    return trials


def save_trials(lab: Lab, count: int) -> list[Trial]:
    """Returns trials with SIGKILL during a save: a third at its start, the other trials at a random moment."""
    return [
        Trial("kill_in_save", f"kill in save {i}", functools.partial(kill_in_save, lab, at_once=i % 3 == 0), 2.0)
        for i in range(count)
    ]


def term_trials(lab: Lab, count: int) -> list[Trial]:
    """SIGTERM at any moment, in a save, and twice in a row."""
    trials = []
    for i in range(count):
        act = functools.partial(term, lab, moment(i, count), in_save=i % 10 == 7, twice=i % 5 == 4)
        trials.append(Trial("term", f"term {i}", act, 2.0))
    return trials


def moment(i: int, count: int) -> tuple[str, float, float]:
    """Returns ("time" or "steps", low, high): the moment of a trial is drawn between these shares of a run."""
    strata = (count + 1) // 2
    return ("steps" if count == 1 or i % 2 else "time"), (i // 2) / strata, (i // 2 + 1) / strata


def wait_for_moment(lab: Lab, run: Run, when: tuple[str, float, float], rng: np.random.Generator) -> None:
    """Waits for a random moment of a run; raises NotHit if the run ends earlier."""
    unit, low, high = when
    share = rng.uniform(low, high)
    if unit == "time":
        end = time.monotonic() + share * lab.seconds
        run.until(lambda: time.monotonic() >= end)
    else:
        step = int(share * STEPS) // LOG_EVERY * LOG_EVERY
        run.until(lambda: run.step() >= step)
        time.sleep(rng.uniform(0, 0.3))


def kill(lab: Lab, when: tuple[str, float, float], rng: np.random.Generator, again: bool) -> str:
    """Kills a run, optionally also kills the run that resumes it, and lets the next run finish."""
    workdir = lab.new_workdir("kill")
    places = []
    for place in [when, ("time", 0.2, 0.9)] if again else [when]:
        run = Run(lab, workdir)
        try:
            wait_for_moment(lab, run, place, rng)
            run.send(signal.SIGKILL)
        except NotHit:
            if not places:
                raise
            break
        places.append(f"{run.phase()}{', saving' if saving(workdir) else ''}")
        if run.wait() != -signal.SIGKILL:
            raise NotHit("the run had ended")
    finished = lab.finish(workdir)
    return f"at {' and '.join(places)}; resumed from {finished.resumed_from()}"


def kill_in_save(lab: Lab, rng: np.random.Generator, at_once: bool) -> str:
    """Kills a run that is writing a checkpoint, so that an unfinished one remains; the next run finishes."""
    workdir = lab.new_workdir("kill_in_save")
    target = int(rng.integers(1, STEPS // SAVE_EVERY + 1)) * SAVE_EVERY
    delay = 0.0 if at_once else rng.uniform(0, lab.save_seconds)
    run = Run(lab, workdir)
    run.until(lambda: run.step() >= 0)
    run.until(lambda: any(int(name.split(".")[0]) >= target for name in saving(workdir)), poll=0.001)
    time.sleep(delay)
    run.send(signal.SIGKILL)
    run.wait()
    left = saving(workdir)
    if not left:
        raise NotHit("the save was over")
    names = [name for _, _, names in os.walk(workdir / "checkpoints" / left[0]) for name in names]
    finished = lab.finish(workdir)
    where = f"{left[0].removesuffix(TEMPORARY)} with {len(names)} files after {delay * 1000:.0f} ms"
    return f"left {where}; resumed from {finished.resumed_from()}"


def term(lab: Lab, when: tuple[str, float, float], rng: np.random.Generator, in_save: bool, twice: bool) -> str:
    """Asks a run to stop, requires the exit code for it, and lets the next run finish."""
    workdir = lab.new_workdir("term")
    run = Run(lab, workdir)
    if in_save:
        run.until(lambda: any(int(name.split(".")[0]) >= STEPS // 3 for name in saving(workdir)), poll=0.001)
    else:
        wait_for_moment(lab, run, when, rng)
    run.until(lambda: run.catches(signal.SIGTERM))
    run.send(signal.SIGTERM)
    begin, phase, step = time.monotonic(), run.phase(), run.step()
    if twice:
        time.sleep(rng.uniform(0, 0.2))
        if run.alive():
            run.send(signal.SIGTERM)
    code = run.wait()
    took = time.monotonic() - begin
    if code == 0 and f"step {STEPS} evaluation" in run.out():
        raise NotHit("the run had ended")
    if code != STOPPED:
        raise Failed(f"{describe_signal(code)} instead of {STOPPED} after SIGTERM at {phase}: {run.err()[-200:]}")
    if run.out() and "stopped by a signal" not in run.out():  # it prints nothing while importing
        raise Failed(f"it does not report that it was stopped, at {phase}")
    if "Traceback" in run.err():
        raise Failed(f"a traceback after SIGTERM at {phase}: {run.err()[-200:]}")
    if step > max(kept(workdir), default=0):
        raise Failed(
            f"the newest checkpoint after SIGTERM {'twice ' if twice else ''}at {phase} is of {kept(workdir)[-1:]}"
        )
    finished = lab.finish(workdir)
    how = "twice " if twice else "in a save " if in_save else ""
    return f"{how}at {phase}, ended after {took:.1f} s; resumed from {finished.resumed_from()}"

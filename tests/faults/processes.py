"""Two processes that train together: if one dies or is asked to stop, the other must not wait forever."""

import functools
import pathlib
import signal
import socket
import threading
import time

import numpy as np

from faults.lab import LOSSES, STEPS, Failed, Lab, NotHit, Results, Run, Trial, describe_signal
from faults.signals import STOPPED

BOUND = 120  # seconds within which the surviving process must notice
TOLERANCE = 1e-5  # of the losses against one process, which sums in another order


def process_trials(lab: Lab, count: int) -> list[Trial]:
    """Returns trials that send SIGKILL (training, compiling) or SIGTERM (training, starting) to one process."""
    together = Together(lab)
    cases = [
        (1, signal.SIGKILL, "training"),
        (0, signal.SIGKILL, "training"),
        (1, signal.SIGTERM, "training"),
        (1, signal.SIGTERM, "starting"),
        (1, signal.SIGKILL, "compiling"),
        (0, signal.SIGTERM, "training"),
        (0, signal.SIGKILL, "compiling"),
        (0, signal.SIGTERM, "starting"),
    ]
    trials = [Trial("process_killed", "two processes, undisturbed", together.undisturbed, 5.0)]
    for i in range(count):
        target, number, where = cases[i % len(cases)]
        name = f"{signal.Signals(number).name} to process {target}, {where}"
        trials.append(Trial("process_killed", name, functools.partial(together.struck, target, number, where), 5.0))
    return trials


class Together:
    """Runs of two processes, and the results of an undisturbed one."""

    def __init__(self, lab: Lab):
        self.lab, self.results, self.lock = lab, None, threading.Lock()

    def start(self, workdir: pathlib.Path) -> list[Run]:
        """Starts two processes on a free port."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
        return [Run(self.lab, workdir, *flags, f"--process_id={i}") for i in range(2)]

    def finish(self, workdir: pathlib.Path) -> Run:
        """Runs both to their end; returns the first."""
        runs = self.start(workdir)
        for run in runs:
            run.expect(0)
        return runs[0]

    def reference(self) -> Results:
        """Returns the results of the undisturbed run of two processes, which is made only once."""
        with self.lock:
            if self.results is None:
                workdir = self.lab.new_workdir("two")
                self.finish(workdir)
                self.results = Results(workdir)
            return self.results

    def undisturbed(self, rng: np.random.Generator) -> str:
        """Compares two processes with one."""
        found, expected = self.reference().metrics, self.lab.reference.metrics
        if [row.keys() for row in found] != [row.keys() for row in expected]:
            raise Failed("two processes report different lines than one process")
        worst = 0.0
        for row, wanted in zip(found, expected, strict=True):
            for name in row.keys() & {f"{kind}/{loss}" for kind in ("train", "eval") for loss in LOSSES}:
                worst = max(worst, abs(row[name] - wanted[name]) / abs(wanted[name]))
        if worst > TOLERANCE:
            raise Failed(f"the losses of two processes differ from those of one by {worst:.1e}")
        return f"losses within {worst:.1e} of those of one process"

    def struck(self, target: int, number: int, where: str, rng: np.random.Generator) -> str:
        """Sends a signal to one of two processes, waits for both, and then lets a new run finish."""
        reference, workdir = self.reference(), self.lab.new_workdir("two")
        runs = self.start(workdir)
        struck, other = runs[target], runs[1 - target]
        step = int(rng.integers(1, STEPS - 12))
        if where == "training":
            runs[0].until(lambda: runs[0].step() >= step)  # the second process prints no steps
        elif where == "starting":
            struck.until(lambda: struck.catches(signal.SIGTERM))
            time.sleep(rng.uniform(0, 3))  # it imports, waits for the other process or reads the data
        else:
            runs[0].until(lambda: "compiling" in runs[0].out())
            time.sleep(rng.uniform(0, 2))
        struck.send(number)
        begin, phase = time.monotonic(), runs[0].phase()
        try:
            codes = [run.wait(BOUND) for run in (struck, other)]
        finally:
            for run in runs:
                run.kill()
        took = time.monotonic() - begin
        if codes == [0, 0]:
            raise NotHit("the run had ended")
        if number == signal.SIGTERM and codes != [STOPPED, STOPPED]:
            raise Failed(f"{', '.join(map(describe_signal, codes))} after SIGTERM to process {target} at {phase}")
        if number == signal.SIGKILL and codes[1] == 0:
            raise Failed(f"the other process ended with exit code 0 at {phase}")
        finished = self.finish(workdir)
        self.lab.compare(workdir, reference)
        how = f"at {phase}: the other one ended after {took:.1f} s with {describe_signal(codes[1])}"
        return f"{how}; resumed from {finished.resumed_from()}"

"""Injects the faults of long runs into small real runs, and checks that the results stay equal bit for bit.

    python tests/faults.py [--quick | --trials=1.0] [--only=kill,damage] [--out=FILE.json]

The faults are kills at any moment and during a save, stop signals, damaged checkpoints, a full disk, and one of two
processes that dies. After each fault, the same command must finish with the metrics and arrays of an undisturbed run,
bit for bit. Exit code 1 if any trial fails. All trials take about 20 minutes on two cores.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import signal
import sys
import tempfile
import threading
import time

os.environ["JAX_PLATFORMS"] = "cpu"  # to read checkpoints in this process; the runs inherit it

import numpy as np
from faults import lab as laboratory
from faults.damage import DAMAGES, damage_trials
from faults.disk import disk_trials
from faults.lab import Failed, Lab, NotHit, Skipped, Trial
from faults.processes import process_trials
from faults.signals import kill_trials, save_trials, term_trials

# (function that makes the trials of a kind, number of trials, number with --quick)
KINDS = {
    "kill": (kill_trials, 20, 1),
    "kill_in_save": (save_trials, 10, 1),
    "term": (term_trials, 10, 1),
    "damage": (damage_trials, len(DAMAGES), 1),
    "disk_full": (disk_trials, 4, 1),
    "process_killed": (process_trials, 8, 0),
}
STATES = ("passed", "failed", "skipped", "missed")
ATTEMPTS = 6  # for a trial whose fault comes too late; after that, it counts as missed


def main() -> int:
    """Runs the trials of the command line and reports them."""
    arguments = parse_arguments()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # leaves no run and no mount behind
    folder = pathlib.Path(tempfile.mkdtemp(prefix="faults-", dir=arguments.dir))
    lab = Lab(folder, arguments.small_disk)
    begin, outcomes = time.monotonic(), []
    try:
        outcomes.append(perform(Trial("undisturbed", "reference", lambda rng: lab.make_reference()), 0))
        if outcomes[0]["state"] == "passed":
            if not arguments.quick:
                outcomes.append(perform(Trial("undisturbed", "again", lambda rng: lab.make_control()), 0))
            trials = plan(lab, arguments)
            pool = concurrent.futures.ThreadPoolExecutor(arguments.jobs)
            progress = Progress(trials)
            futures = [pool.submit(progress.perform, trial, arguments.seed) for trial in trials]
            outcomes += [future.result() for future in futures]
    finally:
        lab.close()  # after Ctrl-C, runs remain, and trials that would start more
    seconds = time.monotonic() - begin
    failed = any(outcome["state"] == "failed" for outcome in outcomes)
    print(report(outcomes, seconds), flush=True)
    if arguments.out:
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(
            json.dumps({"seconds": seconds, "summary": count(outcomes), "trials": outcomes}, indent=1)
        )
    if failed:
        print(f"the failed runs are in {folder}")
    else:
        laboratory.remove(folder)
    return int(failed)


def parse_arguments() -> argparse.Namespace:
    """Returns the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=float, default=1.0, help="number of trials, as a multiple of the usual number")
    parser.add_argument("--quick", action="store_true", help="one trial of each kind in 90 seconds; no second process")
    parser.add_argument("--only", default="", help=f"kinds of trials, out of {','.join(KINDS)}")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments and places of faults")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="concurrent trials")
    parser.add_argument("--out", type=pathlib.Path, help="JSON file for all results")
    parser.add_argument("--dir", type=pathlib.Path, help="parent of the temporary folder")
    parser.add_argument("--small_disk", type=pathlib.Path, help="folder on a small file system to fill")
    arguments = parser.parse_args()
    arguments.only = [kind for kind in arguments.only.split(",") if kind] or list(KINDS)
    if unknown := set(arguments.only) - KINDS.keys():
        parser.error(f"--only: {', '.join(sorted(unknown))} is unknown; known: {', '.join(KINDS)}")
    return arguments


def plan(lab: Lab, arguments: argparse.Namespace) -> list[Trial]:
    """Returns the trials of all requested kinds."""
    trials = []
    for kind in arguments.only:
        make, usual, quick = KINDS[kind]
        number = quick if arguments.quick else max(1, round(usual * arguments.trials))
        trials += make(lab, number) if number else []
    return trials


def perform(trial: Trial, seed: int) -> dict:
    """Runs a trial, repeats it if its fault came too late, and returns the outcome."""
    begin, misses = time.monotonic(), []
    state, note = "missed", ""
    for attempt in range(ATTEMPTS):
        name_seed = list(f"{trial.kind} {trial.name}".encode())
        try:
            state, note = "passed", trial.act(np.random.default_rng([seed, attempt, *name_seed]))
        except NotHit as error:
            misses.append(str(error))
            note = str(error)
            continue
        except Skipped as error:
            state, note = "skipped", str(error)
        except Failed as error:
            state, note = "failed", str(error)
        except Exception as error:  # an error in this script must not count as a success
            state, note = "failed", f"{type(error).__name__}: {error}"
        break
    else:
        state = "missed"
    seconds, note = round(time.monotonic() - begin, 1), " ".join(note.split())
    return {"kind": trial.kind, "name": trial.name, "state": state, "note": note, "missed": misses, "seconds": seconds}


class Progress:
    """Reports outcomes and the remaining time."""

    def __init__(self, trials: list[Trial]):
        self.total, self.done = sum(trial.weight for trial in trials), 0.0
        self.begin, self.lock = time.monotonic(), threading.Lock()

    def perform(self, trial: Trial, seed: int) -> dict:
        """Runs a trial and reports it."""
        outcome = perform(trial, seed)
        with self.lock:
            self.done += trial.weight
            left = (time.monotonic() - self.begin) / self.done * (self.total - self.done)
            words = [f"{outcome['state']:7}", f"{trial.kind}: {trial.name}", f"({outcome['note']})"]
            print("  ".join([*words, f"{outcome['seconds']:.0f} s, {left / 60:.0f} min left"]), flush=True)
        return outcome


def count(outcomes: list[dict]) -> dict[str, dict[str, int]]:
    """Returns the number of trials by kind and outcome."""
    summary: dict[str, dict[str, int]] = {}
    for outcome in outcomes:
        row = summary.setdefault(outcome["kind"], dict.fromkeys(("trials", *STATES, "repeated"), 0))
        row["trials"] += 1
        row[outcome["state"]] += 1
        row["repeated"] += len(outcome["missed"])
    return summary


def report(outcomes: list[dict], seconds: float) -> str:
    """Returns the table and a line for each trial that did not pass."""
    names = ("trials", *STATES, "repeated")
    lines = ["", f"{'kind':16}" + "".join(f"{name:>10}" for name in names)]
    for kind, row in count(outcomes).items():
        lines.append(f"{kind:16}" + "".join(f"{row[name]:>10}" for name in names))
    lines += [
        f"{outcome['state']}: {outcome['kind']}, {outcome['name']}: {outcome['note']}"
        for outcome in outcomes
        if outcome["state"] != "passed"
    ]
    return "\n".join([*lines, f"{seconds / 60:.1f} min"])


if __name__ == "__main__":
    sys.exit(main())

"""Runs one stage in its own process and ends it with all of its child processes."""

import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from benchmarks.accelerator_stages.stage import Stage, dump

TICK = 0.2  # seconds between two calls of `look`


def run(
    plan: Stage, environment: dict[str, str], log: pathlib.Path, ends: float, look: Callable[[], None]
) -> int | None:
    """Runs a stage and returns its exit code, None if it was killed at the time `ends`.

    Its output goes to the file `log`. `look` is called every TICK seconds meanwhile.
    """
    command = [sys.executable, "-m", "benchmarks.accelerator_stages", dump(plan)]
    with log.open("w") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file, start_new_session=True)
    try:
        while process.poll() is None and time.time() < ends:
            look()
            time.sleep(TICK)
        return process.poll()
    finally:
        end_session(process)


def end_session(process: subprocess.Popen) -> None:
    """Kills a process and all processes of its session, including stopped ones and other process groups."""
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            session = int((entry / "stat").read_text().rpartition(")")[2].split()[3])
            if session == process.pid:
                os.kill(int(entry.name), signal.SIGKILL)
        except (OSError, ValueError):
            continue  # the process has already ended
    process.wait()

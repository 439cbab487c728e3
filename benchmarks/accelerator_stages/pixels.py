"""Stage `learn`, concurrent with the training: k-NN and linear classifier of raw pixels, on half of the cores."""

import dataclasses
import os
import subprocess
import sys

from benchmarks.accelerator_stages import protocols, training
from benchmarks.accelerator_stages.stage import Stage, dump
from sit_jax.eval.data import load_labelled
from sit_jax.parallel.mesh import make_mesh

SHRUNK = 8  # pixels
NICENESS = 10
NAME = "raw pixels"


def start(stage: Stage) -> subprocess.Popen:
    """Starts a process that adds the scores as rows of this stage."""
    plan = dataclasses.replace(stage, module="benchmarks.accelerator_stages.pixels")
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.accelerator_stages", dump(plan)], env=environment)
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(process.pid, cores[len(cores) // 2 :])
    os.setpriority(os.PRIO_PROCESS, process.pid, NICENESS)
    return process


def wait(stage: Stage, process: subprocess.Popen) -> None:
    """Waits while there is time, and adds a row if the process failed or did not finish."""
    try:
        code = process.wait(max(0.0, stage.left()))
        if code:
            stage.add("learn", NAME, "failed", note=f"exit code {code}; see the log of this stage")
    except subprocess.TimeoutExpired:
        process.kill()
        stage.add("learn", NAME, "skipped", note="not all of them were finished in time")


def main(stage: Stage) -> None:
    """Adds the scores, the fast ones first."""
    config = training.prepare(stage, {})
    data = load_labelled(config.data.source, config, 0)
    mesh = make_mesh()
    sides = tuple(dict.fromkeys((SHRUNK, config.data.image_size or config.model.image_size)))
    scores = {side: protocols.of_pixels(config, data, mesh, side) for side in sides}
    for protocol in ("k-NN", "linear"):
        for side in sides:
            protocols.add_scores(stage, f"{NAME}, {side} px", {protocol: scores[side][protocol]})

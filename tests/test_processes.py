"""Two processes on this machine as two hosts: they stop together, end together, and go on as one."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from conftest import ROOT

pytestmark = pytest.mark.usefixtures("quick_compilation")
STEPS = 2000  # more than are ever done
QUICK = ["--config.model.image_size=8", "--config.data.image_size=8"]  # what compiles in less than half the time
QUICK += [f"--config.views.{name}=0" for name in ("brightness", "contrast", "saturation")]
BOUND = 90  # seconds within which a process must end after another one died: 60 without a sign of life, and the rest


def launch(workdir, port, processes, devices):
    """Starts the same training in processes of their own."""
    command = [sys.executable, "-m", "sit_jax.main", "--config=configs/digits.py:runlocal", f"--workdir={workdir}"]
    command += [f"--config.steps={STEPS}", "--config.optim.warmup_steps=2", *QUICK]
    command += ["--config.eval.knn=off", "--config.log_every=1", "--config.checkpoint_every=1000"]
    if processes > 1:
        command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={processes}"]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True, "cwd": ROOT, "env": env}
    ids = [[f"--process_id={i}"] if processes > 1 else [] for i in range(processes)]
    return [subprocess.Popen([*command, *flags], **pipes) for flags in ids]


def wait_until_it_keeps_signals(worker):
    """Until the first lines of the command have run: before them, Python has not started and SIGTERM just kills."""
    status = pathlib.Path(f"/proc/{worker.pid}/status")
    while not int(re.search(r"^SigBlk:\s*(\w+)", status.read_text(), re.M)[1], 16) >> (signal.SIGTERM - 1) & 1:
        time.sleep(0.01)


def wait_for_step(workdir, step):
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if (workdir / "metrics.jsonl").exists() and f'"step": {step},' in (workdir / "metrics.jsonl").read_text():
            return
        time.sleep(0.05)
    raise AssertionError(f"step {step} was not reached")


def losses(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [
        [row[f"train/{name}"] for name in ("reconstruction", "rotation", "contrastive")]
        for row in rows
        if "train/loss" in row
    ]


@pytest.fixture
def start(free_port):
    """Starts a training in processes of their own; none is left behind."""
    started = []

    def start_and_wait(workdir, step, **kwargs):
        started.extend(workers := launch(workdir, free_port(), **kwargs))
        if step is not None:
            wait_for_step(workdir, step)
        return workers

    yield start_and_wait
    for worker in started:
        worker.kill()
        worker.wait()


@pytest.mark.slow
def test_two_processes_stop_together_end_together_and_go_on_as_one(start, tmp_path):
    run, alone = tmp_path / "run", tmp_path / "alone"
    two = start(run, None, processes=2, devices=1)
    wait_until_it_keeps_signals(two[1])
    two[1].send_signal(signal.SIGTERM)  # to one of them, which imports or waits for the other
    outputs = [worker.communicate(timeout=BOUND)[0] for worker in two]
    assert [worker.returncode for worker in two] == [75, 75], outputs
    (saved,) = [int(path.name) for path in (run / "checkpoints").iterdir()]
    assert len(losses(run)) == saved
    assert f"step {saved}/{STEPS}" in outputs[0] and f"step {saved}/{STEPS}" not in outputs[1]  # one of them reports

    two = start(run, saved + 3, processes=2, devices=1)
    two[1].kill()
    output = two[0].communicate(timeout=BOUND)[0]
    assert two[0].returncode not in (0, 2, 75), output
    assert f"resuming from the checkpoint of step {saved}" in output

    for workdir in (alone, run):  # one process with as many devices: another mesh of the same size
        (one,) = start(workdir, saved + 5, processes=1, devices=2)
        one.kill()
        output = one.communicate()[0]
    assert f"resuming from the checkpoint of step {saved}" in output
    np.testing.assert_allclose(losses(run)[: saved + 5], losses(alone)[: saved + 5], rtol=1e-5)

"""Stage `right`: checks of whole runs (resume, allocator settings) and of the evaluation protocols."""

import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp

from benchmarks.accelerator_stages.stage import Skip, Stage, fresh
from sit_jax.common import allocator
from sit_jax.parallel.mesh import make_mesh
from sit_jax.probes.knn import knn_votes
from sit_jax.probes.linear import linear_logits

HALF, WHOLE = 10, 20  # steps until the checkpoint to resume from, and steps in all
RESUMED = ("first", "second")
RUN_SECONDS = 120  # for a tiny training, including start and compilation
TRAINING = (
    *("--config=configs/digits.py:runlocal", f"--config.steps={WHOLE}", "--config.keep_latest=2"),
    *(f"--config.checkpoint_every={HALF}", f"--config.eval_every={WHOLE}", f"--config.log_every={HALF}"),
)
ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
RESTART = """
from sit_jax.common.allocator import restart_with_settings
restart_with_settings()
import os, jax
jax.block_until_ready(jax.jit(lambda x: x @ x)(jax.numpy.ones((512, 512))))
with open("/proc/self/maps") as maps:
    loaded = "jemalloc" in maps.read()
print("RESTARTED", "jemalloc" in os.environ.get("LD_PRELOAD", ""), loaded)
"""


class Resume:
    """A tiny training of WHOLE steps and two trainings resumed from its checkpoint at HALF, each in its own process.

    They run during the other checks, because they mostly start and compile.
    """

    def __init__(self, stage: Stage):
        self.stage, self.folder = stage, fresh(pathlib.Path(stage.work) / "resume")
        self.straight = start(self.folder / "straight")
        self.resumed: dict[str, subprocess.Popen] = {}
        self.failure: Exception | None = None

    def go_on(self) -> None:
        """Starts the two resumed trainings after the first training has ended."""
        try:
            wait(self.stage, self.straight)
            for name in RESUMED:
                shutil.copytree(self.folder / "straight", self.folder / name)
                shutil.rmtree(self.folder / name / "checkpoints" / str(WHOLE))
                self.resumed[name] = start(self.folder / name)
        except Exception as error:
            self.failure = error  # `compare` raises it, so only the rows of the resume fail

    def compare(self, name: str) -> tuple[float, float, str]:
        """Returns the number of arrays in which a resumed training differs by a bit from the first training."""
        if self.failure:
            raise self.failure
        wait(self.stage, self.resumed[name])
        found, expected = arrays(self.folder / name), arrays(self.folder / "straight")
        differing = sum(a.tobytes() != b.tobytes() for a, b in zip(found, expected, strict=True))
        return float(differing), 0.0, f"of {len(expected)} arrays differ in a bit from the run without a stop"


def start(workdir: pathlib.Path) -> subprocess.Popen:
    """Starts a training in `workdir`, or resumes it."""
    command = [sys.executable, "-m", "sit_jax.main", *TRAINING, f"--workdir={workdir}"]
    return subprocess.Popen(command, cwd=ROOT)


def wait(stage: Stage, process: subprocess.Popen) -> None:
    """Waits for a training; raises RuntimeError if it fails or takes too long."""
    try:
        code = process.wait(timeout=max(1.0, min(RUN_SECONDS, stage.left())))
    except subprocess.TimeoutExpired:
        process.kill()
        raise RuntimeError("a training did not end in the time of this stage") from None
    if code:
        raise RuntimeError(f"a training ended with exit code {code}; see the log of this stage")


def arrays(workdir: pathlib.Path) -> list[np.ndarray]:
    """Returns all arrays of the last checkpoint of a run."""
    tree = ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(WHOLE) / "state").absolute())
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


def restart(stage: Stage) -> tuple[float, float, str]:
    """Checks that a restarted process has the allocator settings and computes a product on the device."""
    found = allocator.settings()
    if not found:
        raise Skip("no settings apply: no jemalloc is installed, no huge pages are offered, or the user made them")
    command = [sys.executable, "-c", RESTART]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=max(1.0, min(60.0, stage.left()))
    )
    answer = next((line.split()[1:] for line in done.stdout.splitlines() if line.startswith("RESTARTED")), None)
    if answer is None:
        raise RuntimeError(f"exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return float(answer[0] != answer[1]), 0.0, f"processes without what was set ({', '.join(found)})"


def evaluation_checks(cpu: jax.Device, device: jax.Device) -> dict[str, Callable[[], tuple[float, float, str]]]:
    """Returns the checks of k-NN and linear classifier by name: the same features on both devices."""
    rng, classes = np.random.default_rng(0), 10
    labels = np.arange(1500) % classes
    centres = rng.normal(size=(classes, 2, 32))
    features = (centres[labels] + 2.0 * rng.normal(size=(1500, 2, 32))).astype(np.float32)
    train, test = slice(0, 1000), slice(1000, 1500)
    meshes = [make_mesh(devices=[cpu]), make_mesh(devices=[device])]

    def knn() -> tuple[float, float, str]:
        on_cpu, here = (
            knn_votes(features[train], labels[train], features[test], classes, (20,), 0.07, mesh)[20] for mesh in meshes
        )
        return float(np.mean(on_cpu.argmax(1) != here.argmax(1))), 0.004, "of the predictions differ"

    def linear() -> tuple[float, float, str]:
        on_cpu, here = (
            linear_logits(features[train], labels[train], features[test], classes, (1e-1, 1e-2), 0.1, 0, mesh)[0]
            for mesh in meshes
        )
        return float(np.max(np.abs(here - on_cpu)) / np.max(np.abs(on_cpu))), 1e-2, "largest difference of the logits"

    return {"k-NN": knn, "linear classifier": linear}

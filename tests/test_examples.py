"""Each example runs as its first lines say."""

import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

import sit_jax

pytestmark = pytest.mark.usefixtures("quick_compilation")
OPTIONS = {"eval__page": 0, "steps": 2, "eval_every": 2, "checkpoint_every": 2, "log_every": 1}


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return sit_jax.pretrain("digits", tmp_path_factory.mktemp("run"), config="digits:runlocal", **OPTIONS).workdir


def run(name, *arguments):
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}  # as if it were installed
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=240)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_neighbours_and_clusters(workdir, tmp_path):
    rng = np.random.default_rng(0)
    photos = tmp_path / "photos"
    photos.mkdir()
    for i in range(12):
        Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(photos / f"{i}.png")
    printed = run("neighbours_and_clusters.py", f"--workdir={workdir}", f"--images={photos}", f"--out={tmp_path}")
    assert "12 pictures, 8 clusters" in printed
    assert Image.open(tmp_path / "neighbours.png").size == (9 * 96, 8 * 96)
    assert Image.open(tmp_path / "clusters.png").size[1] == 8 * 96


def test_features_into_scikit_learn(workdir):
    printed = run("scikit_learn.py", f"--workdir={workdir}")
    assert "features: accuracy 0." in printed and "pixels: accuracy 0.8" in printed


def test_a_head_of_your_own_in_jax(workdir):
    printed = run("head_in_jax.py", f"--workdir={workdir}", "--steps=60")
    first, last = (float(printed.split()[k].rstrip(";")) for k in (3, 5))
    assert last < first / 10


def test_export_to_timm(workdir, tmp_path):
    printed = run("export_to_timm.py", f"--workdir={workdir}", f"--out={tmp_path / 'timm'}", "--steps=2")
    assert (tmp_path / "timm" / "model.safetensors").is_file()
    assert "step 2: cross-entropy" in printed or "no fine-tuning: " in printed


def test_every_example_has_a_test():
    tested = (ROOT / "tests" / "test_examples.py").read_text()
    for path in (ROOT / "examples").glob("*.py"):
        assert f'run("{path.name}"' in tested

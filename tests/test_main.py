"""The command as a user types it: wrong input is one line and exit code 2, and nothing of it needs TensorFlow."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = "--config=configs/digits.py:runlocal"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Image folders to go wrong with."""
    root = tmp_path_factory.mktemp("folders")
    for name in ("flat", "broken", "empty"):
        (root / name).mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        for name in ("flat", "broken"):
            Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(root / name / f"{i}.png")
    (root / "broken" / "17.png").write_bytes(b"not a picture")
    return root


WRONG = [
    ([], "--config is missing"),
    (["--config=configs/nothing.py"], "configs/nothing.py"),
    ([CONFIG, "--config.modle.size=S"], "error: --config.modle.size: there is no such key (did you mean model.size?)"),
    ([CONFIG, "--config.batch_size=many"], "batch_size"),
    ([CONFIG, "--confg=1"], "confg"),
    ([CONFIG, "extra"], "'extra' is not understood"),
    (
        ["--config=configs/digits.py:runlocl"],
        "'runlocl' is unknown (did you mean runlocal?); known: variant",
    ),
    ([CONFIG, "--config.model.patch_size=5"], "divisible by model.patch_size=5"),
    ([CONFIG, "--config.batch_size=2000"], "more than the 1437 images"),
    ([CONFIG, "--config.data.source=folder:FOLDERS/missing"], "there is no such folder"),
    ([CONFIG, "--config.data.source=folder:FOLDERS/empty"], "holds no images"),
    ([CONFIG, "--config.data.source=folder:FOLDERS/broken"], "17.png: unreadable image"),
    ([CONFIG, "--config.data.source=folder:FOLDERS/flat", "--config.eval.knn=on"], "needs labels"),
    ([CONFIG, "--config.data.source=ftp:somewhere"], "folder:PATH"),
    ([CONFIG, "--config.data.source=tfds:cifar10"], "python -m sit_jax.data.prepare tfds:cifar10"),
]
# One process imports the command once and forks for each of the cases, before anything of JAX has started.
FORKS = """
import json, os, sys
from sit_jax.main import main
for number, arguments in enumerate(json.loads(sys.argv[1])):
    if (child := os.fork()) == 0:
        for stream, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(f"{sys.argv[2]}/{number}.{name}", os.O_WRONLY | os.O_CREAT), stream)
        sys.argv = ["main", *arguments]
        sys.exit(main(sys.argv))
    with open(f"{sys.argv[2]}/{number}.code", "w") as file:
        file.write(str(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])))
"""


@pytest.fixture(scope="module")
def ended(folders, tmp_path_factory):
    """How the command ended for each of the wrong inputs: a folder with exit codes, what was printed, and runs."""
    root = tmp_path_factory.mktemp("wrong")
    cases = [
        [*(argument.replace("FOLDERS", str(folders)) for argument in arguments), f"--workdir={root / str(number)}"]
        for number, (arguments, _) in enumerate(WRONG)
    ]
    env = os.environ | {"TFDS_DATA_DIR": str(root / "tfds")}
    command = [sys.executable, "-c", FORKS, json.dumps(cases), str(root)]
    subprocess.run(command, cwd=ROOT, env=env, check=True, capture_output=True, timeout=300)
    return root


@pytest.mark.parametrize("number", range(len(WRONG)), ids=[expected for _, expected in WRONG])
def test_wrong_input_is_one_line_and_exit_code_2(ended, number):
    error = (ended / f"{number}.err").read_text()
    assert (ended / f"{number}.code").read_text() == "2", error
    lines = error.strip().splitlines()
    assert len(lines) == 1, error
    assert lines[0].startswith("error: ")
    assert WRONG[number][1] in lines[0]
    assert not (ended / str(number)).exists()


def test_batch_must_divide_by_the_devices(run_module, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_NUM_CPU_DEVICES", "3")
    done = run_module("sit_jax.main", CONFIG, f"--workdir={tmp_path / 'run'}")
    assert (done.returncode, done.stderr) == (
        2,
        "error: batch_size=32 is not divisible by the 3 devices; use 33 or 30\n",
    )


WITHOUT_TENSORFLOW = """
import sys
sys.modules["tensorflow"] = None
from sit_jax.main import main
sys.exit(main(["main", *sys.argv[1:]]))
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory, quick_compilation):
    """A training of two steps where TensorFlow cannot be imported: the finished process and the work directory."""
    workdir = tmp_path_factory.mktemp("trained")
    arguments = [CONFIG, "--config.steps=2", "--config.eval.page=0", f"--workdir={workdir}"]
    command = [sys.executable, "-c", WITHOUT_TENSORFLOW, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200), workdir


def test_training_needs_no_tensorflow(trained):
    done, workdir = trained
    assert done.returncode == 0, done.stderr
    assert "eval/knn_top1" in (workdir / "metrics.jsonl").read_text()


def test_workdir_of_another_config_names_the_keys(run_module, trained):
    _, workdir = trained
    before = (workdir / "metrics.jsonl").read_text()
    changed = ["--config.steps=2", "--config.seed=3", "--config.loss.temperature=0.1"]
    done = run_module("sit_jax.main", CONFIG, f"--workdir={workdir}", *changed)
    assert done.returncode == 2
    assert "loss.temperature: 0.2 -> 0.1; seed: 0 -> 3" in done.stderr
    assert (workdir / "metrics.jsonl").read_text() == before


def test_importing_the_core_is_light():
    code = "import sys, sit_jax.train, sit_jax.train.loop; print(' '.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    heavy = {"tensorflow", "tensorflow_datasets", "matplotlib", "sklearn", "torch"}
    assert not heavy & set(done.stdout.split())


def test_folder_command_of_the_readme(run_module, folders, tmp_path):
    arguments = ["--config=configs/folder.py:runlocal", f"--config.data.source=folder:{folders / 'flat'}"]
    overrides = ["--config.steps=2"]
    overrides += [
        "--config.corrupt.drop.fraction=(0.5, 0.7)",
        "--config.model.remat",
        "--config.loss.weights.rotation=0",
    ]
    done = run_module("sit_jax.main", *arguments, *overrides, f"--workdir={tmp_path / 'run'}")
    assert done.returncode == 0, done.stderr
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["corrupt"]["drop"]["fraction"] == [0.5, 0.7]
    assert config["model"]["remat"]
    assert (tmp_path / "run" / "reconstructions" / "2.png").exists()
    assert (
        f"page: {tmp_path / 'run' / 'report.html'}" in done.stdout
        and "Attention" in (tmp_path / "run" / "report.html").read_text()
    )

"""--log: Weights & Biases and MLflow, without a network, in a run that is extended; what fails; wrong names."""

import json
import sys

import numpy as np
import pytest

import sit_jax
from sit_jax import main
from sit_jax.train import writers
from sit_jax.train.metrics import MetricsWriter
from sit_jax.train.writers import Row, Safe, open_writers

pytestmark = pytest.mark.usefixtures("quick_compilation")
SMALL = {"batch_size": 8, "eval_every": 2, "checkpoint_every": 2, "log_every": 1, "eval__page": 0, "eval__knn": "off"}
# What compiles in less than half the time.
SMALL |= {"model__image_size": 8, "data__image_size": 8}
SMALL |= {f"views__{name}": 0.0 for name in ("brightness", "contrast", "saturation")}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of two steps, extended to four, with both writers."""
    pytest.importorskip("wandb")
    pytest.importorskip("mlflow")
    images = np.random.default_rng(0).integers(0, 256, (24, 12, 12, 3), np.uint8)
    workdir = tmp_path_factory.mktemp("log") / "mine"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDB_MODE", "offline")
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for steps in (2, 4):
            done = sit_jax.pretrain(images, workdir, "digits:runlocal", log=["wandb", "mlflow"], steps=steps, **SMALL)
    return done


@pytest.mark.slow
def test_mlflow_has_the_metrics_and_pictures_in_one_run(run):
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run.workdir}/mlflow.db")
    experiment = client.get_experiment_by_name(writers.PROJECT)
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "mine" and found.info.status == "FINISHED"
    assert found.data.params["batch_size"] == "8" and found.data.params["eval.knn"] == "off"
    history = client.get_metric_history(found.info.run_id, "train/loss")
    expected = {line["step"]: line["train/loss"] for line in run.metrics if "train/loss" in line}
    assert {one.step: one.value for one in history} == pytest.approx(expected) and len(expected) == 4
    assert {one.step for one in client.get_metric_history(found.info.run_id, "eval/loss")} == {0, 2, 4}
    assert len(list((run.workdir / "mlflow").rglob("reconstructions*.png"))) == 3


@pytest.mark.slow
def test_wandb_has_the_metrics_and_pictures_in_one_run(run):
    ids = json.loads((run.workdir / "log.json").read_text())
    folders = sorted((run.workdir / "wandb").glob(f"offline-run-*-{ids['wandb']}"))
    assert len(folders) == 2  # wandb joins both parts of a run by its id
    assert len(list((run.workdir / "wandb").rglob("reconstructions*.png"))) == 3
    written = b"".join(path.read_bytes() for folder in folders for path in folder.glob("*.wandb"))
    for line in run.metrics:
        for name in ("train/loss", "eval/loss"):
            if name in line:
                assert name.encode() in written and repr(line[name]).encode() in written


class Broken:
    """Fails at each call."""

    id = "1"

    def __init__(self, *args):
        self.calls = 0

    def write(self, step, scalars):
        self.calls += 1
        raise RuntimeError("no\nroute")


def test_a_writer_that_fails_warns_once_and_the_metrics_are_written(tmp_path, capsys):
    broken = Broken()
    writer = MetricsWriter(tmp_path, 0, False, [Safe("wandb", broken)])
    for step in range(3):
        writer.write(step, 0.0, {"train/loss": 1.0})
    writer.close()
    assert broken.calls == 1
    assert capsys.readouterr().err == (
        "warning: --log=wandb: cannot write (no route); the training continues without it\n"
    )
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


def test_a_writer_that_cannot_be_opened_is_left_out(tmp_path, monkeypatch, capsys):
    config = main.parse(["main", "--config=digits:runlocal"])[1]

    def refuse(*args):
        raise OSError("no server")

    monkeypatch.setitem(writers.WRITERS, "wandb", Row(refuse, "json", "x"))
    monkeypatch.setitem(writers.WRITERS, "toy", Row(Broken, "json", "x"))
    (found,) = open_writers(["wandb", "toy"], tmp_path, config)
    assert found.name == "toy" and json.loads((tmp_path / "log.json").read_text()) == {"toy": "1"}
    assert "--log=wandb: cannot be opened (no server)" in capsys.readouterr().err


@pytest.mark.parametrize(
    "names,expected",
    [
        ("tensorbord", "--log=tensorbord: is unknown; known: wandb, mlflow"),
        ("wandb,wandb", "wandb is given twice"),
        ("wandb,", "--log has an empty value"),
        ("mlflow", "--log=mlflow needs its package; pip install mlflow-skinny sqlalchemy alembic"),
    ],
)
def test_wrong_names_are_one_line_before_anything_long(tmp_path, monkeypatch, capsys, names, expected):
    monkeypatch.setitem(sys.modules, "mlflow", None)
    monkeypatch.setattr(writers.importlib.util, "find_spec", lambda name: None if name == "mlflow" else object())
    monkeypatch.setattr(main, "train", None)
    assert main.main(["main", "--config=digits:runlocal", f"--workdir={tmp_path / 'run'}", f"--log={names}"]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and expected in lines[0]
    assert not (tmp_path / "run").exists()

"""Whole runs: what they write, that they resume bit for bit, how they stop."""

import contextlib
import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from conftest import ROOT
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs import digits
from sit_jax.common.errors import InputError
from sit_jax.config.resolve import resolve
from sit_jax.draw.pictures import LINE, text_width
from sit_jax.draw.rebuilt import TURNED
from sit_jax.train import loop
from sit_jax.train.checkpoint import Checkpoints
from sit_jax.train.metrics import MetricsWriter
from sit_jax.train.state import abstract_state, make_training

pytestmark = pytest.mark.usefixtures("quick_compilation")

SHORT = {
    "eval.page": 0,
    "steps": 20,
    "log_every": 3,
    "eval_every": 8,
    "checkpoint_every": 6,
    "model.image_size": 16,
    "optim.warmup_steps": 4,
    "optim.base_learning_rate": 1e-3,
    "dtype": "float32",  # all through, whatever the processor: commands are compared with trainings in this process
}
TRAIN_KEYS = {
    "train/loss",
    "train/reconstruction",
    "train/rotation",
    "train/contrastive",
    "train/rotation_accuracy",
    "train/log_var_reconstruction",
    "train/log_var_rotation",
    "train/log_var_contrastive",
    "train/learning_rate",
    "train/grad_norm",
}
EVAL_KEYS = {
    f"eval/{name}"
    for name in (
        *("loss", "rotation_accuracy", "reconstruction", "copy", "knn_top1", "linear_top1", "kmeans_nmi", "rank_me"),
        *("lidar", "alignment", "uniformity", "contrastive_progress", "negative_cosine", "shared_variance"),
        *("token_std_rotation", "token_std_contrastive"),
    )
}


def make_config(**values):
    c = digits.get_config("runlocal")
    c.update_from_flattened_dict(SHORT | values)
    return c


def metrics_of(workdir):
    """The lines of metrics.jsonl without the times, which no two runs share."""
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def final_state(workdir):
    path = workdir / "checkpoints" / "20" / "state"
    return ocp.StandardCheckpointer().restore(path.absolute())


def command(workdir):
    flags = [f"--config.{name}={value}" for name, value in SHORT.items()]
    return [sys.executable, "-m", "sit_jax.main", "--config=configs/digits.py:runlocal", f"--workdir={workdir}", *flags]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The work directory of a run on one device that nothing stopped."""
    workdir = tmp_path_factory.mktemp("undisturbed")
    subprocess.run(command(workdir), cwd=ROOT, check=True, capture_output=True, timeout=200)
    return workdir


def run_and_signal(workdir, number, at_step):
    """Starts a run, sends it a signal once it reports the step, and returns its exit code and what it printed."""
    printed = []
    with subprocess.Popen(command(workdir), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            printed.append(line)
            if line.startswith(f"step {at_step}/"):
                for _ in range(2 if number == signal.SIGTERM else 1):  # launchers and systems may both send it
                    os.kill(process.pid, number)
        return process.wait(timeout=100), "".join(printed)


def test_what_a_run_writes(undisturbed):
    rows = metrics_of(undisturbed)
    assert [row["step"] for row in rows if "eval/loss" in row] == [0, 8, 16, 20]
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 3, 6, 9, 12, 15, 18, 20]
    for row in rows:
        assert row.keys() - {"step", "epoch"} >= (EVAL_KEYS if "eval/loss" in row else TRAIN_KEYS)
        np.testing.assert_allclose(row["epoch"], row["step"] * 32 / 1437, atol=1e-4)
    assert {path.name for path in (undisturbed / "reconstructions").iterdir()} == {"0.png", "8.png", "16.png", "20.png"}
    assert Image.open(undisturbed / "reconstructions" / "20.png").size == (text_width(TURNED) + 8 * 100, 4 * 100 + LINE)
    config = json.loads((undisturbed / "config.json").read_text())
    assert (config["steps"], config["data"]["num_examples"], config["dtype"]) == (20, 1437, "float32")
    assert any(path.name.startswith("events") for path in undisturbed.iterdir())
    timed = [json.loads(line) for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    shares = [row["time/data_wait_fraction"] for row in timed if "time/images_per_second" in row]
    assert len(shares) == 7  # the first step is compilation
    assert all(0 <= share <= 1 for share in shares)


def test_tensorboard_reads_the_events(undisturbed):
    events = EventAccumulator(str(undisturbed))
    events.Reload()
    expected = [row["train/loss"] for row in metrics_of(undisturbed) if "train/loss" in row]
    np.testing.assert_allclose([event.value for event in events.Scalars("train/loss")], expected, rtol=1e-6)
    assert len(events.Images("reconstructions")) == 4


def test_checkpoints_kept_are_the_latest_and_the_best(undisturbed):
    steps = {int(path.name) for path in (undisturbed / "checkpoints").iterdir()}
    rows = [row for row in metrics_of(undisturbed) if "eval/contrastive_progress" in row]
    progress = {row["step"]: row["eval/contrastive_progress"] for row in rows}
    best = max((8, 16, 20), key=progress.get)
    assert steps == {18, 20, best}


@pytest.mark.slow
def test_a_run_that_is_stopped_three_times_equals_one_that_never_was(undisturbed, tmp_path):
    """Each signal meets the run that resumed after the one before; the end is equal only if all of them resumed."""
    signals = [(signal.SIGKILL, -signal.SIGKILL, 9), (signal.SIGTERM, 75, 9), (signal.SIGINT, 75, 12)]
    for count, (number, code, at_step) in enumerate(signals):
        found, printed = run_and_signal(tmp_path, number, at_step)
        assert found == code, printed
        assert ("resuming from the checkpoint of step" in printed) == (count > 0)
        assert (tmp_path / "config.json").exists()
        assert not (tmp_path / "checkpoints" / "20").exists()
    finished = subprocess.run(command(tmp_path), cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert finished.returncode == 0, finished.stderr
    assert "resuming from the checkpoint of step" in finished.stdout
    assert metrics_of(tmp_path) == metrics_of(undisturbed)
    jax.tree.map(np.testing.assert_array_equal, final_state(tmp_path), final_state(undisturbed))


def test_a_finished_run_does_nothing_more(undisturbed, capsys):
    before = (undisturbed / "metrics.jsonl").read_text()
    assert loop.train(make_config(), undisturbed)
    assert "this run is finished" in capsys.readouterr().out
    assert (undisturbed / "metrics.jsonl").read_text() == before


class StopAt:
    """Stands in for the signals: asks to stop after a number of updates."""

    def __init__(self, step):
        self.step = step

    def __call__(self):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        pass

    def interrupting(self):
        return contextlib.nullcontext()

    def requested(self, step):
        return step == self.step


def test_stopped_at_any_step_the_metrics_go_on(undisturbed, tmp_path, monkeypatch):
    """In this process there are four devices, so against the run on one device numbers are equal up to rounding."""
    for at_step, fsdp in ((6, 1), (8, 2)):  # between evaluations and at one; elastic: another mesh than before
        with monkeypatch.context() as patch:
            patch.setattr("sit_jax.train.run.StopSignal", StopAt(at_step))
            assert not loop.train(make_config(**{"mesh.fsdp": fsdp}), tmp_path)
        assert (tmp_path / "checkpoints" / str(at_step)).is_dir()
    assert loop.train(make_config(), tmp_path)
    rows, expected = metrics_of(tmp_path), metrics_of(undisturbed)
    assert [row.keys() for row in rows] == [row.keys() for row in expected]
    for row, reference in zip(rows, expected, strict=True):
        for name in row.keys() - {"eval/knn_top1", "eval/rotation_accuracy", "train/rotation_accuracy"}:
            np.testing.assert_allclose(row[name], reference[name], rtol=1e-4, err_msg=f"{name} at {row['step']}")


def test_a_damaged_newest_checkpoint_is_named_and_the_one_before_used(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    run = tmp_path / "run"
    for path in (run / "checkpoints" / "20" / "state").rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    done = subprocess.run(command(run), cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "checkpoint 20 is damaged" in done.stderr
    assert "resuming from the checkpoint of step 18" in done.stdout
    assert metrics_of(run) == metrics_of(undisturbed)
    assert (run / "checkpoints" / "damaged-20-0").is_dir()
    jax.tree.map(np.testing.assert_array_equal, final_state(run), final_state(undisturbed))


def test_a_checkpoint_of_another_model_is_not_called_damaged(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "run")
    (tmp_path / "run" / "config.json").unlink()
    with pytest.raises(InputError, match=r"model/encoder/position_embedding +\(18, 32\) +\(66, 32\)"):
        loop.train(make_config(**{"model.image_size": 32}), tmp_path / "run")
    assert (tmp_path / "run" / "checkpoints" / "20").is_dir()


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_last_good_checkpoint(tmp_path):
    flags = ["--config.optim.base_learning_rate=1e36", "--config.optim.clip_norm=0", "--config.checkpoint_every=1"]
    flags += ["--config.optim.warmup_learning_rate=0", "--config.log_every=100", "--config.eval_every=100"]
    flags += ["--config.eval.knn=off"]
    done = subprocess.run([*command(tmp_path), *flags], cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert done.returncode == 1
    line = re.fullmatch(
        r"error: train/\w+ is (nan|inf) at step (\d+); the last good checkpoint is kept: .*\n", done.stderr
    )
    assert line, done.stderr
    kept = sorted(int(path.name) for path in (tmp_path / "checkpoints").iterdir())
    assert kept[-1] == int(line[2]) - 1 >= 1
    tree = ocp.StandardCheckpointer().restore((tmp_path / "checkpoints" / str(kept[-1]) / "state").absolute())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(tree))


def test_an_unreadable_image_in_mid_training_is_named_and_what_was_learned_is_kept(tmp_path, monkeypatch):
    """Streamed images are decoded as the training goes: a broken one shows late."""
    monkeypatch.setattr(loop.Batches, "batch_at", failing_batch_at(5))
    with pytest.raises(InputError, match="image 5: unreadable"):
        loop.train(make_config(), tmp_path)
    assert (tmp_path / "checkpoints" / "5").is_dir()


def failing_batch_at(fail_from):
    """A `batch_at` that meets an unreadable image at a step."""
    batch_at = loop.Batches.batch_at

    def read(self, step):
        if step >= fail_from:
            raise InputError(f"image {step}: unreadable image")
        return batch_at(self, step)

    return read


def test_a_folder_without_labels_trains_and_reports_no_knn(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(40):
        (tmp_path / "images").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20 + i % 3, 24, 3), np.uint8)).save(tmp_path / "images" / f"{i}.png")
    values = {"data.source": f"folder:{tmp_path / 'images'}", "steps": 2}
    assert loop.train(make_config(**values), tmp_path / "run")
    rows = metrics_of(tmp_path / "run")
    assert any("eval/rotation_accuracy" in row for row in rows)
    assert not any("eval/knn_top1" in row for row in rows)
    with pytest.raises(InputError, match="needs labels"):
        loop.train(make_config(**values, **{"eval.knn": "on"}), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    "metrics",
    [
        [{"eval/loss": 3.0}, {"eval/loss": 1.0}, {"eval/loss": 2.0}, None],
        [*({"eval/contrastive_progress": x, "eval/loss": x} for x in (0.1, 0.3, 0.2)), None],
        # Saved by a version without progress, and below any loss that there is.
        [{"eval/loss": -9.0}, {"eval/contrastive_progress": 0.1, "eval/loss": 1.0}, {"eval/loss": -8.0}, None],
    ],
)
def test_best_checkpoint_survives_the_latest(tmp_path, metrics):
    config = resolve(make_config(), 1437)
    mesh = loop.make_mesh()
    training = make_training(config)
    abstract = abstract_state(config, training, mesh)
    state = jax.tree.map(lambda leaf: jax.device_put(jnp.zeros(leaf.shape, leaf.dtype), leaf.sharding), abstract)
    checkpoints = Checkpoints(tmp_path, keep_latest=1, keep_best=1)
    for step, values in enumerate(metrics, start=1):
        checkpoints.save(state, step, values)
    checkpoints.finish()
    assert checkpoints.steps() == [2, 4]


def test_a_single_image_is_too_few(tmp_path):
    np.savez(tmp_path / "one.npz", images=np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(InputError, match="has a single image"):
        loop.train(make_config(**{"data.source": f"npz:{tmp_path / 'one.npz'}"}), tmp_path / "run")


def full_disk(*args):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_lines_that_are_about_to_be_repeated_go(tmp_path):
    rows = [{"step": 0, "eval/loss": 3.0}, {"step": 4, "train/loss": 2.0}, {"step": 4, "eval/loss": 2.0}, {"step": 5}]
    for start, already_evaluated, kept in [(0, False, 0), (4, False, 2), (4, True, 3)]:
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"step": 6')
        MetricsWriter(tmp_path, start, already_evaluated).close()
        assert metrics_of(tmp_path) == rows[:kept]


@pytest.mark.parametrize("damage", [b"12", b"null", b'{"epoch": 1}', b'{"step": "1"}', b'{"step": \xff', b"\xff\x00"])
def test_damaged_lines_go(tmp_path, damage):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + damage + b'\n{"step": 2}\n')
    MetricsWriter(tmp_path, 4, True).close()
    assert metrics_of(tmp_path) == [{"step": 1}, {"step": 2}]


class FullFile:
    """A file on a full disk: takes some bytes and refuses the rest, until there is room."""

    def __init__(self, file):
        self.file, self.room = file, 10

    def write(self, data):
        return self.file.write(data[: self.room])

    def __getattr__(self, name):
        return getattr(self.file, name)


def test_lines_that_a_full_disk_refuses_are_written_later(tmp_path, monkeypatch, capsys):
    writer = MetricsWriter(tmp_path, 0, False)
    writer.write(1, 0.1, {"train/loss": 1.0})
    writer.file = FullFile(writer.file)
    monkeypatch.setattr("tensorboardX.event_file_writer.EventsWriter.write_event", full_disk)
    for step in (2, 3):
        writer.write(step, 0.1 * step, {"train/loss": 1.0})
    assert capsys.readouterr().err.count("cannot be written (No space left on device); the training continues") == 1
    writer.file.room = 10**9
    monkeypatch.undo()
    writer.write(4, 0.4, {"train/loss": 4.0})
    writer.close()
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert capsys.readouterr().err == ""
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [1, 4]


def test_lines_that_are_lost_at_the_end_are_counted(tmp_path, capsys):
    writer = MetricsWriter(tmp_path, 0, False)
    writer.file = FullFile(writer.file)
    for step in (1, 2):
        writer.write(step, 0.1, {"train/loss": 1.0})
    writer.close()
    assert f"2 lines of {tmp_path / 'metrics.jsonl'} could not be written and are lost" in capsys.readouterr().err

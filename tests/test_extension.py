"""Whole runs in this process: a finished run is extended and resumes bit for bit; memory that runs out; --hours."""

import contextlib
import io
import itertools
import json
import os
import re
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest
from PIL import Image

from configs import digits
from sit_jax.common.errors import InputError, ShortageError, StoreError
from sit_jax.data import open_source
from sit_jax.data.fingerprint import fingerprint
from sit_jax.model.tasks import TASKS
from sit_jax.parallel.stop import StopRequested, StopSignal
from sit_jax.train import fit, hours, lock, loop, pace, run

pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_config(**values):
    c = digits.get_config("runlocal")
    c.data.image_size = c.model.image_size = 8
    c.views.update(brightness=0.0, contrast=0.0, saturation=0.0)  # compiles in less time
    c.eval.knn = "off"
    c.update(log_every=1, eval_every=100, checkpoint_every=100, steps=3)
    c.optim.warmup_steps = 1
    c.update_from_flattened_dict(values)
    return c


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The work directory of a finished run of three steps with what it printed, and of its extension to six."""
    workdir = tmp_path_factory.mktemp("runs")
    with contextlib.redirect_stdout(io.StringIO()) as printed, pytest.MonkeyPatch.context() as patch:
        patch.setattr(pace, "FIRST", 1)  # the run is too short for an estimate of three steps
        assert loop.train(make_config(), workdir / "three")
    (workdir / "three.txt").write_text(printed.getvalue())
    shutil.copytree(workdir / "three", workdir / "six")
    assert loop.train(make_config(steps=6), workdir / "six")
    return workdir


def metrics_of(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def state_of(workdir, step):
    return ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / "state").absolute())


@pytest.mark.parametrize(
    "line",
    ["memory: the run needs about ", "about .* in all, until ", "finished after ", "on unseen images, step 0 -> 3:"],
)
def test_what_a_run_says(finished, line):
    assert re.search(f"^{line}", (finished / "three.txt").read_text(), re.M)


def test_a_run_stores_the_fingerprint_of_its_images_and_refuses_others(finished, monkeypatch):
    config = json.loads((finished / "three" / "config.json").read_text())
    assert config["data"]["fingerprint"] == fingerprint(open_source("digits").pretrain)
    monkeypatch.setattr(loop, "fingerprint", lambda records: "of others")
    with pytest.raises(InputError, match="its images are no longer those"):
        loop.train(make_config(), finished / "three")


def test_a_run_refuses_a_locked_folder_and_ends_once_another_has_the_lock(finished, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished / "three", tmp_path / "run")
    owner = json.dumps(lock.here() | {"token": "another"})
    (workdir / lock.NAME).write_text(owner)
    with pytest.raises(InputError, match="another run is going on there"):
        loop.train(make_config(), workdir)
    assert (workdir / lock.NAME).read_text() == owner
    os.remove(workdir / lock.NAME)

    def check(self):
        assert self.path == workdir / lock.NAME and self.held
        raise InputError("taken")

    monkeypatch.setattr(lock.Lock, "check", check)
    with pytest.raises(InputError, match=r"^taken$"):
        loop.train(make_config(), workdir)


class Decoded(Exception):
    """Raised where images would be decoded."""


@pytest.mark.parametrize(
    "values,error",
    [
        ({}, "the step does not fit"),
        ({"seed": 3}, "seed: 0 -> 3"),
        ({"batch_size": 1440}, "more than the 1437 images"),
        ({"eval.knn": "on", "data.source": "npz:ROOT/x.npz"}, "needs labels"),
        ({"data.skip_unreadable": True}, None),  # decoding tells the number of images
    ],
)
def test_images_are_decoded_after_all_checks(finished, tmp_path, monkeypatch, values, error):
    def decode(*_, **__):
        raise Decoded

    def compile_fitting(*_):
        raise InputError("the step does not fit")

    np.savez(tmp_path / "x.npz", images=np.zeros((40, 8, 8, 3), np.uint8))
    monkeypatch.setattr(loop, "load_images", decode)
    monkeypatch.setattr(loop, "compile_fitting", compile_fitting)
    workdir = finished / "three" if "seed" in values else tmp_path / "run"
    values = {k: v.replace("ROOT", str(tmp_path)) if isinstance(v, str) else v for k, v in values.items()}
    with pytest.raises(InputError if error else Decoded, match=error):
        loop.train(make_config(**values), workdir)


def test_the_memory_of_the_images_is_checked_and_what_was_found_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "pictures").mkdir()
    for name in ("0.png", "1.png"):
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "x.mp4").touch()
    monkeypatch.setattr(fit, "available_bytes", lambda: 100)
    with pytest.raises(InputError, match="the decoded images do not fit into host memory"):
        loop.train(make_config(**{"data.source": f"folder:{tmp_path / 'pictures'}"}), tmp_path / "run")
    assert "2 images; ignored: 1 .mp4" in capsys.readouterr().out


def test_hours_count_the_last_compilation_alone(tmp_path, monkeypatch):
    def chosen(*arguments):
        raise InputError(f"{arguments[-1]}")

    monkeypatch.setattr(loop, "compile_fitting", lambda config, *_: fit.Compiled(config, len, 0.0, 7.0))
    monkeypatch.setattr(loop, "choose_steps", chosen)
    with pytest.raises(InputError, match=r"^7\.0$"):
        loop.train(make_config(), tmp_path, loop.Options(hours=0.1))


def test_an_extension_goes_on_where_the_run_ended(finished):
    rows = [row for row in metrics_of(finished / "six") if "train/loss" in row]
    assert rows[:3] == [row for row in metrics_of(finished / "three") if "train/loss" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    config = json.loads((finished / "six" / "config.json").read_text())
    assert (config["steps"], config["extensions"]) == (6, [3])
    rates = [row["train/learning_rate"] for row in rows]
    assert rates[3] > rates[2]  # warm again
    assert rates[5] < rates[4] < rates[3]


def test_an_extension_that_was_stopped_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    workdir = shutil.copytree(finished / "three", tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "requested", lambda self, step: step == 5)
        assert not loop.train(make_config(steps=6), workdir)
    assert loop.train(make_config(steps=6), workdir)
    assert metrics_of(workdir) == metrics_of(finished / "six")
    jax.tree.map(np.testing.assert_array_equal, state_of(workdir, 6), state_of(finished / "six", 6))


def test_an_unfinished_run_is_not_extended(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "requested", lambda self, step: step == 2)
        assert not loop.train(make_config(), tmp_path)
    with pytest.raises(InputError, match=r"steps: 3 -> 6.*can be made longer once it is finished"):
        loop.train(make_config(steps=6), tmp_path)


def test_a_signal_while_it_waits_for_data_saves_and_resumes_bit_for_bit(finished, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        count = iter(range(100))

        class Waiting(StopSignal):
            """Gets its signal in the third wait."""

            def interrupting(self):
                if next(count) == 2:
                    raise StopRequested
                return super().interrupting()

        patch.setattr(run, "StopSignal", Waiting)
        assert not loop.train(make_config(), tmp_path)
    assert (tmp_path / "checkpoints" / "2").is_dir()
    assert loop.train(make_config(), tmp_path)
    assert metrics_of(tmp_path) == metrics_of(finished / "three")
    jax.tree.map(np.testing.assert_array_equal, state_of(tmp_path, 3), state_of(finished / "three", 3))


def replace_steps(monkeypatch, error, at):
    """Replaces evaluations and steps, which compile, by steps that change nothing; one of them raises an error."""
    metrics = {name: jax.numpy.zeros(()) for name in ("loss", "grad_norm", *TASKS)}
    count, pretraining = itertools.count(), loop.pretraining

    def step(state, batch):
        if next(count) == at:
            raise error
        return state, metrics

    monkeypatch.setattr(loop, "pretraining", lambda *a: pretraining(*a)._replace(evaluation=None))
    monkeypatch.setattr(loop, "compile_fitting", lambda config, *_: fit.Compiled(config, step, 0.0, 0.0))


@pytest.mark.parametrize("error", [StoreError("s3://bucket/2.tar: no answer"), InputError("2.png: unreadable")])
def test_a_store_or_an_image_that_fails_in_mid_training_loses_no_step(tmp_path, monkeypatch, error):
    replace_steps(monkeypatch, None, -1)
    batch_at = loop.Batches.batch_at

    def read(self, step):
        if step == 2:
            raise error
        return batch_at(self, step)

    monkeypatch.setattr(loop.Batches, "batch_at", read)
    with pytest.raises(type(error), match=str(error)):
        loop.train(make_config(), tmp_path)
    assert (tmp_path / "checkpoints" / "2").is_dir()


@pytest.mark.parametrize(
    "error,remedy",
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes."), "with --config.model.remat"),
        (MemoryError("allocating 12345 bytes"), "close other programs"),
    ],
)
def test_memory_that_runs_out_names_the_checkpoint_and_the_remedy(tmp_path, monkeypatch, error, remedy):
    replace_steps(monkeypatch, error, 2)
    with pytest.raises(ShortageError) as raised:
        loop.train(make_config(checkpoint_every=1), tmp_path)
    text = str(raised.value)
    assert "\n" not in text
    assert "allocating 12345 bytes" in text
    assert re.search(rf"; the checkpoint of step 2 is kept; .*{remedy}", text)


@pytest.mark.slow
def test_hours_sets_the_length_and_a_resume_keeps_it(tmp_path, monkeypatch, capsys):
    """The clock of the process stands still, so only the steps measured here and the evaluation count."""
    monkeypatch.setattr(hours, "seconds_of_process", lambda: 0.0)
    monkeypatch.setattr(hours, "LEAST", 0.01)
    monkeypatch.setattr(hours, "longest", lambda pace, seconds: 4 if 0 < seconds < 360 else 0)
    with monkeypatch.context() as patch:
        patch.setattr(StopSignal, "requested", lambda self, step: step == 2)
        assert not loop.train(make_config(), tmp_path, loop.Options(hours=0.1))
    assert "--hours=0.1: 4 steps" in capsys.readouterr().out
    assert json.loads((tmp_path / "config.json").read_text())["steps"] == 4
    assert loop.train(make_config(), tmp_path, loop.Options(hours=0.5))  # another number changes nothing
    assert "keeps its 4 steps" in capsys.readouterr().out
    assert [row["step"] for row in metrics_of(tmp_path) if "train/loss" in row] == [1, 2, 3, 4]
    monkeypatch.setattr(hours, "longest", lambda pace, seconds: 0)
    with pytest.raises(InputError, match=r"--hours=0\.2 is too short"):
        loop.train(make_config(), tmp_path / "other", loop.Options(hours=0.2))
    assert not (tmp_path / "other").exists()

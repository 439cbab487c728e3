"""Whole runs in this process: a finished run is extended and resumes bit for bit; memory that runs out; --hours."""

import json
import shutil

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from configs import digits
from sit_jax.common.errors import InputError, ShortageError
from sit_jax.parallel.stop import StopRequested, StopSignal
from sit_jax.train import hours, loop, run

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
    """The work directory of a finished run of three steps, and of its extension to six."""
    workdir = tmp_path_factory.mktemp("runs")
    assert loop.train(make_config(), workdir / "three")
    shutil.copytree(workdir / "three", workdir / "six")
    assert loop.train(make_config(steps=6), workdir / "six")
    return workdir


def metrics_of(workdir):
    rows = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [{name: value for name, value in row.items() if not name.startswith("time/")} for row in rows]


def state_of(workdir, step):
    return ocp.StandardCheckpointer().restore((workdir / "checkpoints" / str(step) / "state").absolute())


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


def test_memory_that_runs_out_names_the_checkpoint_and_the_remedy(finished, tmp_path, monkeypatch):
    steps = iter(range(100))
    compile_fitting = loop.compile_fitting

    def failing(*arguments):
        compiled = compile_fitting(*arguments)

        def step(*inputs):
            if next(steps) == 2:
                raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 12345 bytes.")
            return compiled.step(*inputs)

        return compiled._replace(step=step)

    monkeypatch.setattr(loop, "compile_fitting", failing)
    with pytest.raises(ShortageError) as error:
        loop.train(make_config(checkpoint_every=1), tmp_path)
    text = str(error.value)
    assert "\n" not in text
    assert "allocating 12345 bytes" in text
    assert "the checkpoint of step 2 is kept; to resume, run the same command with --config." in text


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

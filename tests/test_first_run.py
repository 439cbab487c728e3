"""A first run: memory checked, time foretold, one run a folder, the same images, an end that can be asked for."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import types

import jax
import ml_collections
import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from configs import digits, folder
from sit_jax import __main__
from sit_jax.common import commands, memory
from sit_jax.common.console import live, say
from sit_jax.common.errors import InputError, ShortageError
from sit_jax.common.pipes import Unbroken
from sit_jax.config import length, machine, named, wrong
from sit_jax.config.cli import make_config_flags, parse_config
from sit_jax.config.resolve import resolve, with_steps
from sit_jax.config.saved import to_json
from sit_jax.config.workdir import check_workdir
from sit_jax.data import Records, Subset, open_source
from sit_jax.data.fingerprint import fingerprint
from sit_jax.data.load import MemoryImages
from sit_jax.eval import train_classifier
from sit_jax.parallel.mesh import make_mesh
from sit_jax.parallel.stop import StopRequested, StopSignal
from sit_jax.train import fit, lock, summary
from sit_jax.train import hours as hours_module
from sit_jax.train.hours import check_hours, longest
from sit_jax.train.metrics import progress_line
from sit_jax.train.optimizer import make_schedule
from sit_jax.train.pace import Pace, estimate_line, visits
from sit_jax.train.run import Trainable
from sit_jax.train.state import abstract_state, make_training

GIB = 2**30


def make_config(**values):
    config = resolve(digits.get_config("runlocal"), 1437)
    config.update_from_flattened_dict(values)
    return config


# Memory


@pytest.mark.parametrize(
    "files,expected",
    [
        ({}, []),
        ({"memory.max": "max", "memory.current": "5", "memory.stat": ""}, []),
        ({"memory.max": "900", "memory.current": "700", "memory.stat": "anon 1\ninactive_file 50\n"}, [250]),
        (
            {
                "memory/memory.limit_in_bytes": "900",
                "memory/memory.usage_in_bytes": "100",
                "memory/memory.stat": "inactive_file 7\ntotal_inactive_file 20\n",
            },
            [820],
        ),
    ],
)
def test_the_limit_of_a_control_group_counts(tmp_path, monkeypatch, files, expected):
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN", tmp_path / "nothing")
    assert memory._left_in_groups() == expected
    assert memory.available_bytes() <= min([*expected, 2**50])


@pytest.mark.parametrize("root, line", [("", "0::/slurm/job/step"), ("memory/", "7:cpu,memory:/slurm/job/step")])
def test_the_limit_of_a_job_counts_which_is_not_that_of_the_root(tmp_path, monkeypatch, root, line):
    """Of the groups from the step up to the root, the job and the root have limits; other jobs do not count."""
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if root else ("memory.max", "memory.current")
    for place, most in (("slurm/job", 500), ("slurm/other", 1), (".", 900)):
        folder = tmp_path / root / place
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in zip((*names, "memory.stat"), (most, 100, ""), strict=True):
            (folder / name).write_text(str(value))
    (tmp_path / "own").write_text(f"3:pids:/elsewhere\n{line}\n")
    monkeypatch.setattr(memory, "CGROUPS", tmp_path)
    monkeypatch.setattr(memory, "OWN", tmp_path / "own")
    assert memory._left_in_groups() == [400, 800]


@pytest.fixture
def compiler(monkeypatch):
    """Stands in for the compiler: a step needs 2 GiB, and 40 GiB more divided by the microbatches."""
    compiled = []

    def compile_step(config, mesh):
        compiled.append(config.microbatches)
        return fit.Compiled(config, len, (2 + 40 / config.microbatches) * GIB, 100.0 + len(compiled))

    monkeypatch.setattr(fit, "compile_step", compile_step)
    monkeypatch.setattr(fit, "resident_bytes", lambda: 0)
    return compiled


@pytest.mark.parametrize(
    "capacity,expected,compiled",
    [
        (43, 1, [1]),
        (23.5, 2, [1, 2]),
        (13, 4, [1, 4]),  # 2 cannot fit and is not compiled
        (4.4, "42.0 GiB of 4.4, and no number of microbatches fits; try --config.model.remat", [1]),
    ],
)
def test_the_smallest_power_of_two_that_fits(compiler, monkeypatch, capsys, capacity, expected, compiled):
    """Batches of 32 images in groups of 8 donors: 1, 2 or 4 parts."""
    monkeypatch.setattr(fit, "device_bytes", lambda: capacity * GIB)
    config, mesh = make_config(), make_mesh(devices=jax.devices()[:1])
    if isinstance(expected, str):
        with pytest.raises(InputError, match=expected):
            fit.compile_fitting(config, mesh, True, 0)
    else:
        found = fit.compile_fitting(config, mesh, True, 0)
        assert found.config.microbatches == expected
        assert found.seconds == 100 + len(compiled)  # of the last compilation alone
        assert config.microbatches == 1
    assert compiler == compiled


def test_what_does_not_fit_is_said_in_one_line_with_the_remedy(compiler, monkeypatch):
    monkeypatch.setattr(fit, "device_bytes", lambda: 23.5 * GIB)
    with pytest.raises(InputError) as error:
        fit.compile_fitting(make_config(), make_mesh(devices=jax.devices()[:1]), False, 0)
    expected = "the step does not fit into memory: 42.0 GiB of 23.5; try --config.microbatches=2 (22.0 GiB), or --fit, "
    assert str(error.value) == expected + "which sets it"


def test_images_still_to_be_decoded_are_no_room_for_the_step(compiler, monkeypatch):
    """With 22.5 GiB left for each device two parts fit, with 21.5 GiB they do not."""
    devices = jax.local_device_count()
    monkeypatch.setattr(fit, "device_bytes", lambda: 23.5 * GIB)
    config, mesh = make_config(), make_mesh(devices=jax.devices()[:1])
    assert fit.compile_fitting(config, mesh, True, int(1 * devices * GIB)).config.microbatches == 2
    assert fit.compile_fitting(config, mesh, True, int(2 * devices * GIB)).config.microbatches == 4


RESUME, ANEW = "to resume, run the same command with --config.", "start in another --workdir with a smaller --config.b"


@pytest.mark.parametrize(
    "now,remedy",
    [
        ({"microbatches": 1}, f"{RESUME}microbatches=2"),
        ({"microbatches": 4}, f"{RESUME}model.remat; if it runs out again, {ANEW}"),
        ({"microbatches": 4, "model.remat": True}, ANEW),
    ],
)
def test_the_remedy_resumes_or_says_that_it_starts_anew(now, remedy):
    assert fit.next_remedy(make_config(**now), 1).startswith(remedy)


def test_the_memory_of_a_program_by_hand():
    """Two arguments, a product between, and the result."""
    compiled = jax.jit(lambda x, y: (x @ y) @ x).lower(*(jax.ShapeDtypeStruct((256, 256), "float32"),) * 2).compile()
    assert 4 * 256**2 * 4 <= fit.program_bytes(compiled) <= 4 * 256**2 * 4 + 4096


def test_decoded_images_are_compared_with_the_free_memory(monkeypatch):
    monkeypatch.setattr(fit, "available_bytes", lambda: 1437 * 8 * 8 * 3)
    splits = [open_source("digits").pretrain]
    with pytest.raises(InputError, match=r"do not fit into host memory.*data.memory_limit=0"):
        fit.check_images(splits, make_config(), False)
    config = make_config()
    fit.check_images(splits, config, True)
    assert config.data.memory_limit == 0
    fit.check_images(splits, config, False)  # streamed images need none
    monkeypatch.setattr(fit, "available_bytes", lambda: 2 * 1437 * 8 * 8 * 3)
    fit.check_images(splits, make_config(), False)
    config = make_config()
    config.data.bits = 16
    with pytest.raises(InputError, match="do not fit into host memory"):
        fit.check_images(splits, config, False)


@pytest.mark.parametrize(
    "error,code,line",
    [
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 45 bytes."), 1, "error: memory ran out (RESOURCE"),
        (MemoryError(), 1, "error: memory ran out (Python found none)"),
        (ShortageError("memory ran out; go on"), 1, "error: memory ran out; go on\n"),
    ],
)
def test_memory_that_runs_out_later_is_one_line(capsys, error, code, line):
    def command(argv):
        raise error

    assert commands.run(command, []) == code
    printed = capsys.readouterr().err
    assert printed.startswith(line)
    assert printed.count("\n") == 1


def test_other_errors_of_a_program_are_not_called_a_shortage():
    def command(argv):
        raise RuntimeError("INTERNAL: a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        commands.run(command, [])


# Time


@pytest.mark.parametrize("steps,eval_every,checkpoint_every", [(20, 8, 6), (16, 8, 8), (5, 100, 100), (9, 1, 3)])
def test_pauses_are_those_of_the_loop(steps, eval_every, checkpoint_every):
    pace = Pace(make_config(steps=steps, eval_every=eval_every, checkpoint_every=checkpoint_every))
    pace.step, pace.evaluation, pace.saving = 1.0, 100.0, 0.0
    for start in range(steps):
        evaluated = [s for s in range(start + 1, steps + 1) if s % eval_every == 0 or s == steps]
        assert pace.left(start) == steps - start + 100 * len(evaluated)
        assert visits(start, steps, checkpoint_every) == len(
            [s for s in range(start + 1, steps + 1) if s % checkpoint_every == 0 or s == steps]
        )


@pytest.mark.parametrize("seconds", [0.0, 9.0, 30.0, 500.0, 12_345.0])
def test_the_longest_run_that_ends_in_time(seconds):
    pace = Pace(make_config(eval_every=50, checkpoint_every=20))
    pace.step, pace.evaluation, pace.saving = 0.25, 4.0, 0.5
    steps = longest(pace, seconds)
    pace.config.steps = steps + 1
    assert pace.left(0) > seconds
    if steps:
        pace.config.steps = steps
        assert pace.left(0) <= seconds


def measured_hours(monkeypatch, hours):
    """Steps for a start of 15.9 s, a step of 0.5 s, evaluations of 10 s and saves of 1 s; a compilation takes 4 s."""
    monkeypatch.setattr(hours_module, "seconds_of_process", lambda: 15.9)
    monkeypatch.setattr(hours_module, "time_steps", lambda *_: 0.5)
    monkeypatch.setattr(hours_module.Stopwatch, "without_compilation", lambda self: 10.0)
    state = {"of 1 s": types.SimpleNamespace(nbytes=hours_module.SAVED_BYTES_PER_SECOND)}
    trainable = Trainable({}, lambda: state, len, lambda *_: {}, (), "", is_last=True)
    batches = types.SimpleNamespace(iterate=lambda: (image for image in ()))
    config = make_config(eval_every=100, checkpoint_every=60)
    return hours_module.choose_steps(hours, config, trainable, batches, None, 4.0)


def test_the_sum_of_hours_by_hand(monkeypatch):
    """360 s - 15.9 - 4 - 2 (the end) - 25 (the page) - 10 (an evaluation) = 303.1 s: 240 of steps, 5 x 11, 8 saves."""
    assert hours_module.ENDING == 2 and hours_module.PAGE == 25
    assert measured_hours(monkeypatch, 0.1) == 480


def test_hours_that_are_too_short_by_hand(monkeypatch):
    """15.9 s + 4 + 2 + 25, two evaluations of 10 s, a save and a step: 68.4 s."""
    with pytest.raises(InputError, match=r"evaluations and a step take 68 s; give --hours=0\.03 or more"):
        measured_hours(monkeypatch, 0.01)


def test_the_estimate_names_the_end():
    assert estimate_line(600, 6960, 0).startswith("about 2.1 h in all, until ")
    assert estimate_line(600, 60, 5).startswith("about 60 s to go, until ")
    assert len(estimate_line(0, 200_000, 0).split("until ")[1].split()) == 4  # another day has its name


@pytest.mark.parametrize(
    "hours,overrides,message",
    [
        (0.0, {}, "--hours=0.0 must be above 0"),
        (-1.0, {}, "above 0"),
        (float("nan"), {}, "above 0"),
        (float("inf"), {}, "above 0"),
        (2.0, {"epochs": 3.0}, "--hours and --config.epochs both set the length"),
        (2.0, {"steps": None}, None),
        (None, {"steps": 4}, None),
    ],
)
def test_hours_that_cannot_be(hours, overrides, message):
    if message is None:
        check_hours(hours, overrides)
    else:
        with pytest.raises(InputError, match=message):
            check_hours(hours, overrides)


# The recipe for this machine


@pytest.mark.parametrize(
    "arg,expected",
    [
        (None, ("auto", "S", 16, 224, 256)),
        ("gpu", ("gpu", "S", 16, 224, 256)),
        ("laptop", ("laptop", "XS", 8, 64, 128)),
        ("laptop,res=96", ("laptop", "XS", 8, 96, 128)),
        ("variant=B/16", ("gpu", "B", 16, 224, 256)),
        ("runlocal", ("gpu", "mu", 4, 32, 32)),
    ],
)
def test_recipes_of_the_folder(arg, expected):
    c = folder.get_config(arg)
    assert (c.machine, c.model.size, c.model.patch_size, c.model.image_size, c.batch_size) == expected


def test_two_recipes_exclude_each_other():
    with pytest.raises(InputError, match="exclude each other"):
        folder.get_config("laptop,gpu")
    with pytest.raises(InputError, match="'laptop' is unknown"):
        digits.get_config("laptop")


@pytest.mark.parametrize(
    "argv,expected",
    [
        (["main", "--config=a.py"], ["main", "--config=a.py:gpu"]),
        (
            ["main", "--config.seed=3", "--config", "a.py", "-v"],
            ["main", "--config.seed=3", "--config", "a.py:gpu", "-v"],
        ),
        (["main", "-config=a.py:x=1"], ["main", "-config=a.py:x=1,gpu"]),
    ],
)
def test_an_argument_joins_those_after_the_colon(argv, expected):
    assert machine.with_argument(argv, "gpu") == expected


def test_the_machine_chooses_and_a_run_keeps_its_recipe(tmp_path, capsys):
    chosen = machine.settle(folder.get_config(), tmp_path, folder.get_config)
    assert chosen.machine == "laptop"  # tests run on CPUs
    assert "recipe :laptop, because this machine has no accelerator: XS/8 at 64 px" in capsys.readouterr().out
    for saved, expected in [("gpu", "gpu"), ("laptop", "laptop"), ("", "gpu")]:
        save_run(tmp_path, make_config(machine=saved), 10)
        assert machine.settle(folder.get_config(), tmp_path, folder.get_config).machine == expected
    assert machine.settle(digits.get_config(), tmp_path, folder.get_config).machine == ""


# One run a folder


def write_lock(workdir, **values):
    workdir.mkdir(parents=True, exist_ok=True)
    (workdir / lock.NAME).write_text(json.dumps(lock.here() | {"token": "other"} | values))


@pytest.mark.parametrize(
    "owner,refused",
    [
        ({}, True),  # this very process, as if it were another run
        ({"started": 5.0}, False),  # its number is that of a later process
        ({"pid": 2**22 + 1}, False),  # killed
        ({"host": "elsewhere"}, False),  # silent
        ({"space": "pid:[1]", "pid": 2**22 + 1}, False),  # another container of this host, silent
        ({"boot": "before", "pid": 1}, False),
    ],
)
def test_a_lock_that_is_left_over_is_taken(tmp_path, monkeypatch, owner, refused):
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.05)
    write_lock(tmp_path, **owner)
    if refused:
        with (
            pytest.raises(InputError, match=r"another run is going on there \(process .* choose another --workdir"),
            lock.locked(tmp_path),
        ):
            pass
        assert (tmp_path / lock.NAME).exists()
    else:
        with lock.locked(tmp_path):
            assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()
        assert os.listdir(tmp_path) == []


def test_the_heartbeat_of_another_host_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 5.0)
    write_lock(tmp_path, host="elsewhere")
    beat = 1e9

    def sleep(seconds):
        nonlocal beat
        beat += 1
        os.utime(tmp_path / lock.NAME, (beat, beat))

    os.utime(tmp_path / lock.NAME)
    monkeypatch.setattr(lock.time, "sleep", sleep)
    with pytest.raises(InputError, match="another run"):
        lock.Lock(tmp_path).take()


@pytest.mark.parametrize("data", [b"", b"[", b"[]", b"{}", b"\x00", b"\xff"])
def test_a_damaged_lock_is_left_over_when_it_is_silent(tmp_path, monkeypatch, data):
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.05)
    (tmp_path / lock.NAME).write_bytes(data)
    with lock.locked(tmp_path):
        assert json.loads((tmp_path / lock.NAME).read_text())["pid"] == os.getpid()


def test_the_clock_of_another_host_says_nothing_about_its_lock(tmp_path, monkeypatch):
    """Its heartbeat goes on, at times that this host calls long past."""
    write_lock(tmp_path, host="elsewhere")
    beats = iter(range(10**9, 10**9 + 100))
    monkeypatch.setattr(lock.time, "sleep", lambda _: os.utime(tmp_path / lock.NAME, (next(beats),) * 2))
    os.utime(tmp_path / lock.NAME, (1, 1))
    with pytest.raises(InputError, match="another run"):
        lock.Lock(tmp_path).take()


@pytest.mark.parametrize("text", [None, "", "{}"])
def test_a_lock_that_a_third_run_writes_meanwhile_stays(tmp_path, monkeypatch, text):
    """The lock that was found is gone, or was damaged, when a third run takes the folder."""
    write_lock(tmp_path, token="third")
    found = None if text is None else lock.Found(text, 1.0)
    waiting = lock.Lock(tmp_path)
    monkeypatch.setattr(lock, "SILENCE_SECONDS", 0.0)
    monkeypatch.setattr(waiting, "_read", lambda: found)
    waiting._wait_or_refuse()
    assert json.loads((tmp_path / lock.NAME).read_text())["token"] == "third"
    assert os.listdir(tmp_path) == [lock.NAME]


def test_a_run_whose_lock_was_taken_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with lock.locked(tmp_path) as held:
        held.check()
        write_lock(tmp_path, token="other")
        os.utime(tmp_path / lock.NAME, (1, 1))
        end = time.monotonic() + 10
        while not held.lost and time.monotonic() < end:
            time.sleep(0.01)
        with pytest.raises(InputError, match="another run has taken the lock"):
            held.check()
    assert os.stat(tmp_path / lock.NAME).st_mtime == 1  # it neither beats nor removes the lock of another


def classify(monkeypatch, workdir, run):
    """Trains a classifier of 40 images in a work directory, as far as `run`, which stands in for the loop."""
    config, mesh = train_classifier.classifier_config(make_config(), "finetune", "concat", 0), make_mesh()
    records = Records([""] * 40, lambda i: None, label=lambda i: i % 2)
    images = MemoryImages(np.zeros((40, 32, 32, 3), np.uint8), records)
    encoder = abstract_state(make_config(), make_training(make_config()), mesh).params["model"]["encoder"]
    monkeypatch.setattr(train_classifier, "Run", run)
    monkeypatch.setattr(train_classifier, "write_config", lambda *_: None)
    return train_classifier.train_classifier(config, 2, encoder, Subset(images, np.arange(40)), images, workdir, mesh)


def test_a_classifier_locks_its_work_directory_and_has_its_own_remedy(tmp_path, monkeypatch):
    def run(config, workdir, mesh, batches, trainable, lock_of_run):
        assert (tmp_path / lock.NAME).exists() and lock_of_run.held
        assert not trainable.is_last  # other encoders follow
        raise ShortageError(trainable.remedy)

    with pytest.raises(ShortageError, match=r"with a smaller --config\.finetune\.batch_size than 40"):
        classify(monkeypatch, tmp_path, run)
    write_lock(tmp_path)
    with pytest.raises(InputError, match="another run is going on"):
        classify(monkeypatch, tmp_path, run)


def test_folders_made_for_the_lock_go_if_nothing_is_in_them(tmp_path):
    with pytest.raises(KeyError), lock.locked(tmp_path / "a" / "b"):
        raise KeyError
    assert os.listdir(tmp_path) == []
    with lock.locked(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").touch()
    assert os.listdir(tmp_path / "a") == ["file"]


def test_the_lock_beats(tmp_path, monkeypatch):
    monkeypatch.setattr(lock, "BEAT_SECONDS", 0.01)
    with lock.locked(tmp_path):
        os.utime(tmp_path / lock.NAME, (1e9, 1e9))
        end = time.monotonic() + 10
        while os.stat(tmp_path / lock.NAME).st_mtime < 1.5e9 and time.monotonic() < end:
            time.sleep(0.01)
        assert os.stat(tmp_path / lock.NAME).st_mtime > 1.5e9


# The same images, and a longer run


@pytest.fixture
def pictures(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "one" / "in").mkdir(parents=True)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (9, 9, 3), np.uint8)).save(tmp_path / "one" / "in" / f"{i}.bmp")
    return tmp_path / "one"


def of_folder(path):
    return fingerprint(open_source(f"folder:{path}").pretrain)


def test_a_copy_has_the_fingerprint_and_a_change_has_not(pictures, tmp_path):
    before = of_folder(pictures)
    copy = shutil.copytree(pictures, tmp_path / "two", copy_function=shutil.copyfile)
    assert of_folder(copy) == before
    (copy / "in" / "3.bmp").rename(copy / "in" / "x.bmp")
    assert of_folder(copy) != before
    (copy / "in" / "x.bmp").rename(copy / "in" / "3.bmp")
    assert of_folder(copy) == before
    data = bytearray((copy / "in" / "5.bmp").read_bytes())
    data[-1] ^= 1
    (copy / "in" / "5.bmp").write_bytes(data)  # of the same size
    assert of_folder(copy) != before


def test_arrays_have_a_fingerprint_of_their_content(tmp_path):
    images = np.zeros((5, 8, 8, 3), np.uint8)
    found = []
    for value in (0, 1, 0):
        images[2] = value
        np.savez(tmp_path / "x.npz", images=images)
        found.append(fingerprint(open_source(f"npz:{tmp_path / 'x.npz'}").pretrain))
    assert found[0] == found[2] != found[1]


def save_run(workdir, config, step):
    shutil.rmtree(workdir / "checkpoints", ignore_errors=True)
    (workdir / "checkpoints" / str(step)).mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps(to_json(config)))


@pytest.mark.parametrize(
    "saved,now,message",
    [
        ({"data.fingerprint": "a"}, {"data.fingerprint": "a", "data.source": "folder:moved"}, None),
        ({"data.fingerprint": "a"}, {"data.fingerprint": "b"}, "its images are no longer those"),
        (
            {"data.fingerprint": "a"},
            {"data.fingerprint": "b", "data.num_examples": 7},
            "its images are no longer those",
        ),
        (  # a length in epochs follows the number
            {"data.fingerprint": "a", "steps": 879, "optim.warmup_steps": 44},
            {"data.fingerprint": "b", "data.num_examples": 7, "steps": 885, "optim.warmup_steps": 45},
            "its images are no longer those",
        ),
        ({"data.fingerprint": "a"}, {"data.fingerprint": "b", "data.source": "npz:x"}, "data.source: digits -> npz:x"),
        ({}, {"model.remat": True, "microbatches": 2}, None),
        ({"data.fingerprint": None}, {"data.fingerprint": "b"}, None),
        ({"data.fingerprint": None}, {"data.fingerprint": "b", "data.source": "npz:x"}, "data.source: digits"),
        ({"steps": 100}, {"steps": 150}, "steps: 100 -> 150.*can be made longer once it is finished"),
        ({"steps": 100}, {"steps": 150, "extensions": (100,)}, None),
        ({"steps": 100}, {"steps": 150, "extensions": (100,), "seed": 3}, "seed: 0 -> 3"),
        ({"steps": 150, "extensions": (100,)}, {"steps": 170, "extensions": (100, 150)}, None),
    ],
)
def test_what_may_change_when_a_run_resumes(tmp_path, saved, now, message):
    save_run(tmp_path, make_config(**saved), 10)
    if message is None:
        check_workdir(tmp_path, make_config(**saved | now))
    else:
        with pytest.raises(InputError, match=message):
            check_workdir(tmp_path, make_config(**saved | now))


def test_a_run_of_a_version_without_fingerprints_resumes(tmp_path):
    old = to_json(make_config())
    for name in ("machine", "extensions"):
        del old[name]
    del old["data"]["fingerprint"]
    save_run(tmp_path, make_config(), 10)
    (tmp_path / "config.json").write_text(json.dumps(old))
    config = make_config(**{"data.fingerprint": "a"})
    assert length.keep_length(config, tmp_path, None)
    check_workdir(tmp_path, config)
    assert config.extensions == ()


@pytest.mark.parametrize(
    "newest,asked,hours,steps,extensions",
    [
        (100, 150, None, 150, (100,)),
        (90, 150, None, 150, ()),  # not finished: check_workdir refuses it
        (100, 100, None, 100, ()),
        (100, 70, 2.0, 100, ()),  # --hours keeps the length
    ],
)
def test_a_finished_run_is_extended(tmp_path, newest, asked, hours, steps, extensions):
    save_run(tmp_path, make_config(steps=100), newest)
    config = make_config(steps=asked)
    length.keep_length(config, tmp_path, hours)
    assert (config.steps, config.extensions) == (steps, extensions)
    if extensions:  # and goes on as it was extended
        save_run(tmp_path, config, newest + 10)
        again = make_config(steps=asked)
        length.keep_length(again, tmp_path, None)
        assert to_json(again) == to_json(config)


def test_learning_rates_of_an_extension_by_hand():
    config = make_config(steps=100, **{"optim.warmup_steps": 20})
    before = make_schedule(config)
    config.update(steps=300, extensions=(100,))
    after = make_schedule(config)
    np.testing.assert_array_equal([after(step) for step in range(100)], [before(step) for step in range(100)])
    peak, least = config.optim.base_learning_rate * config.batch_size / 512, config.optim.final_learning_rate
    np.testing.assert_allclose(after(100), least, rtol=1e-4)
    np.testing.assert_allclose(after(120), peak, rtol=1e-5)  # a tenth of the 200 added
    np.testing.assert_allclose(after(210), least + (peak - least) / 2, rtol=1e-5)
    np.testing.assert_allclose(after(300), least, rtol=1e-4)


def test_the_warm_up_is_at_most_half_of_a_new_length():
    config = make_config(steps=100, **{"optim.warmup_steps": 20})
    assert (with_steps(config, 30).optim.warmup_steps, with_steps(config, 1000).optim.warmup_steps) == (15, 20)


# Output and signals


def open_broken():
    """A stream to a reader that has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    return os.fdopen(writing, "w")


def open_full():
    """A stream to a full disk."""
    return os.fdopen(os.open("/dev/full", os.O_WRONLY), "w")


@pytest.mark.parametrize("opened", [open_broken, open_full])
def test_output_that_cannot_be_written_ends_nothing(opened):
    with opened() as broken:
        stream = Unbroken(broken)
        for _ in range(3):
            stream.write("a line\n" * 10_000)
            stream.flush()
        assert os.path.samestat(os.fstat(broken.fileno()), os.stat(os.devnull))


@pytest.mark.parametrize("opened", [open_broken, open_full, contextlib.nullcontext])  # None is a closed stream
def test_a_command_whose_output_cannot_be_written_ends_well(monkeypatch, opened):
    done = []

    def command(argv):
        say("a line\n" * 10_000)
        live.possible()  # asks whether it is a terminal
        return done.append(True) or True

    with opened() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert commands.run(command, []) == 0
    assert done == [True]


@pytest.mark.parametrize("opened", [open_broken, open_full, contextlib.nullcontext])
def test_help_of_all_commands_that_cannot_be_written_ends_well(monkeypatch, opened):
    monkeypatch.setattr(sys, "argv", ["sit-jax"])
    with opened() as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert __main__.main() == 0


def test_home_is_expanded_in_every_option(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    values = make_config_flags([])
    from absl import flags

    flags.DEFINE_string("workdir", None, "", flag_values=values)
    flags.DEFINE_list("several", None, "", flag_values=values)
    commands.parse(values, ["x", "--workdir=~/run", "--several=~/a,b"], (), "")
    assert (values.workdir, values.several) == ("/home/me/run", ["/home/me/a", "b"])


def test_home_is_expanded_in_config(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "c.py").write_text((ROOT / "configs" / "digits.py").read_text())
    for argv in (["x", "--config=~/c.py:runlocal"], ["x", "--config", "~/c.py:runlocal", "--config.seed=1"]):
        assert parse_config(make_config_flags(argv), argv, (), "").model.size == "mu"
    assert "there is no such file" in wrong.explain(named.with_paths(["x", "--config=~/d.py"]))
    assert named.load_config("~/c.py", "runlocal").model.size == "mu"


STUCK = """
import os, sys, threading
from concurrent.futures import ThreadPoolExecutor
from sit_jax.common import commands

def command(argv):
    with ThreadPoolExecutor(1) as threads:
        threads.submit(lambda: print("reading", flush=True) or open(argv[0]).read())
        threads.submit(print).result()

commands.end(commands.run(command, sys.argv[1:]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_command_that_reads_from_what_never_answers_ends_soon(tmp_path, number):
    os.mkfifo(tmp_path / "fifo")
    command = [sys.executable, "-c", STUCK, str(tmp_path / "fifo")]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        assert process.stdout.readline() == "reading\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (75, "")
    assert out == "stopped by a signal; run the same command to resume\n"


def test_a_signal_interrupts_waiting_for_data_and_nothing_else():
    with StopSignal() as stop:
        with pytest.raises(StopRequested), stop.interrupting():
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
        assert stop.requested(1)
        os.kill(os.getpid(), signal.SIGTERM)  # between: only noted
        with pytest.raises(StopRequested), stop.interrupting():
            raise AssertionError("a signal that came before is noticed at once")


def test_the_progress_line(monkeypatch):
    monkeypatch.setattr("sit_jax.train.metrics.used_bytes", lambda: 3 * GIB)
    metrics = {"train/loss": 4.7, "train/rotation": 1.25, "time/images_per_second": 80.0}
    line = progress_line(20, 400, ("rotation",), metrics, 1.5, 7560.0)
    assert line == "step 20/400 (5%)  epoch 1.5  loss 4.7  rotation 1.25  80 images/s  3.0 GiB  2.1 h left"


@pytest.mark.parametrize(
    "source,images",
    [
        ("folder:my photos", "my photos"),
        ("my photos", "my photos"),
        ("folder:Fotos été $(x) `y` 'z'", "Fotos été $(x) `y` 'z'"),
        ("folder:a/b", "a/b"),
        ("folder:~/a", "~/a"),
        ("folder:a,a/b", "FOLDER"),
        ("folder:s3://a/b", "FOLDER"),
        ("https://a/b", "FOLDER"),
        ("digits", "FOLDER"),
    ],
)
def test_what_a_finished_run_says(tmp_path, monkeypatch, source, images):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("my photos", "a/b", "Fotos été $(x) `y` 'z'"):
        (tmp_path / name).mkdir(parents=True)
    rows = [
        {"step": 0, "eval/loss": 3.0, "eval/knn_top1": 0.378, "eval/reconstruction": 0.5},
        {"step": 5, "train/loss": 1.0},
    ]
    rows += [{"step": 9, "eval/loss": 1.0, "eval/knn_top1": 0.899, "eval/reconstruction": 0.125}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = summary.summary(ml_collections.ConfigDict({"data": {"source": source}}), tmp_path)
    assert "step 0 -> 9: reconstruction error 0.5 -> 0.125, k-NN 38% -> 90%" in text
    assert f"pictures: {tmp_path / 'reconstructions'}" in text
    assert f"evaluate --workdir={tmp_path} --protocol=knn" in text
    said = next(line for line in text.splitlines() if " sit_jax.embed " in line)
    read = ["sh", "-c", f"printf '%s\\n' {said.partition('sit_jax.')[2]}"]  # as the shell hands it to the command
    words = subprocess.run(read, capture_output=True, text=True, check=True).stdout.splitlines()
    assert words == ["embed", f"--workdir={tmp_path}", f"--images={images}", f"--out={tmp_path}/features.npz"]

"""The measurements on an accelerator: time limits, stages that raise or hang, output files, a whole rehearsal."""

import json
import signal
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import ROOT

from benchmarks import accelerator
from benchmarks.accelerator_stages import encoder, fast, learn, machine, report, right, right_runs, stage, training, why
from sit_jax.common.errors import InputError
from sit_jax.compiled import hlo

ROWS = """
import time
def main(stage):
    stage.add("ceilings", "first", value=1.5, unit="things")
    stage.attempt("ceilings", "broken", lambda: 1 / 0)
    stage.attempt("ceilings", "too long", dict, needs=1000)
    stage.check("within", lambda: (0.5, 1.0, "of it"))
    stage.check("beyond", lambda: (2.0, 1.0, "of it"))
    stage.check("not a number", lambda: (float("nan"), 1.0, "of it"))
"""
MODULES = {
    "good": "def main(stage):\n    stage.check('within', lambda: (0.5, 1.0, 'of it'))\n",
    "idle": "def main(stage):\n    stage.attempt('learn', 'images', dict, needs=1000)\n",
    "fine": ROWS,
    "raises": ROWS + "    raise ValueError('something is wrong')\n",
    "hangs": ROWS + "    time.sleep(1000)\n",
    # Half a line, like after a kill, and a child in its own process group, which is stopped.
    "leaves": """
import os, subprocess, sys, time
def main(stage):
    stage.add("ceilings", "first", value=1.5, unit="things")
    with open(stage.lines, "a") as file:
        file.write('{"stage": "le')
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"], process_group=0)
    os.kill(child.pid, 19)
    with open(stage.out + "/child", "w") as file:
        file.write(str(child.pid))
    time.sleep(1000)
""",
}


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Replaces the parts of the measurements by modules of MODULES; a function of their names."""
    for name, text in MODULES.items():
        (tmp_path / f"fake_{name}.py").write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(accelerator, "WORK", tmp_path / "work")
    monkeypatch.setattr(accelerator, "GRACE", 0.0)

    def replace(*names):
        made = [
            accelerator.Part(s, f"fake_{name}", 1.0, 1.0, {})
            for s, name in zip(accelerator.STAGES, names, strict=False)
        ]
        monkeypatch.setattr(accelerator, "PARTS", tuple(made))

    return replace


def run(out, seconds, *arguments):
    minutes = (seconds + accelerator.RESERVE) / 60
    code = accelerator.main(["accelerator.py", f"--minutes={minutes}", f"--out={out}", *arguments])
    return code, json.loads((out / "results.json").read_text())


def test_a_stage_that_raises_is_named_and_the_next_one_runs(parts, tmp_path, capsys):
    parts("raises", "fine")
    code, results = run(tmp_path / "out", 60)
    assert code == 1
    assert [ended["end"] for ended in results["stages"]] == ["raised", "ended"]
    assert results["stages"][0]["note"] == "ValueError: something is wrong"
    for name in ("right", "fast"):
        rows = {row["name"]: row for row in results["rows"] if row["stage"] == name}
        statuses = {key: row["status"] for key, row in rows.items()}
        assert statuses == {
            **{"first": "measured", "broken": "failed", "too long": "skipped"},
            **{"within": "passed", "beyond": "failed", "not a number": "failed"},
        }
        assert "ZeroDivisionError" in rows["broken"]["note"]
        assert rows["first"]["value"] == 1.5
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| right (fake_raises) | raised |" in text
    assert "| beyond | failed | 2 | 1 | of it |" in text
    assert "left] fast: within, passed" in capsys.readouterr().out
    assert (tmp_path / "out" / "report.png").read_bytes()[:4] == b"\x89PNG"


def test_all_stages_fine_is_exit_code_0_and_only_the_stages_asked_for_run(parts, tmp_path):
    parts("good", "raises", "good")
    code, results = run(tmp_path / "out", 60, "--stages=right,why")
    assert code == 0
    assert [ended["stage"] for ended in results["stages"]] == ["right", "why"]


def test_a_call_that_measured_nothing_is_exit_code_1(parts, tmp_path):
    parts("idle")
    code, results = run(tmp_path / "out", 60)
    assert (code, [row["status"] for row in results["rows"]]) == (1, ["skipped"])


def test_a_row_that_failed_is_exit_code_1(parts, tmp_path):
    parts("good", "fine")
    code, results = run(tmp_path / "out", 60)
    assert (code, [ended["end"] for ended in results["stages"]]) == (1, ["ended", "ended"])


def test_a_limit_that_strikes_keeps_what_is_there_and_the_next_stage_runs(parts, tmp_path):
    parts("hangs", "fine")
    begin = time.time()
    code, results = run(tmp_path / "out", 16)
    assert time.time() - begin < 16 + accelerator.RESERVE
    assert code == 1
    hung, fine = results["stages"]
    assert (hung["end"], fine["end"]) == ("stopped by its limit", "ended")
    assert hung["note"].endswith("s by its limit; its results so far are kept")
    assert hung["limit_seconds"] == pytest.approx(8, abs=0.5)
    assert sum(row["stage"] == "right" for row in results["rows"]) == 6


def test_what_a_stage_started_ends_with_it(parts, tmp_path):
    parts("leaves")
    code, results = run(tmp_path / "out", 6)
    assert code == 1
    assert [row["name"] for row in results["rows"]] == ["first"]
    child = (tmp_path / "out" / "child").read_text()
    deadline = time.time() + 5
    while (state := process_state(child)) not in ("", "Z") and time.time() < deadline:
        time.sleep(0.1)
    assert state in ("", "Z")


def process_state(pid):
    """Returns the state of a process from /proc; "" if there is none."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def test_what_one_part_leaves_is_shared_out_among_the_next():
    shares = [1.0, 2.0, 1.0]
    assert accelerator.share_of(400, shares) == 100
    assert accelerator.share_of(390, shares[1:]) == 260
    assert accelerator.share_of(390, shares[2:]) == 390
    assert accelerator.share_of(-5, shares) == 0


def test_the_limits_of_all_parts_keep_within_the_minutes():
    left, used = 600.0, 0.0
    for index, part in enumerate(accelerator.PARTS):
        limit = accelerator.share_of(left - used - accelerator.RESERVE, [p.share for p in accelerator.PARTS[index:]])
        assert limit > 0, part
        used += limit  # each stage takes as long as it may
    assert used <= left - accelerator.RESERVE + 1e-6


@pytest.mark.parametrize(
    "arguments,expected",
    [
        (["--minutes=5"], "--out"),
        (["--out=OUT"], "--minutes"),
        (["--minutes=0", "--out=OUT"], "--minutes=0 must be above 0"),
        (["--minutes=-3", "--out=OUT"], "--minutes=-3 must be above 0"),
        (["--minutes=nan", "--out=OUT"], "--minutes=nan must be above 0"),
        (["--minutes=five", "--out=OUT"], "five"),
        (["--minutes=5", "--out=OUT", "--stages=right,quick"], "the stages are right, fast, why, learn"),
        (["--minutes=5", "--out=OUT", "--stages="], "--stages is empty"),
        (["--minutes=5", "--out=OUT", "--train=configs/nothing.py"], "nothing.py"),
        (["--minutes=5", "--out=OUT", "--train=configs/cifar10.py:size=3"], "'size' is unknown"),
        (["--minutes=5", "--out=OUT", "--data=nothing.npz"], "--data=nothing.npz does not exist"),
        (["--minutes=5", "--out=/proc/nothing"], "--out=/proc/nothing: cannot be written"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, arguments, expected):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(accelerator, "WORK", tmp_path / "work")
    arguments = [text.replace("OUT", str(tmp_path / "out")) for text in arguments]
    assert accelerator.main(["accelerator.py", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert expected in line


def test_the_command_starts_from_anywhere(tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "accelerator.py"), "--minutes=0", "--out=x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stderr
    assert "must be above 0" in done.stderr


@pytest.mark.parametrize("width", [100, 1900])
def test_the_encoder_comes_back_from_its_parts(tmp_path, width):
    rng = np.random.default_rng(0)
    params = {
        "norm": {"scale": rng.normal(size=width)},
        "blocks": {name: {"kernel": rng.normal(size=(2, width, width))} for name in ("qkv", "out", "mlp_in")},
    }
    assert encoder.save(jax.tree.map(jnp.float32, params), tmp_path) == []
    files = list(tmp_path.iterdir())
    assert len(files) == (1 if width == 100 else 3)
    assert max(path.stat().st_size for path in files) < 16 * 2**20
    found = encoder.load(tmp_path)
    assert jax.tree.structure(found) == jax.tree.structure(params)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(params), strict=True):
        assert a.dtype == jnp.bfloat16
        np.testing.assert_array_equal(a, np.asarray(jnp.asarray(b, jnp.bfloat16)))


def test_what_finds_no_room_is_named(tmp_path):
    arrays = {f"a{index}": np.zeros((encoder.PART // 2,), np.float32) for index in range(encoder.PARTS + 1)}
    assert encoder.save(arrays | {"huge": np.zeros(encoder.PART, np.float32)}, tmp_path) == ["huge", "a3"]
    assert sorted(encoder.load(tmp_path)) == ["a0", "a1", "a2"]


def test_the_report_of_results(tmp_path):
    rows = [
        {"stage": "fast", "table": "fast", "name": "B/16", "status": "measured", "images_per_second": 12.3, "mfu": 0.4},
        {"stage": "fast", "table": "fast", "name": "L/16", "status": "skipped", "note": "does not fit | into memory"},
        {"stage": "why", "table": "kernels", "name": "fusion.1", "status": "measured", "milliseconds": 2.0},
    ]
    ended = {"stage": "fast", "module": "a.fast", "end": "ended", "seconds": 3.0, "limit_seconds": 9.0}
    results = {"command": "x", "began": "now", "dry_run": False, "stages": [ended], "rows": rows}
    report.write(tmp_path, results)
    text = (tmp_path / "report.md").read_text()
    assert "| B/16 | measured | 12 |  | 40.0% |" in text
    assert "does not fit / into memory |" in text
    assert "| fast (fast) | ended | 3.0 | 9.0 |  |" in text
    assert "rehearsal" not in text
    assert (tmp_path / "report.png").stat().st_size > 10_000


def test_the_comparison_places_both_sides_and_finds_a_difference():
    cpu, device = jax.devices()[:2]
    config = right.small_config(dry_run=True)
    same = right.Comparison(config, cpu, device)
    assert same.draws(lambda views: (views.rotation, views.masks)) == 0
    assert same.distance("corrupted") == 0
    drawn = same.views["device"]
    same.views["device"] = drawn._replace(rotation=drawn.rotation + (np.arange(len(drawn.rotation)) == 3))
    assert same.draws(lambda views: views.rotation) == 1


def test_protocols_are_compared_on_two_devices():
    for name, check in right_runs.evaluation_checks(*jax.devices()[:2]).items():
        figure, bound, _ = check()
        assert figure <= bound, name


def test_work_is_counted_by_kernel():
    program = jax.jit(lambda a, b: jnp.tanh(a @ b)).lower(jnp.ones((64, 32)), jnp.ones((32, 16))).compile()
    work = why.count(hlo.parse(program.as_text()))
    assert sum(kernel.flops for kernel in work.values()) == 2 * 64 * 32 * 16
    assert sum(kernel.bytes for kernel in work.values()) >= 4 * (64 * 32 + 32 * 16 + 64 * 16)


def test_a_trace_is_read_by_instruction(tmp_path):
    function = jax.jit(lambda a: jnp.tanh(a @ a).sum())
    compiled = function.lower(jnp.ones((256, 256))).compile()
    jax.block_until_ready(compiled(jnp.ones((256, 256))))
    with jax.profiler.trace(str(tmp_path)):
        for _ in range(3):
            jax.block_until_ready(compiled(jnp.ones((256, 256))))
    times, calls, names = why.read_trace(tmp_path)
    known = why.count(hlo.parse(compiled.as_text()))
    found = {name: count for name, count in calls.items() if name in known}
    assert found
    assert set(found.values()) == {3}
    assert all(times[name] > 0 and names[name] for name in found)


def test_a_training_is_told_to_stop_until_it_has_ended():
    received = []
    with learn.stopped_after(0.1):
        time.sleep(1.5)  # compiling: no signal handler yet
        before = signal.signal(signal.SIGTERM, lambda *_: received.append(1))
        time.sleep(2.5)
        signal.signal(signal.SIGTERM, before)
    assert received
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_IGN


def test_the_same_training_has_the_same_folder(tmp_path):
    names = {
        training.folder(tmp_path, text, dry).name
        for text in ("configs/a.py", "configs/a.py:variant=S/4", "configs/b.py")
        for dry in (False, True)
    }
    assert len(names) == 6
    assert training.folder(tmp_path, "/x/configs/a.py:variant=S/4", False).name == "learn-a-variant=S-4"


def test_all_cases_are_valid_configurations():
    for case in (*fast.DEFAULTS, *(case for group in fast.VARIANTS for case in group)):
        if case.batch % jax.device_count() == 0:
            assert fast.make_config(case).model.patch_size == int(case.variant.partition("/")[2])
    names = [case.name for group in (fast.DEFAULTS, *fast.VARIANTS) for case in group]
    assert len(names) == len(set(names))


def test_configurations_that_cannot_be_loaded_are_input_errors(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert training.load_config("configs/cifar10_accelerator.py").loss.temperature == 0.2
    with pytest.raises(InputError):
        training.load_config("configs/none.py")
    plan = stage.Stage("right", "m", 1.0, True, "l", "w", "o", "t", "d")
    assert stage.load(stage.dump(plan)) == plan


def test_packages_that_the_requirements_do_not_allow_are_named(tmp_path, monkeypatch):
    (tmp_path / "more.txt").write_text("numpy<1  # old\n\nno-such-package>=2\n")
    (tmp_path / "requirements.txt").write_text("# comment\n-r more.txt\njax>=0.1\n")
    monkeypatch.setattr(machine, "REQUIREMENTS", tmp_path / "requirements.txt")
    assert machine.packages() == f"numpy {np.__version__}, not <1; no-such-package absent, not >=2"
    monkeypatch.undo()
    assert len(machine.requirement_lines(machine.REQUIREMENTS)) > 15


@pytest.mark.slow
def test_the_whole_rehearsal(tmp_path):
    """As on an accelerator, at tiny sizes; has more minutes than it needs, so that nothing is skipped."""
    command = [sys.executable, "benchmarks/accelerator.py", "--minutes=25", f"--out={tmp_path}", "--dry-run"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1000)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert [ended["end"] for ended in results["stages"]] == ["ended"] * 5
    rows = {(row["table"], row["name"]): row for row in results["rows"]}
    assert not [row for row in results["rows"] if row["status"] == "failed"]
    skipped = {row["note"] for row in results["rows"] if row["status"] == "skipped"}
    assert skipped <= {"needs an NVIDIA GPU", "PyTorch is not installed"} | {
        row["note"] for row in results["rows"] if row["name"] == "restart with memory kept" and "note" in row
    }
    for name in ("first", "second"):
        assert rows["right", f"resume, {name} time"]["status"] == "passed"
    assert all(rows["fast", case.name]["images_per_second"] > 0 for case in (*fast.TINY, *fast.TINY_VARIANTS[0]))
    assert sum(row["table"] == "reading" for row in results["rows"]) == len(fast.TINY_READING)
    assert sum(row["table"] == "kernels" for row in results["rows"]) == why.TOP
    assert {"views", "attention", "dense layers"} <= {name for table, name in rows if table == "causes"}
    for what in ("random weights", "raw pixels, 8 px", "pre-trained params, T=0.2"):
        for protocol in ("k-NN", "linear"):
            assert 0 < rows["learn", f"{protocol}, {what}"]["value"] <= 1
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == sorted(
        ["encoder-0.npz", "metrics.jsonl", "reconstructions.png", "report.md", "report.png", "results.json"]
    )
    assert encoder.load(tmp_path)["norm"]["scale"].dtype == jnp.bfloat16

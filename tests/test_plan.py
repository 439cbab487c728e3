"""The planner: its report on a step, its advice, and its exit codes."""

import importlib.util
import json

import pytest

from sit_jax import plan
from sit_jax.common.errors import InputError
from sit_jax.common.memory import out_of_memory
from sit_jax.compiled import tables as report
from sit_jax.compiled.advice import advice
from sit_jax.compiled.chips import Chip
from sit_jax.compiled.roofline import lower_bound
from sit_jax.config import schema


def test_bound_is_the_slowest_of_what_a_chip_does():
    chip = Chip("one", 1e9, flops=100.0, memory_bandwidth=10.0, links=5.0, network=1.0)
    work = {"matrix_flops_per_chip": 300, "memory_bytes_per_chip": 40, "link_bytes_per_chip": 5}
    bound = lower_bound(work | {"network_bytes_per_chip": 1}, chip, 8)
    assert (bound["by"], bound["step_seconds"], bound["images_per_second"]) == ("memory", 4.0, 2.0)
    assert lower_bound(work, Chip("CPU", 1e9), 8) == {}


@pytest.mark.parametrize(
    "message",
    [
        "Ran out of memory on HBM, memory required for HLO temporaries (22.50G) exceeds available HBM (15.75G).",
        "XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 22.50G of 15.75G hbm. Exceeded",
    ],
)
def test_sizes_are_read_from_a_compiler_that_ran_out_of_memory(message):
    assert out_of_memory(message) == {"needed": 22.5 * 2**30, "available": 15.75 * 2**30}


@pytest.mark.parametrize(
    "state,remat,expected",
    [
        (
            1,
            False,
            ["--config.model.remat", "--config.microbatches=2", "--config.batch_size=128", "--topology=v5e:4x8"],
        ),
        (9, True, ["--config.mesh.fsdp=16", "--config.batch_size=128", "--topology=v5e:4x8"]),
    ],
)
def test_advice_starts_with_what_takes_the_memory(state, remat, expected):
    c = schema.defaults()
    c.batch_size, c.model.remat = 256, remat
    if remat:
        c.microbatches = 2
    memory = {"parameters": state * 2**30, "optimizer": 0, "other_state": 0}
    memory |= {"capacity": 16 * 2**30, "whole": 16 * 2**30}
    memory |= {"needed": 20 * 2**30, "available": 16 * 2**30}
    assert advice(c, {"slice": 1, "data": 16, "fsdp": 1}, memory, "v5e:4x4") == expected


CONFIG = "--config=configs/digits.py:runlocal"


@pytest.mark.parametrize(
    "arguments,expected",
    [
        ([CONFIG], "--topology is missing"),
        (["--topology=cpu:2"], "--config is missing"),
        (["--config=configs/nothing.py", "--topology=cpu:2"], "configs/nothing.py"),
        (
            [CONFIG, "--topology=v9:2x2"],
            "known: v4, v5e, v5p, v6e with a shape, such as v5e:4x4, h100, h200, a100, l4, rtx4090 with a number",
        ),
        ([CONFIG, "--topology=v5e:3x3"], "known shapes of v5e: 1x1, 2x2"),
        ([CONFIG, "--topology=cpu:many"], "must be cpu:N"),
        ([CONFIG, "--topology=cpu:²"], "must be cpu:N"),
        ([CONFIG, "--topology=cpu:4", "--config.mesh.slices=0"], "mesh.slices=0 must divide the 4 devices"),
        ([CONFIG, "--topology=cpu:2", "--out=/no/such/folder/x.json"], "there is no such folder"),
        ([CONFIG, "--topology=cpu:2", "--out=docs"], "--out=docs is a folder; give the name of a file"),
        ([CONFIG, "--topology=cpu:4", "--config.batch_size=30"], "use 32 or 28"),
        ([CONFIG, "--topology=cpu:4", "--config.mesh.fsdp=3"], "mesh.fsdp=3"),
        ([CONFIG, "--topology=cpu:4", "--config.model.attention=cudnn"], "needs an NVIDIA GPU"),
        ([CONFIG, "--topology=v5e:2x2", "--config.model.attention=cudnn"], "libtpu"),
        ([CONFIG, "--topology=h100:16"], "h100:N with N GPUs of one host from 1 to 8, or h100:HxN"),
        ([CONFIG, "--topology=h100:0"], "h100:N"),
        ([CONFIG, "--topology=h100:8²"], "h100:N"),
        ([CONFIG, "--topology=l4"], "such as l4:8 and l4:4x8"),
        ([CONFIG, "--topology=h100:8"], "install it with: pip install -r requirements-plan-gpu.txt"),
    ],
)
def test_wrong_input_is_told(monkeypatch, arguments, expected):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.delenv("TPU_LIBRARY_PATH", raising=False)
    with pytest.raises(InputError, match=expected.replace("(", r"\(").replace("+", r"\+")):
        plan.make_plan(*plan.parse_flags(["plan", *arguments])[:2])


@pytest.mark.parametrize(
    "argument,topology,said",
    [
        ("", "cpu:2", "recipe :laptop, because cpu:2 is no accelerator: XS/8 at 64 px"),
        ("", "v5e:2x2", "recipe :gpu, because v5e:2x2 is an accelerator: S/16 at 224 px"),
        (":gpu", "cpu:2", ""),
    ],
)
def test_the_topology_chooses_the_recipe(argument, topology, said, capsys):
    config = plan.parse_flags(["plan", f"--config=configs/folder.py{argument}", f"--topology={topology}"])[0]
    assert config.model.image_size == (64 if "laptop" in said else 224)
    assert capsys.readouterr().out.startswith(said) and config.machine in ("laptop", "gpu")


def test_wrong_input_is_one_line_and_exit_code_2(run_module):
    done = run_module("sit_jax.plan", CONFIG, "--topology=v5e:5x5")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: --topology=v5e:5x5 is unknown; known shapes of v5e:")
    assert len(done.stderr.splitlines()) == 1


def test_a_step_that_does_not_fit_says_what_to_change_and_exits_with_1(monkeypatch, tmp_path, capsys):
    message = "RESOURCE_EXHAUSTED: Ran out of memory on HBM: HLO temporaries (22.21G) exceeds available HBM (15.75G)."
    monkeypatch.setattr(plan, "compile_or_say_why", lambda compile_: (None, message))
    out = tmp_path / "plan.json"
    code = plan.main(["plan", CONFIG, "--topology=cpu:4", "--config.batch_size=64", f"--out={out}"])
    text = capsys.readouterr().out
    assert code == 1
    assert "does not fit: the compiler needs 22.21 GiB and has 15.75" in text
    assert "try one of: --config.model.remat, --config.microbatches=2, --config.batch_size=32" in text
    written = json.loads(out.read_text())
    assert written["fits"] is False
    assert "collectives" not in written


def test_a_step_that_fits_is_measured_and_exits_with_0(run_module, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")  # halves the compile time
    out = tmp_path / "plan.json"
    missing = ["--config=configs/folder.py:runlocal", "--config.data.source=folder:/no/such/folder"]
    done = run_module("sit_jax.plan", *missing, "--topology=cpu:2", "--config.optim.ema=0.9", f"--out={out}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("compiling for 2 x CPU; takes a minute or two\n")
    assert "no all-to-all, no images; " in done.stdout
    assert "fits: " in done.stdout.splitlines()[-1]
    written = json.loads(out.read_text())
    memory = written["memory"]
    assert memory["optimizer"] == pytest.approx(2 * memory["parameters"], rel=0.01)
    assert memory["other_state"] == memory["parameters"] + 4  # the average and the number of the step
    assert memory["batch"] == 16 * 32 * 32 * 3
    assert memory["total"] == sum(memory[name] for name in report.MEMORY if name != "total")
    work = written["work"]
    assert 1 < 2 * work["compiled_flops_per_chip"] / work["model_flops"] < 1.3  # with the views
    assert work["loops_counted_once"] == []
    reduced = [one for one in written["collectives"] if one["kind"] == "all-reduce"]
    assert sum(one["bytes_per_step"] for one in reduced) >= memory["parameters"]
    assert {one["axes"] for one in written["collectives"]} == {"data"}

"""The benchmark: its figures add up, its parts make up the step, and wrong input is one line."""

import json
import os
import platform
import subprocess
import sys

import jax
import numpy as np
import pytest

from sit_jax import bench
from sit_jax.common import allocator
from sit_jax.timing import clock, parts
from sit_jax.timing import tables as report
from sit_jax.timing.step import Step
from sit_jax.train.step import make_train_step
from sit_jax.views import make_views

pytestmark = pytest.mark.usefixtures("quick_compilation")
CONFIG = "--config=configs/digits.py:runlocal"


@pytest.fixture(scope="module")
def result(tmp_path_factory, quick_compilation):
    out = tmp_path_factory.mktemp("bench") / "bench.json"
    code = bench.main(["bench", CONFIG, "--random_images=40", "--repeats=2", "--noparts", f"--out={out}"])
    return code, json.loads(out.read_text())


def test_a_benchmark_says_all_there_is(result):
    code, figures = result
    assert code == 0
    assert 0 < figures["step"]["least"] <= figures["step"]["median"] <= figures["step"]["most"]
    compiled = figures["compiled"]
    # Views cost FLOPs too, but the formula counts only the model.
    assert compiled["compiled_flops"] > 0.98 * compiled["model_flops"] > 0
    assert compiled["startup_seconds"] > compiled["compile_seconds"] + compiled["trace_seconds"]
    rates = figures["rates"]
    assert rates["images_per_second"] == pytest.approx(figures["config"]["batch_size"] / figures["step"]["median"])
    assert rates["share_of_matrix_ceiling"] == pytest.approx(
        compiled["model_flops"]
        / figures["step"]["median"]
        / figures["ceilings"]["flops_per_second"]
        / jax.device_count()
    )
    assert 0 <= figures["reading"]["data_wait_fraction"] < 1
    assert figures["memory"]["host_peak"] > compiled["program_bytes"]
    assert "--random_images=40" in figures["command"]
    assert figures["config"]["source"] == "random"  # not the digits, which were not read
    text = report.text(figures)
    assert all(f"\n{name}" in text for name in ("step", "achieved", "start-up", "with reading"))


@pytest.mark.parametrize(
    "arguments,expected",
    [
        ([], "--config is missing"),
        ([CONFIG, "--config.nonsense=1"], "nonsense"),
        ([CONFIG, "--random_images=0"], "random_images"),
        (["--config=configs/folder.py:runlocal"], "data.source is not set"),
        ([CONFIG, "--out=/nowhere/at/all.json"], "no such folder"),
        ([CONFIG, "--config.microbatches=2", "--config.batch_size=64"], "add --noparts"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_2(arguments, expected, capsys):
    assert bench.main(["bench", *arguments]) == 2
    error = capsys.readouterr().err.strip()
    assert expected in error
    assert len(error.splitlines()) == 1


def test_the_machine_chooses_the_recipe(monkeypatch, capsys):
    chosen = []
    monkeypatch.setattr(bench, "bench", lambda config, values: chosen.append(config) or {})
    monkeypatch.setattr(report, "text", lambda result: "")
    assert bench.main(["bench", "--config=configs/folder.py"]) == 0
    assert chosen[0].model.image_size == 64  # tests run on CPUs
    assert "recipe :laptop, because this machine has no accelerator" in capsys.readouterr().out


@pytest.fixture(scope="module")
def step(quick_compilation):
    config = bench.cli.parse_config(bench.make_flags(["", CONFIG]), ["", CONFIG], ("config",), "")
    images = bench.open_images(config, None)
    return Step(bench.resolve.resolve(config, len(images)), images)


def test_the_parts_put_together_are_the_step(step):
    """The program `whole` gives the same parameters as a training step."""
    programs = parts.programs(step.training, step.config)
    assert programs.keys() | {"backward"} == {"whole", "forward and backward", *parts.PARTS} | {
        f"without {name}" for name in parts.PARTS
    }
    with jax.set_mesh(step.mesh):
        loss, found = jax.jit(lambda state, rows: programs["whole"](state, rows, None))(step.state, step.images)
        train = jax.jit(make_train_step(step.training, step.config))
        expected, metrics = train(step.state, {"image": step.images})
    np.testing.assert_allclose(loss, metrics["loss"], rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), found.params, expected.params)


@pytest.mark.parametrize("corrupted_only", [False, True])
def test_every_program_can_be_traced(step, corrupted_only):
    config = step.config.copy_and_resolve_references()
    config.loss.corrupted_only = corrupted_only
    with jax.set_mesh(step.mesh):
        views = jax.eval_shape(lambda images: make_views(jax.random.key(0), images, config), step.images)
        for program in parts.programs(step.training, config).values():
            jax.eval_shape(program, step.state, step.images, views)


def test_parts_are_timed_and_reported(step, monkeypatch):
    """The network alone, which compiles fast, replaces every part."""
    forward = parts.programs(step.training, step.config)["forward"]
    names = ["whole", *parts.PARTS[:3], "optimizer", *(f"without {name}" for name in parts.PARTS)]
    monkeypatch.setattr(parts, "programs", lambda training, config: dict.fromkeys(names, forward))
    with jax.set_mesh(step.mesh):
        times = step.time_parts(2)
    assert times.keys() == {*names, "backward"}
    assert all(0 < time["least"] <= time["median"] <= time["most"] for time in times.values())
    assert [line.split()[0] for line in report.parts_text(times)[1:]] == ["part", *parts.PARTS, "whole"]


def test_shares_of_the_parts():
    """Of a step of 10 s: 1 s each for views, corruption and optimizer; forward 2 s, backward 5 s."""
    seconds = {"augmentation": 1.0, "corruption": 1.0, "forward": 2.0, "backward": 5.0, "optimizer": 1.0}
    without = {name: 10 - time for name, time in seconds.items()}
    without["forward"] -= seconds["backward"]  # without a forward pass there is no backward pass
    times = {"whole": 10.0} | seconds | {f"without {name}": time for name, time in without.items()}
    shares = report.part_shares({name: {"median": time} for name, time in times.items()})
    for name, time in seconds.items():
        assert shares[name] == pytest.approx((time / 10, time / 10)), name


def test_programs_are_timed_in_turns():
    calls = []
    times = clock.measure({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, 3)
    assert calls == ["a", "b"] * 4  # the first turn warms up
    assert times.keys() == {"a", "b"}


HUGE = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
KEPT = {"LD_PRELOAD": "{folder}/libjemalloc.so.2", "MALLOC_CONF": "dirty_decay_ms:-1"}


@pytest.mark.parametrize(
    "system,machine,installed,pages,own,expected",
    [
        ("linux", "x86_64", True, "always [madvise] never", {}, KEPT),
        ("linux", "aarch64", True, "always [madvise] never", {}, HUGE),
        ("linux", "x86_64", False, "always [madvise] never", {}, HUGE),
        ("linux", "x86_64", False, "[always] madvise never", {}, {}),
        ("linux", "x86_64", False, None, {}, {}),
        ("linux", "x86_64", True, "[madvise]", {"LD_PRELOAD": ""}, {}),
        ("linux", "x86_64", True, "[madvise]", {"MALLOC_CONF": "thp:always"}, {}),
        ("linux", "x86_64", False, "[madvise]", {"GLIBC_TUNABLES": "mine=1"}, {}),
        ("darwin", "x86_64", True, None, {}, {}),
    ],
)
def test_memory_settings_restart_a_command_once(
    tmp_path, monkeypatch, system, machine, installed, pages, own, expected
):
    if installed:
        (tmp_path / "libjemalloc.so.2").touch()
    expected = {name: value.format(folder=tmp_path) for name, value in expected.items()}
    monkeypatch.setattr(allocator, "FOLDERS", (str(tmp_path / "elsewhere"), str(tmp_path)))
    if pages:
        (tmp_path / "enabled").write_text(pages)
    monkeypatch.setattr(allocator, "HUGE_PAGES", tmp_path / "enabled")
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(os, "environ", own.copy())
    started = []
    monkeypatch.setattr(os, "execv", lambda *arguments: started.append(arguments))
    allocator.restart_with_settings()
    allocator.restart_with_settings()
    assert os.environ == own | expected
    assert started == ([(sys.executable, [sys.executable, *sys.orig_argv[1:]])] if expected else [])


@pytest.mark.parametrize(
    "argv,command_line,expected",
    [
        (["-m", "--config=x"], ["python", "-m", "sit_jax.main", "--config=x"], "main"),
        (["-m"], ["python", "-X", "dev", "-msit_jax.bench"], "bench"),
        (["-m", "-m", "sit_jax.main"], ["python", "-m", "tool", "-m", "sit_jax.main"], "tool"),
        (["tool.py", "-m", "sit_jax.main"], ["python", "tool.py", "-m", "sit_jax.main"], ""),
        (["-c"], ["python", "-c", "import sit_jax"], ""),
    ],
)
def test_the_package_as_a_library_is_no_command(monkeypatch, argv, command_line, expected):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", command_line)
    assert allocator.running_command() == expected


def test_a_restarted_command_has_the_settings_of_this_machine(monkeypatch):
    for name in allocator.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    code = """
import json, os, pathlib
from sit_jax.common import allocator
allocator.restart_with_settings()
maps = pathlib.Path("/proc/self/maps")
kept = maps.exists() and "libjemalloc" in maps.read_text()
print(json.dumps([{name: os.environ[name] for name in allocator.VARIABLES if name in os.environ}, kept]))
"""
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    expected = allocator.settings()
    assert json.loads(printed.stdout) == [expected, "LD_PRELOAD" in expected]
    assert not printed.stderr


def test_a_step_on_cpu_ends_before_the_next_one_starts():
    code = """
import jax, jax.numpy as jnp
from sit_jax.common import commands
commands.run_steps_one_by_one()
array = jnp.ones((1500, 1500))
step = jax.jit(lambda a: jax.lax.fori_loop(0, 20, lambda i, b: b @ a / 1500, a))
jax.block_until_ready(step(array))
print(step(array).is_ready())
"""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    printed = subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True)
    assert printed.stdout.strip() == "True"

"""GPUs in the planner: their names, their memory, and the report on them."""

import importlib.util
import json

import pytest

from sit_jax import plan
from sit_jax.common.errors import InputError
from sit_jax.compiled import gpus, memory, targets
from sit_jax.compiled import tables as report
from sit_jax.compiled.advice import advice
from sit_jax.compiled.chips import GIB
from sit_jax.config.schema import defaults


@pytest.mark.parametrize("topology,expected", [("h100:1", (1, 1)), ("h100:8", (1, 8)), ("rtx4090:4x2", (4, 2))])
def test_hosts_and_gpus_are_read(topology, expected):
    assert gpus.parse_shape(topology)[1:] == expected


@pytest.mark.parametrize(
    "topology,larger",
    [("h100:1", "h100:2"), ("h100:6", "h100:8"), ("h100:8", "h100:2x8"), ("l4:3x4", "l4:6x4"), ("cpu:2", "")],
)
def test_the_next_larger_topology_fills_a_host_first(topology, larger):
    assert targets.larger_topology(topology) == larger


def test_each_gpu_has_a_row_in_both_tables():
    assert gpus.CHIPS.keys() == gpus.CARDS.keys()
    for kind, chip in gpus.CHIPS.items():
        text = gpus.describe_card(kind)
        assert f"device_memory_size: {int(chip.memory)}\n" in text
        assert text.count("{") == text.count("}")


@pytest.mark.parametrize("value,expected", [("", 0.75), ("0.92", 0.92), (".5", 0.5)])
def test_jax_takes_the_share_of_the_memory_that_it_is_told(monkeypatch, value, expected):
    monkeypatch.delenv("XLA_CLIENT_MEM_FRACTION", raising=False)
    monkeypatch.setenv("XLA_PYTHON_CLIENT_MEM_FRACTION", value)
    assert gpus.memory_fraction() == expected


@pytest.mark.parametrize("value", ["0", "1.5", "most", "nan"])
def test_a_share_of_the_memory_that_is_none_is_told(monkeypatch, value):
    monkeypatch.setenv("XLA_CLIENT_MEM_FRACTION", value)
    with pytest.raises(InputError, match=f"XLA_CLIENT_MEM_FRACTION={value} must be a number above 0"):
        gpus.memory_fraction()


@pytest.mark.parametrize("needed,first", [(70, "XLA_PYTHON_CLIENT_MEM_FRACTION=0.92"), (78, "--config.model.remat")])
def test_more_of_the_memory_is_advised_first_where_that_is_enough(needed, first):
    held = {"parameters": GIB, "optimizer": 2 * GIB, "other_state": 0, "total": needed * GIB}
    held |= {"whole": 80 * GIB, "capacity": 60 * GIB}
    assert advice(defaults(), {"slice": 1, "data": 1, "fsdp": 1}, held, "h100:1")[0] == first


def test_the_report_speaks_of_gpus():
    held = {"whole": 80 * GIB, "capacity": 60 * GIB, "parameters": GIB, "total": 70 * GIB}
    text = "\n".join([*report._memory(held, "GPU"), *report._verdict({"memory": held, "unit": "GPU", "fits": True})])
    assert "memory of a GPU" in text
    assert "JAX takes of it" in text
    assert text.endswith("fits: 70.00 of the 60.00 GiB that JAX takes of a GPU")
    assert "chip" not in text


def test_the_largest_batch_leaves_the_state_as_it_is():
    c = defaults()
    c.batch_size, c.dtype = 256, "bfloat16"
    # Of 100 units, 10 are state and 2 are gradients. The other 88 belong to 256 images, and 128 units have room for
    # 372.
    held = {"parameters": 4, "temporaries": 80, "batch": 10, "total": 100, "capacity": 140}
    assert memory.largest_batch(held, c, 1) == 368  # groups of 8 images
    assert memory.largest_batch(held, c, 8) == 320  # on each device
    c.microbatches = 4
    assert memory.largest_batch(held, c, 1) == 352  # in each microbatch
    assert memory.largest_batch(held | {"capacity": 11}, c, 1) == 0
    assert memory.largest_batch(held | {"capacity": 10_000}, c, 1) == 8 * 256  # no estimate beyond this


def test_a_missing_cudnn_is_told():
    def compile_():
        raise RuntimeError("cuDNN not found.")

    with pytest.raises(InputError, match="cuDNN is missing; install it with"):
        plan.compile_or_say_why(compile_)


needs_compiler = pytest.mark.skipif(
    not importlib.util.find_spec("jax_cuda13_plugin"), reason="needs requirements-plan-gpu.txt"
)


@needs_compiler
@pytest.mark.parametrize("kind", gpus.CHIPS)
def test_the_compiler_takes_the_description_of_a_gpu(kind):
    target = gpus.open_gpus(f"{kind}:2x4")
    assert (len(target.devices), target.joined) == (8, 4)
    assert {device.process_index for device in target.devices} == {0, 1}
    assert target.devices[0].compute_capability == ".".join(map(str, gpus.CARDS[kind].capability))
    assert target.devices[0].device_kind == gpus.CARDS[kind].device


@needs_compiler
def test_a_step_for_gpus_is_compiled_without_one(run_module, tmp_path):
    arguments = ["--config=configs/folder.py:runlocal", "--topology=h100:2x2", f"--out={tmp_path / 'plan.json'}"]
    done = run_module("sit_jax.plan", *arguments)
    assert done.returncode == 0, done.stderr
    assert "no all-to-all, no images; " in done.stdout
    assert "memory of a GPU" in done.stdout
    assert json.loads((tmp_path / "plan.json").read_text())["roofline"]["seconds"] > 0

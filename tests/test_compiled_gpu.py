"""A compiled program for GPUs: its counts, the causes of its kernels, and its best possible time."""

import pytest
from programs import GPU_PROGRAM

from sit_jax.compiled import collectives, gpus, hlo, kernels
from sit_jax.compiled.causes import UNNAMED, cause, seconds_by_cause
from sit_jax.compiled.chips import Chip
from sit_jax.compiled.roofline import lower_bound, roofline

X = 24 * 64 * 2  # bytes of the activations
HEADS = 4 * 2 * 6 * 32 * 2  # bytes of queries, of keys, of values and of their means
SUMS = 4 * 2 * 6 * 4  # bytes of the sums of the softmax
# (bytes, FLOPs) of one execution of each kernel, and its number of executions. Scratch memory does not count as bytes.
KERNELS = {
    "loop_broadcast_fusion": (12 * X, 0, 1),
    "fusion-start.1": (2 * X, 0, 12),  # reads and writes the slice of one layer
    "dynamic_slice_fusion.1": (128 * 64 * 2 + X + 24 * 128 * 2, 2 * 24 * 128 * 64, 12),
    "gemm_fusion_dot.1": (2 * X + 64 * 64 * 2, 2 * 24 * 64 * 64, 1),
    "cublas-gemm.1": (2 * 8 * 64 * 16 * 4 + 8 * 16 * 16 * 4, 2 * 8 * 16 * 16 * 64, 1),
    "attention.1": (4 * HEADS + SUMS, 2 * 2 * (4 * 2 * 6 * 6 * 32), 1),  # two products
    "attention.2": (8 * HEADS + SUMS, 5 * 2 * (4 * 2 * 6 * 6 * 32), 1),  # five products, five arrays in, three out
    "concatenate_fusion": (2 * 1024 * 2, 0, 1),
    "norm.1": (3 * X, 0, 1),
}


@pytest.fixture(scope="module")
def program():
    return hlo.parse(GPU_PROGRAM)


@pytest.fixture(scope="module")
def found(program):
    return kernels.find_kernels(program, gpus.CHIPS["a100"].passes)


def test_kernels_with_their_bytes_and_flops(found):
    assert {k.instruction.name: (k.bytes, k.flops, k.times) for k in found if k.computation.name != "condition"} == (
        KERNELS
    )


def test_a_step_adds_them_up(found):
    shares = [(moved * times, flops * times) for moved, flops, times in KERNELS.values()]
    comparison = 13 * 4 + 13 * 4 + 13  # of the loop's counter with 12: less than a hundred bytes
    assert kernels.memory_traffic(found) == pytest.approx(sum(moved for moved, _ in shares), abs=2 * comparison)
    assert kernels.compiled_flops(found) == sum(flops for _, flops in shares)


def test_float32_products_of_the_highest_precision_take_longer(found):
    longer = {k.instruction.name: k.matrix_flops / k.flops for k in found if k.flops and k.matrix_flops != k.flops}
    assert longer == {"cublas-gemm.1": 312 / 19.5}  # FLOP/s of an A100 in bfloat16 and in float32


def test_causes_are_what_the_kernels_come_from(program, found):
    causes = {k.instruction.name: cause(program, k) for k in found if k.computation.name != "condition"}
    assert causes == {
        "loop_broadcast_fusion": "layer loop: saving and loading residuals",  # named by the loop that reads it
        "fusion-start.1": "layer loop: saving and loading residuals",
        "dynamic_slice_fusion.1": "dense layers",  # named by the product in it
        "gemm_fusion_dot.1": "dense layers",
        "cublas-gemm.1": UNNAMED,
        "attention.1": "attention",
        "attention.2": "attention",
        "concatenate_fusion": UNNAMED,
        "norm.1": "layer norm",
    }
    bytes_of = dict(seconds_by_cause(program, found, lambda kernel: kernel.bytes))
    assert bytes_of["attention"] == 12 * HEADS + 2 * SUMS
    assert bytes_of["layer loop: saving and loading residuals"] == 12 * X + 12 * (2 * X)


def test_a_roofline_is_the_sum_of_what_each_kernel_takes_at_the_least(program, found):
    chip = Chip("one", 1e9, flops=50.0, memory_bandwidth=1.0, links=1e9, passes=gpus.CHIPS["a100"].passes)
    work = {"model_flops": 1e6, "matrix_flops_per_chip": 0, "memory_bytes_per_chip": 1, "link_bytes_per_chip": 0}
    result = roofline(program, found, chip, work, 8, 64)
    slow = sum(
        times * max(flops * (16 if name == "cublas-gemm.1" else 1) / 50, moved)
        for name, (moved, flops, times) in KERNELS.items()
    )
    assert result["seconds"] == pytest.approx(slow, abs=300)
    assert result["images_per_second"] == 64 / result["seconds"]
    assert result["mfu"] == pytest.approx(1e6 / 8 / 50 / result["seconds"])
    assert sum(one["share"] for one in result["causes"]) == pytest.approx(1)
    # If the links need longer than all kernels, they set the time.
    slower = roofline(program, found, chip, work | {"link_bytes_per_chip": 1e18}, 8, 64)
    assert (slower["seconds"], slower["images_per_second"]) == (result["seconds"], 64 / 1e9)
    assert roofline(program, found, Chip("CPU", 1e9), work, 8, 64) == {}


def test_collectives_of_gpus_are_counted_once(program):
    collected = collectives.find_collectives(program, {"slice": 1, "data": 1, "fsdp": 8}, 8)
    summary = {(one.kind, one.axes, one.times, one.bytes, one.slices) for one in collected}
    assert summary == {
        ("all-gather", "fsdp", 1, 2 * 64 * 64 * 2, 1),
        ("reduce-scatter", "fsdp", 1, 512 * 64 * 2, 1),
        ("all-reduce", "fsdp", 1, 1024 * 2, 1),
    }
    (reduced,) = [one for one in collected if one.kind == "all-reduce"]
    assert [array.dims for array in reduced.arrays] == [(512,), (8, 64)]  # gradients joined into one array


def test_what_crosses_hosts_goes_over_the_network(program):
    collected = collectives.find_collectives(program, {"slice": 1, "data": 1, "fsdp": 8}, 2)
    (reduced,) = [one for one in collected if one.kind == "all-reduce"]
    size = 1024 * 2
    assert reduced.slices == 4  # hosts of two GPUs each
    assert reduced.sent_in_slice == 2 * size * 1 / 2
    assert reduced.sent_across == 2 * size * 3 / 4 / 2  # each GPU of a host sends half of it


def test_a_network_that_is_not_known_is_left_out_of_the_bound():
    work = {"matrix_flops_per_chip": 1, "memory_bytes_per_chip": 2, "link_bytes_per_chip": 3}
    bound = lower_bound(work | {"network_bytes_per_chip": 9}, Chip("one", 1e9, 1.0, 1.0, 1.0), 6)
    assert (bound["by"], bound["step_seconds"], list(bound["seconds"])) == ("links", 3, ["compute", "memory", "links"])

"""GPUs in the planner: what is read from their programs, what they have, and how fast they can be."""

import importlib.util

import pytest

from sit_jax import plan
from sit_jax.compiled import collectives, gpus, hlo, kernels, memory, report, targets
from sit_jax.compiled.advice import advice
from sit_jax.compiled.causes import UNNAMED, cause, seconds_by_cause
from sit_jax.compiled.chips import GIB, Chip
from sit_jax.compiled.roofline import lower_bound, roofline
from sit_jax.config import defaults
from sit_jax.errors import InputError

# Shortened from what the compiler writes for an H100: a loop over layers that loads what was saved beside other work,
# products as calls of cuBLASLt, one of them with the slice of its weights, another one as a Triton kernel, attention by
# cuDNN, collectives of eight GPUs.
GPU_PROGRAM = """HloModule jit_train_step, is_scheduled=true, num_partitions=8

FileNames
1 "/somewhere/sit_jax/train/step.py"
2 "/somewhere/sit_jax/model.py"
3 "/site-packages/flax/nnx/nn/linear.py"
4 "/somewhere/sit_jax/norm.py"

FunctionNames
1 "make_train_step.<locals>.train_step"
2 "Encoder._run_layers"
3 "Block.__call__"
4 "Attention.__call__"
5 "rows"
6 "Linear.__call__"
7 "layer_norm"

FileLocations
1 {file_name_id=1 function_name_id=1 line=99 end_line=99 column=1 end_column=9}
2 {file_name_id=2 function_name_id=2 line=210 end_line=210 column=1 end_column=9}
3 {file_name_id=2 function_name_id=3 line=91 end_line=91 column=1 end_column=9}
4 {file_name_id=2 function_name_id=4 line=60 end_line=60 column=1 end_column=9}
5 {file_name_id=2 function_name_id=5 line=70 end_line=70 column=1 end_column=9}
6 {file_name_id=3 function_name_id=6 line=422 end_line=422 column=1 end_column=9}
7 {file_name_id=4 function_name_id=7 line=20 end_line=20 column=1 end_column=9}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}
3 {file_location_id=3 parent_frame_id=3}
4 {file_location_id=4 parent_frame_id=4}
5 {file_location_id=5 parent_frame_id=4}
6 {file_location_id=6 parent_frame_id=6}
7 {file_location_id=7 parent_frame_id=4}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%fused_broadcast () -> bf16[12,24,64] {
  %zero = bf16[] constant(0)
  ROOT %broadcast.1 = bf16[12,24,64]{2,1,0} broadcast(%zero), dimensions={}
}

%fused_dynamic_slice.1 (param_0.1: bf16[12,24,64], param_1.1: s32[]) -> bf16[1,24,64] {
  %param_0.1 = bf16[12,24,64]{2,1,0} parameter(0)
  %param_1.1 = s32[] parameter(1)
  %constant.1 = s32[] constant(0)
  ROOT %dynamic_slice.1 = bf16[1,24,64]{2,1,0} dynamic-slice(%param_0.1, %param_1.1, %constant.1, %constant.1), dynamic_slice_sizes={1,24,64}, metadata={op_name="jit(train_step)/transpose(jvp())/while/body/jit(dynamic_index_in_dim)/dynamic_slice" stack_frame_id=2}
}

%dynamic-slice-fusion (p0: bf16[12,128,64], p1: s32[], p2: bf16[24,64]) -> (bf16[24,128], s8[4194304]) {
  %p2 = bf16[24,64]{1,0} parameter(2)
  %p0 = bf16[12,128,64]{2,1,0} parameter(0)
  %p1 = s32[] parameter(1)
  %constant.2 = s32[] constant(0)
  %dynamic_slice.2 = bf16[1,128,64]{2,1,0} dynamic-slice(%p0, %p1, %constant.2, %constant.2), dynamic_slice_sizes={1,128,64}
  %bitcast.1 = bf16[128,64]{1,0} bitcast(%dynamic_slice.2)
  ROOT %custom-call.1 = (bf16[24,128]{1,0}, s8[4194304]{0}) custom-call(%p2, %bitcast.1), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(train_step)/transpose(jvp())/while/body/eval_jaxpr/dot_general" stack_frame_id=6}, backend_config={"operation_queue_id":"0","gemm_backend_config":{"alpha_real":1,"beta":0,"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":[],"rhs_batch_dimensions":[]},"precision_config":{"operand_precision":["DEFAULT","DEFAULT"],"algorithm":"ALG_UNSET"},"epilogue":"DEFAULT"}}
}

%gemm_fusion (parameter_0: bf16[24,64], parameter_1: bf16[64,64]) -> bf16[24,64] {
  %parameter_0 = bf16[24,64]{1,0} parameter(0)
  %parameter_1 = bf16[64,64]{1,0} parameter(1)
  ROOT %dot.1 = bf16[24,64]{1,0} dot(%parameter_0, %parameter_1), lhs_contracting_dims={1}, rhs_contracting_dims={0}, metadata={op_name="jit(train_step)/jvp()/eval_jaxpr/dot_general" stack_frame_id=6}
}

%condition (state.1: (s32[], bf16[12,24,64], bf16[12,128,64], bf16[24,64])) -> pred[] {
  %constant.12 = s32[] constant(12)
  %state.1 = (s32[], bf16[12,24,64]{2,1,0}, bf16[12,128,64]{2,1,0}, bf16[24,64]{1,0}) parameter(0)
  %get-tuple-element.1 = s32[] get-tuple-element(%state.1), index=0
  ROOT %lt.1 = pred[] compare(%get-tuple-element.1, %constant.12), direction=LT
}

%body (state.2: (s32[], bf16[12,24,64], bf16[12,128,64], bf16[24,64])) -> (s32[], bf16[12,24,64], bf16[12,128,64], bf16[24,64]) {
  %state.2 = (s32[], bf16[12,24,64]{2,1,0}, bf16[12,128,64]{2,1,0}, bf16[24,64]{1,0}) parameter(0)
  %counter = s32[] get-tuple-element(%state.2), index=0
  %saved = bf16[12,24,64]{2,1,0} get-tuple-element(%state.2), index=1
  %weights = bf16[12,128,64]{2,1,0} get-tuple-element(%state.2), index=2
  %x = bf16[24,64]{1,0} get-tuple-element(%state.2), index=3
  %fusion-start.1 = ((bf16[12,24,64]{2,1,0}, s32[]), bf16[1,24,64]{2,1,0}, u32[]) fusion-start(%saved, %counter), kind=kLoop, calls=%fused_dynamic_slice.1, metadata={op_name="jit(train_step)/transpose(jvp())/while/body/jit(dynamic_index_in_dim)/dynamic_slice" stack_frame_id=2}
  %dynamic_slice_fusion.1 = (bf16[24,128]{1,0}, s8[4194304]{0}) fusion(%weights, %counter, %x), kind=kCustom, calls=%dynamic-slice-fusion
  %fusion-done.1 = bf16[1,24,64]{2,1,0} fusion-done(%fusion-start.1)
  %bitcast.2 = bf16[24,64]{1,0} bitcast(%fusion-done.1)
  ROOT %tuple.2 = (s32[], bf16[12,24,64]{2,1,0}, bf16[12,128,64]{2,1,0}, bf16[24,64]{1,0}) tuple(%counter, %saved, %weights, %bitcast.2)
}

ENTRY %main (weights.1: bf16[12,128,64], x.1: bf16[24,64], square: bf16[64,64], q: bf16[4,6,2,32], images: f32[8,64,16], shard: bf16[8,64], whole: bf16[512,64]) -> bf16[24,64] {
  %weights.1 = bf16[12,128,64]{2,1,0} parameter(0)
  %x.1 = bf16[24,64]{1,0} parameter(1)
  %square = bf16[64,64]{1,0} parameter(2)
  %q = bf16[4,6,2,32]{3,2,1,0} parameter(3)
  %images = f32[8,64,16]{2,1,0} parameter(4)
  %shard = bf16[8,64]{1,0} parameter(5)
  %whole = bf16[512,64]{1,0} parameter(6)
  %zero.1 = s32[] constant(0)
  %loop_broadcast_fusion = bf16[12,24,64]{2,1,0} fusion(), kind=kLoop, calls=%fused_broadcast
  %tuple.1 = (s32[], bf16[12,24,64]{2,1,0}, bf16[12,128,64]{2,1,0}, bf16[24,64]{1,0}) tuple(%zero.1, %loop_broadcast_fusion, %weights.1, %x.1)
  %while.1 = (s32[], bf16[12,24,64]{2,1,0}, bf16[12,128,64]{2,1,0}, bf16[24,64]{1,0}) while(%tuple.1), condition=%condition, body=%body, metadata={op_name="jit(train_step)/jvp()/while" stack_frame_id=2}
  %gemm_fusion_dot.1 = bf16[24,64]{1,0} fusion(%x.1, %square), kind=kCustom, calls=%gemm_fusion, metadata={op_name="jit(train_step)/jvp()/eval_jaxpr/dot_general" stack_frame_id=6}, backend_config={"fusion_backend_config":{"kind":"__triton_nested_gemm_fusion"}}
  %cublas-gemm.1 = (f32[8,16,16]{2,1,0}, s8[4194304]{0}) custom-call(%images, %images), custom_call_target="__cublas$gemm", backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"],"rhs_contracting_dimensions":["1"],"lhs_batch_dimensions":["0"],"rhs_batch_dimensions":["0"]},"precision_config":{"operand_precision":["HIGHEST","HIGHEST"]}}}
  %attention.1 = (bf16[4,2,6,32]{3,1,2,0}, f32[4,2,6]{2,1,0}, u8[0]{0}) custom-call(%q, %q, %q), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(train_step)/jvp()/eval_jaxpr/dot_product_attention_fwd" stack_frame_id=4}, backend_config={"cudnn_fmha_backend_config": {"algorithm": {"algo_id": "0", "tuning_knobs": {"17": "1", "24": "0"}}, "fmha_scale": 0.125, "intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["4", "2", "6", "6"], "tuple_shapes": []}, "bmm1_dot_dimension_numbers": {"lhs_contracting_dimensions": ["3"]}}}
  %means = bf16[4,2,6,32]{3,1,2,0} get-tuple-element(%attention.1), index=0
  %sums = f32[4,2,6]{2,1,0} get-tuple-element(%attention.1), index=1
  %attention.2 = (bf16[4,2,6,32]{3,1,2,0}, bf16[4,2,6,32]{3,1,2,0}, bf16[4,2,6,32]{3,1,2,0}, u8[4096]{0}) custom-call(%q, %q, %q, %sums, %means, /*index=5*/%means), custom_call_target="__cudnn$fmhaSoftmaxBackward", metadata={op_name="jit(train_step)/transpose(jvp())/eval_jaxpr/dot_product_attention_bwd" stack_frame_id=4}, backend_config={"cudnn_fmha_backend_config": {"intermediate_tensor_shape": {"element_type": "BF16", "dimensions": ["4", "2", "6", "6"], "tuple_shapes": []}}}
  %all-gather-start.1 = ((bf16[8,64]{1,0}, bf16[8,64]{1,0}), (bf16[64,64]{1,0}, bf16[64,64]{1,0})) all-gather-start(%shard, %shard), channel_id=1, replica_groups=mesh['axis_0'=8] {'axis_0'}, dimensions={0}, use_global_device_ids=true, metadata={op_name="jit(train_step)/jvp()/eval_jaxpr/convert_element_type" stack_frame_id=6}
  %all-gather-done.1 = (bf16[64,64]{1,0}, bf16[64,64]{1,0}) all-gather-done(%all-gather-start.1)
  %reduce-scatter-start.1 = ((bf16[512,64]{1,0}), bf16[64,64]{1,0}) reduce-scatter-start(%whole), channel_id=2, replica_groups=mesh['axis_0'=8] {'axis_0'}, use_global_device_ids=true, dimensions={0}, to_apply=%add
  %reduce-scatter-done.1 = bf16[64,64]{1,0} reduce-scatter-done(%reduce-scatter-start.1)
  %all-reduce-start.1 = bf16[512,64]{1,0} all-reduce-start(%whole), channel_id=3, replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%add
  %all-reduce-done.1 = bf16[512,64]{1,0} all-reduce-done(%all-reduce-start.1)
  ROOT %norm.1 = bf16[24,64]{1,0} add(%x.1, %gemm_fusion_dot.1), metadata={op_name="jit(train_step)/jvp()/eval_jaxpr/add" stack_frame_id=7}
}
"""  # noqa: E501
X = 24 * 64 * 2  # bytes of the activations
HEADS = 4 * 2 * 6 * 32 * 2  # bytes of queries, of keys, of values and of their means
SUMS = 4 * 2 * 6 * 4  # bytes of the sums of the softmax
# (bytes, FLOPs) of one execution of each kernel, and how often it runs. Scratch memory is none of its bytes.
KERNELS = {
    "loop_broadcast_fusion": (12 * X, 0, 1),
    "fusion-start.1": (2 * X, 0, 12),  # reads and writes the slice of one layer
    "dynamic_slice_fusion.1": (128 * 64 * 2 + X + 24 * 128 * 2, 2 * 24 * 128 * 64, 12),
    "gemm_fusion_dot.1": (2 * X + 64 * 64 * 2, 2 * 24 * 64 * 64, 1),
    "cublas-gemm.1": (2 * 8 * 64 * 16 * 4 + 8 * 16 * 16 * 4, 2 * 8 * 16 * 16 * 64, 1),
    "attention.1": (4 * HEADS + SUMS, 2 * 2 * (4 * 2 * 6 * 6 * 32), 1),  # two products
    "attention.2": (8 * HEADS + SUMS, 5 * 2 * (4 * 2 * 6 * 6 * 32), 1),  # five products, five arrays in, three out
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
    assert longer == {"cublas-gemm.1": 312 / 19.5}  # an A100 has that many FLOP/s in bfloat16 and in float32


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
    # Where the links need longer than all kernels, they set the time.
    slower = roofline(program, found, chip, work | {"link_bytes_per_chip": 1e18}, 8, 64)
    assert (slower["seconds"], slower["images_per_second"]) == (result["seconds"], 64 / 1e9)
    assert roofline(program, found, Chip("CPU", 1e9), work, 8, 64) == {}


def test_collectives_of_gpus_are_counted_once(program):
    collected = collectives.find_collectives(program, {"slice": 1, "data": 1, "fsdp": 8}, 8)
    summary = {(one.kind, one.axes, one.times, one.bytes, one.slices) for one in collected}
    assert summary == {
        ("all-gather", "fsdp", 1, 2 * 64 * 64 * 2, 1),
        ("reduce-scatter", "fsdp", 1, 512 * 64 * 2, 1),
        ("all-reduce", "fsdp", 1, 512 * 64 * 2, 1),
    }


def test_what_crosses_hosts_goes_over_the_network(program):
    collected = collectives.find_collectives(program, {"slice": 1, "data": 1, "fsdp": 8}, 2)
    (reduced,) = [one for one in collected if one.kind == "all-reduce"]
    size = 512 * 64 * 2
    assert reduced.slices == 4  # hosts of two GPUs each
    assert reduced.sent_in_slice == 2 * size * 1 / 2
    assert reduced.sent_across == 2 * size * 3 / 4 / 2  # half of it by each GPU of a host


def test_a_network_that_is_not_known_is_left_out_of_the_bound():
    work = {"matrix_flops_per_chip": 1, "memory_bytes_per_chip": 2, "link_bytes_per_chip": 3}
    bound = lower_bound(work | {"network_bytes_per_chip": 9}, Chip("one", 1e9, 1.0, 1.0, 1.0), 6)
    assert (bound["by"], bound["step_seconds"], list(bound["seconds"])) == ("links", 3, ["compute", "memory", "links"])


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


def test_the_report_speaks_of_gpus_and_hosts():
    held = {"whole": 80 * GIB, "capacity": 60 * GIB, "parameters": GIB, "total": 70 * GIB}
    text = "\n".join([*report._memory(held, "GPU"), *report._verdict({"memory": held, "unit": "GPU", "fits": True})])
    assert "memory of a GPU" in text
    assert "JAX takes of it" in text
    assert text.endswith("fits: 70.00 of the 60.00 GiB that JAX takes of a GPU")
    assert "chip" not in text


def test_the_largest_batch_leaves_the_state_as_it_is():
    c = defaults()
    c.batch_size = 256
    # Of 100 units, 10 are state and 2 gradients; the other 88 are those of 256 images: 128 have room for 372.
    held = {"parameters": 2, "temporaries": 80, "batch": 10, "total": 100, "capacity": 140}
    assert memory.largest_batch(held, c, 1) == 368  # groups of 8 images
    assert memory.largest_batch(held, c, 8) == 320  # on each device
    c.microbatches = 4
    assert memory.largest_batch(held, c, 1) == 352  # in each microbatch
    assert memory.largest_batch(held | {"capacity": 11}, c, 1) == 0


@pytest.mark.skipif(not importlib.util.find_spec("jax_cuda13_plugin"), reason="needs requirements-plan-gpu.txt")
def test_a_step_for_gpus_is_compiled_without_one(run_module, tmp_path):
    arguments = ["--config=configs/folder.py:runlocal", "--topology=h100:2x2", f"--out={tmp_path / 'plan.json'}"]
    done = run_module("sit_jax.plan", *arguments)
    assert done.returncode == 0, done.stderr
    assert "no all-to-all, no images; " in done.stdout
    assert "memory of a GPU" in done.stdout
    assert plan.json.loads((tmp_path / "plan.json").read_text())["roofline"]["seconds"] > 0

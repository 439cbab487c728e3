"""Counts in compiled programs: FLOPs, bytes and collectives."""

import jax
import jax.numpy as jnp
import ml_collections
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from programs import TPU_PROGRAM

from sit_jax.compiled import collectives, costs, hlo, kernels, targets
from sit_jax.compiled.chips import Chip
from sit_jax.compiled.roofline import roofline
from sit_jax.config import schema
from sit_jax.config.resolve import resolve
from sit_jax.model import losses
from sit_jax.model.build import make_model
from sit_jax.model.heads import project
from sit_jax.parallel.mesh import batch_sharding, make_mesh

ONE_SLICE = {"slice": 1, "data": 2, "fsdp": 2}


def flops(program):
    return kernels.compiled_flops(kernels.find_kernels(program))


def compiled_program(function, *arguments):
    return hlo.parse(jax.jit(function).lower(*arguments).compile().as_text())


def test_flops_of_a_scan_are_those_of_all_its_steps():
    def function(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0]

    program = compiled_program(function, jnp.ones((48, 64)), jnp.ones((7, 64, 64)))
    assert flops(program) == 7 * 2 * 48 * 64 * 64
    assert program.unknown_loops() == []


def test_a_loop_of_unknown_length_is_told():
    def function(x):
        return jax.lax.while_loop(lambda x: jnp.sum(x) > 0, lambda x: x @ x, x)

    program = compiled_program(function, jnp.ones((32, 32)))
    assert flops(program) == 2 * 32**3
    assert len(program.unknown_loops()) == 1


def test_flops_of_a_convolution_leave_the_padding_out():
    def function(images, kernel):
        return jax.lax.conv_general_dilated(images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    program = compiled_program(function, jnp.ones((2, 8, 8, 3)), jnp.ones((3, 3, 3, 5)))
    assert flops(program) == 2 * 2 * 3 * 5 * (8 * 3 - 2) ** 2


@pytest.fixture(scope="module")
def small():
    c = schema.defaults()
    c.data.source = "not read"
    c.batch_size, c.steps = 16, 10
    c.model.update(size="XS", patch_size=4, image_size=32, projector_layers=3)
    return c


@pytest.fixture(scope="module")
def model_programs(small):
    """Forward and backward of the model with its losses: plain, with remat, with a stem of convolutions."""

    def program(**values):
        c = resolve(small, 1000)
        c.model.update(values)
        abstract = nnx.eval_shape(lambda: make_model(c, jax.random.key(0)))
        graphdef, params = nnx.split(abstract, nnx.Param)

        def loss(params, images, rotation):
            model = nnx.merge(graphdef, params)
            out = model(images)
            loss = losses.nt_xent(project(model.contrastive, out["token"])[0], 0.5) + losses.rotation_loss(
                out["rotation"], rotation
            )
            return loss + jnp.sum(jnp.abs(out["patches"]))

        images = jax.ShapeDtypeStruct((32, 32, 32, 3), jnp.float32)
        return compiled_program(jax.grad(loss), params, images, jax.ShapeDtypeStruct((32,), jnp.int32))

    return program(), program(remat=True), program(stem="convolutions")


def test_compiled_flops_of_the_model_are_those_of_the_formula(small, model_programs):
    assert flops(model_programs[0]) == pytest.approx(costs.model_flops(small), rel=0.02)
    convolutions = ml_collections.ConfigDict(small.to_dict())
    convolutions.model.stem = "convolutions"
    assert costs.model_flops(convolutions) > 1.03 * costs.model_flops(small)
    # The formula counts the products of padding too.
    assert flops(model_programs[2]) == pytest.approx(costs.model_flops(convolutions), rel=0.02)


def test_remat_adds_part_of_a_forward_pass(model_programs):
    plain, remat = map(flops, model_programs[:2])
    assert 1.1 < remat / plain < 4 / 3


@pytest.fixture(scope="module")
def handmade():
    """Known collectives on four devices, two of them in a loop of three."""
    mesh = make_mesh(data=2, fsdp=2, devices=jax.devices()[:4])

    def body(x):
        def step(x, _):
            total = jax.lax.psum(x, "data")
            return total + jax.lax.ppermute(x, "fsdp", [(0, 1), (1, 0)]), None

        x = jax.lax.scan(step, x, None, length=3)[0]
        gathered = jax.lax.all_gather(x, ("data", "fsdp"), tiled=True)
        moved = jax.lax.all_to_all(x, "fsdp", 1, 0, tiled=True)
        return gathered.sum() + moved.sum() + x

    spec = P(("data", "fsdp"))
    sharded = jax.shard_map(body, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    x = jax.ShapeDtypeStruct((4 * 8, 128), jnp.float32, sharding=NamedSharding(mesh, spec))
    return collectives.find_collectives(compiled_program(sharded, x), mesh.shape, 4)


@pytest.mark.parametrize(
    "kind,axes,times,size,sent",
    [
        ("all-reduce", "data", 3, 4096, 3 * 4096),
        ("collective-permute", "fsdp", 3, 4096, 3 * 4096),
        ("all-gather", "data x fsdp", 1, 4 * 4096, 3 * 4096),
        ("all-to-all", "fsdp", 1, 4096, 2048),
    ],
)
def test_collectives_are_counted_with_their_bytes_and_axes(handmade, kind, axes, times, size, sent):
    (one,) = [one for one in handmade if one.kind == kind]
    assert (one.axes, one.times, one.bytes, one.slices) == (axes, times, size, 1)
    assert one.sent_in_slice == sent
    assert one.sent_across == 0


def test_all_to_all_and_images_are_unwanted_and_parameters_are_not(handmade):
    (one,) = [one for one in handmade if one.kind == "all-to-all"]
    assert collectives.suspicions(one, 10**9, set(), set()) == ["all-to-all"]
    image = hlo.Array("f32", (8, 32, 32, 3), 0)
    weights = hlo.Array("f32", (64, 4096), 0)
    for array, expected in [
        (image, ["moves images"]),
        (hlo.Array("u8", (100,), 0), ["moves images"]),
        (weights, []),
        (
            weights._replace(dims=(64, 4097)),
            ["moves as much as the images of one device, and neither parameters nor embeddings"],
        ),
        (weights._replace(dims=(63,)), []),
    ]:
        gather = one._replace(kind="all-gather", arrays=(array,))
        assert collectives.suspicions(gather, 4096, {(32, 32, 3)}, {64 * 4096}) == expected


@pytest.mark.parametrize(
    "text,expected",
    [
        ("replica_groups={{0,1},{2,3}}, x=1", [(0, 1), (2, 3)]),
        ("replica_groups={}", [(0, 1, 2, 3)]),
        ("replica_groups=[2,2]<=[4]", [(0, 1), (2, 3)]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), x=1", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['a'=2,'b'=2] {'b'}, x=1", [(0, 1), (2, 3)]),
        ("replica_groups=mesh['a'=2,'b'=2], device_ids=([2,2]T(1,0)) {'b'}", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['a'=4] {'a':(2)2}", [(0, 1), (2, 3)]),
        ("replica_groups=mesh['a'=4] {'a':(1)2}", [(0, 2), (1, 3)]),
        ("source_target_pairs={{0,1},{1,0},{2,2}}", [(0, 1), (1, 0)]),
    ],
)
def test_groups_are_read_in_every_notation(text, expected):
    assert collectives.replica_groups(text, 4) == expected


@pytest.mark.parametrize(
    "groups,mesh_shape,expected",
    [
        ([(0, 1), (2, 3)], ONE_SLICE, ("fsdp", 1)),
        ([(0, 2), (1, 3)], ONE_SLICE, ("data", 1)),
        ([(0, 1, 2, 3)], ONE_SLICE, ("data x fsdp", 1)),
        ([(0, 1), (2, 3)], {"slice": 1, "data": 1, "fsdp": 4}, ("part of fsdp", 1)),
        ([(0, 4), (1, 5), (2, 6), (3, 7)], {"slice": 2, "data": 4, "fsdp": 1}, ("slice", 2)),
        ([tuple(range(8))], {"slice": 2, "data": 4, "fsdp": 1}, ("slice x data", 2)),
        ([(0, 1, 2, 3)], {"slice": 2, "data": 4, "fsdp": 1}, ("data", 1)),  # numbered within each slice
    ],
)
def test_groups_are_named_by_the_axes_of_the_mesh(groups, mesh_shape, expected):
    joined = mesh_shape["data"] * mesh_shape["fsdp"]
    assert collectives.describe_groups(groups, mesh_shape, joined) == expected


def test_a_tpu_program_is_read():
    program = hlo.parse(TPU_PROGRAM)
    assert program.unknown_loops() == []
    attention = 12 * 2 * 16 * 6 * 18 * 18 * 64
    assert flops(program) == attention + 2 * 64**3
    assert kernels.matrix_flops(kernels.find_kernels(program, {"highest": 6})) == attention + 6 * 2 * 64**3

    attention_bytes = 12 * (2 * 16 * 6 * 18 * 64 * 2 + 16 * 6 * 18 * 18 * 4)
    assert kernels.memory_traffic(kernels.find_kernels(program)) == pytest.approx(
        attention_bytes + 2 * 64 * 64 * 4 + 64 * 128 * 4, abs=200
    )

    found = collectives.find_collectives(program, {"slice": 2, "data": 4, "fsdp": 1}, 4)
    summary = {(one.kind, one.axes, one.times, one.bytes, one.source) for one in found}
    assert summary == {
        ("all-gather", "data", 12, 64 * 128 * 2, "sit_jax/model/vit.py:91"),
        ("reduce-scatter", "data", 1, 256 * 128 * 4, "sit_jax/model/vit.py:91"),
        ("all-reduce", "slice", 1, 64 * 128 * 4, "sit_jax/model/vit.py:91"),
        ("collective-permute", "data", 1, 64 * 64 * 4, ""),
    }
    (between,) = [one for one in found if one.slices == 2]
    assert (between.sent_in_slice, between.sent_across) == (0, 64 * 128 * 4)


def test_memory_traffic_leaves_out_what_stays_on_the_chip():
    program = hlo.parse(
        """ENTRY %main (a: f32[8,128], b: f32[4,8,128]) -> f32[4,8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %b = f32[4,8,128]{2,1,0:T(8,128)} parameter(1)
  %i = s32[] constant(0)
  %kept = f32[8,128]{1,0:T(8,128)S(1)} add(%a, %a)
  %slice = f32[1,8,128]{2,1,0:T(8,128)S(1)} dynamic-slice(%b, %i, %i, %i), dynamic_slice_sizes={1,8,128}
  %sum = f32[8,128]{1,0:T(8,128)} add(%kept, %slice)
  ROOT %out = f32[4,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%b, %slice, %i, %i, %i)
}
"""
    )
    one = 8 * 128 * 4
    reads = 2 * one + one  # both operands of the first sum, and the slice; arrays on the chip are free
    assert kernels.memory_traffic(kernels.find_kernels(program)) == pytest.approx(reads + one + one, abs=64)


def test_what_a_tpu_fetches_ahead_counts_as_traffic_but_not_as_a_kernel():
    program = hlo.parse(
        """ENTRY %main (a: f32[8,128]) -> f32[8,128] {
  %a = f32[8,128]{1,0:T(8,128)} parameter(0)
  %copy-start.1 = (f32[8,128]{1,0:T(8,128)S(1)}, f32[8,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %copy-done.1 = f32[8,128]{1,0:T(8,128)S(1)} copy-done(%copy-start.1)
  ROOT %sum = f32[8,128]{1,0:T(8,128)} add(%copy-done.1, %copy-done.1)
}
"""
    )
    found = kernels.find_kernels(program)
    one = 8 * 128 * 4  # read by the copy, written by the sum
    assert kernels.memory_traffic(found) == 2 * one
    chip = Chip("one", 1e9, flops=1.0, memory_bandwidth=1.0, links=1.0)
    work = {"model_flops": 0, "matrix_flops_per_chip": 0, "memory_bytes_per_chip": 2 * one, "link_bytes_per_chip": 0}
    result = roofline(program, found, chip, work, 1, 8)
    assert (result["kernels"], result["seconds"]) == (1, one)
    assert result["images_per_second"] == 8 / (2 * one)  # the memory takes that long


@pytest.mark.filterwarnings("ignore:Error reading persistent compilation cache")
def test_a_program_for_tpus_is_compiled_without_one():
    pytest.importorskip("libtpu")
    target = targets.open_target("v5e:2x2", 1)
    mesh = make_mesh(fsdp=4, devices=target.devices)
    x = jax.ShapeDtypeStruct((256, 256), jnp.bfloat16, sharding=batch_sharding(mesh))
    weights = jax.ShapeDtypeStruct((5, 256, 256), jnp.bfloat16, sharding=NamedSharding(mesh, P(None, "fsdp")))

    def function(x, weights):
        return jax.lax.scan(lambda x, w: (jnp.tanh(x @ w), None), x, weights)[0].sum()

    program = compiled_program(function, x, weights)
    assert (target.chip.flops, target.joined) == (197e12, 4)
    found = collectives.find_collectives(program, mesh.shape, 4)
    assert {one.axes for one in found} == {"fsdp"}
    assert flops(program) == 5 * 2 * 256**3 // 4  # a quarter of the rows on each chip

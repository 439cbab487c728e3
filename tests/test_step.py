"""The step on one device and on four, against independent pieces, and whether it learns."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from configs import digits
from sit_jax.common.errors import InputError
from sit_jax.common.keys import named_key, row_keys
from sit_jax.config.resolve import resolve
from sit_jax.model import losses, tasks
from sit_jax.model.heads import project
from sit_jax.parallel.mesh import AXES, batch_sharding, local_rows, make_mesh, put_batch, state_shardings
from sit_jax.train.state import abstract_state, init_state, make_training
from sit_jax.train.step import compile_steps, forward, make_eval_step
from sit_jax.views import make_views

pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_config(**values):
    c = digits.get_config("runlocal")
    c.model.image_size, c.batch_size, c.steps = 16, 16, 10
    c.optim.update(base_learning_rate=1e-3, warmup_steps=4)
    c.update_from_flattened_dict(values)
    return resolve(c, 1000)


def batch_of(size, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (size, 12, 12, 3), np.uint8)


def run(config, devices, fsdp=1, steps=3, slices=1):
    """Trains some steps and returns the state and all metrics."""
    mesh = make_mesh(-1, fsdp, jax.devices()[:devices], slices)
    training = make_training(config)
    with jax.set_mesh(mesh):
        state = init_state(config, training, mesh)
        train_step, _ = compile_steps(training, config, state, mesh)
        history = []
        for step in range(steps):
            images = jax.device_put(batch_of(config.batch_size, step), batch_sharding(mesh))
            state, metrics = train_step(state, {"image": images})
            history.append(jax.device_get(metrics))
    assert train_step._cache_size() == 1  # one trace, one compilation
    return jax.device_get(state), history


@functools.cache
def one_device():
    return run(make_config(), 1)


@pytest.mark.parametrize("devices,fsdp,slices", [(4, 2, 2)])
def test_the_result_does_not_depend_on_the_devices(devices, fsdp, slices):
    state, history = run(make_config(), devices, fsdp, slices=slices)
    expected_state, expected_history = one_device()
    for metrics, expected in zip(history, expected_history, strict=True):
        for name in expected:
            np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
    # Adam divides by the root of tiny second moments: rounding shows up to the size of an update (the learning rate).
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)
    jax.tree.map(close, state.params, expected_state.params)


@functools.cache
def first_gradients(chunks, devices=1, fsdp=1):
    """The first moments, a tenth of the gradients at the first step, and its metrics, for a batch of 64."""
    # Over corrupted pixels only, a mean of means would be wrong: each chunk weighs as much as it has pixels.
    values = {"batch_size": 64, "microbatches": chunks, "optim.clip_norm": 0.0, "loss.corrupted_only": True}
    # Batch normalisation of the chunks alone would be wrong too; four views of an image lie in one chunk.
    values |= {"model.projector_layers": 2, "model.projector_norm": "batch", "views.count": 4}
    state, history = run(make_config(**values), devices, fsdp, steps=1)
    leaves = jax.tree_util.tree_leaves_with_path(state.opt_state)
    moments = [leaf for path, leaf in leaves if ".mu[" in jax.tree_util.keystr(path)]
    assert len(moments) == len(jax.tree.leaves(state.params))
    return moments, history[0]


@pytest.mark.parametrize("chunks,devices,fsdp", [(8, 1, 1), (2, 4, 2)])
def test_chunks_give_the_losses_and_gradients_of_the_whole_batch(chunks, devices, fsdp):
    moments, metrics = first_gradients(chunks, devices, fsdp)
    expected_moments, expected = first_gradients(1)
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
    # What batch normalisation takes the mean from is what is left of much larger sums: rounding is of their size.
    for moment, other in zip(moments, expected_moments, strict=True):
        np.testing.assert_allclose(moment, other, rtol=1e-4, atol=5e-5 * np.abs(other).max())


def test_what_has_no_gradient_follows_the_step():
    """Running averages of the statistics of the batch, and the weights in closed form."""
    values = {"model.projector_norm": "batch", "loss.weighting": "closed_form", "loss.subtract_floor": True}
    config = make_config(**values)
    training, key = make_training(config), jax.random.fold_in(jax.random.key(config.seed), 0)
    state, history = run(config, 1, steps=1)
    params = init_state(config, training, make_mesh(-1, 1, jax.devices()[:1])).params

    @jax.jit
    def embed(images):
        views, keys = make_views(key, images, config), row_keys(named_key(key, "model"), 32)
        return forward(params, training, views, keys, config)[0]["contrastive"]["token"]

    token = embed(batch_of(16))
    seen = project(nnx.merge(training.graphdefs["contrastive"], params["model"]["contrastive"]), token, training=True)[
        1
    ]["norm0"]
    norm = state.params["model"]["contrastive"]["norm0"]
    np.testing.assert_allclose(norm["mean"], 0.1 * seen["mean"], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(norm["var"], 0.9 + 0.1 * seen["var"], rtol=1e-4)
    excess = history[0]["contrastive"] - losses.nt_xent_floor(32, config.loss.temperature)
    np.testing.assert_allclose(state.params["log_var"]["contrastive"], np.log(2 * excess), rtol=1e-4)
    np.testing.assert_allclose(
        state.params["log_var"]["reconstruction"], 2 * np.log(history[0]["reconstruction"]), rtol=1e-4
    )


def test_the_evaluation_of_chunks_is_that_of_the_batch():
    images, results = batch_of(16), []
    for chunks in (1, 2):
        config, mesh = make_config(microbatches=chunks), make_mesh(-1, 1, jax.devices()[:1])
        training = make_training(config)
        params = init_state(config, training, mesh).params
        results.append(jax.jit(make_eval_step(training, config))(params, images, 3))
    (metrics, views, rebuilt, predicted), (chunked, first_views, first_rebuilt, first_predicted) = results
    close = functools.partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, chunked, metrics)
    np.testing.assert_array_equal(first_views.rotation, views.rotation[:16])
    jax.tree.map(np.testing.assert_array_equal, first_views.masks, {n: m[:16] for n, m in views.masks.items()})
    np.testing.assert_allclose(first_views.corrupted, views.corrupted[:16], atol=1e-6)  # two programs may round apart
    np.testing.assert_allclose(first_rebuilt, rebuilt[:16], atol=1e-5)
    np.testing.assert_array_equal(first_predicted, predicted[:16])
    accuracy = float(np.mean(np.asarray(predicted) == np.asarray(views.rotation)))
    assert accuracy == pytest.approx(float(metrics["rotation_accuracy"]))


def test_negatives_of_one_shard_only_would_be_noticed(monkeypatch):
    """The test above is worth something only if a local NT-Xent fails it."""

    def local(embedding, temperature, views):
        shards = embedding.reshape(4, -1, embedding.shape[-1])
        return jax.vmap(lambda shard: nt_xent(shard, temperature, views))(shards).mean()

    nt_xent = losses.nt_xent
    monkeypatch.setattr(losses, "nt_xent", local)
    _, history = run(make_config(), 4, steps=1)
    assert abs(history[0]["contrastive"] / one_device()[1][0]["contrastive"] - 1) > 0.1


def test_parameters_and_moments_are_sharded_by_shape():
    config, mesh = make_config(), make_mesh(1, 4)
    state = abstract_state(config, make_training(config), mesh)
    kernel = state.params["model"]["encoder"]["blocks"]["mlp_in"]["kernel"]  # [1, 32, 128]
    assert kernel.sharding.is_fully_replicated  # small
    shapes = jax.eval_shape(lambda: {"a": jnp.zeros((2, 32, 128)), "b": jnp.zeros(7)})
    shardings = state_shardings(shapes, mesh, small=1)
    assert shardings["a"].spec == P(None, None, "fsdp")
    assert shardings["b"].is_fully_replicated


def test_large_arrays_never_lie_whole_on_a_device():
    config, mesh = make_config(**{"model.size": "Ti"}), make_mesh(1, 4)
    with jax.set_mesh(mesh):
        state = init_state(config, make_training(config), mesh)
    for leaf in jax.tree.leaves(state):
        if leaf.size >= 2**16:
            assert leaf.addressable_shards[0].data.size == leaf.size // 4


def test_mesh_must_multiply_to_the_devices():
    assert make_mesh(-1, 2).shape == {"slice": 1, "data": 2, "fsdp": 2}
    assert make_mesh(1, -1).shape == {"slice": 1, "data": 1, "fsdp": 4}
    assert make_mesh(-1, 2, slices=2).shape == {"slice": 2, "data": 1, "fsdp": 2}
    for slices in (3, 0, -1):
        with pytest.raises(InputError, match=rf"mesh.slices={slices} must divide the 4 devices here; leave it out"):
            make_mesh(slices=slices)
    for data, fsdp in [(3, 1), (-1, 3), (8, 1), (-1, -1), (0, 4)]:
        with pytest.raises(InputError, match="4 devices"):
            make_mesh(data, fsdp)


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a mesh asks of a device."""

    id: int
    slice_index: int
    platform: str
    process_index: int = 0
    device_kind: str = "a chip"
    core_on_chip: int = 0

    @property
    def coords(self):
        return (self.id % 2, self.id // 2 % 2, 0)


def test_groups_never_span_tpu_slices():
    chips = [Chip(i, i // 4, "tpu") for i in range(8)]
    for slices in (1, 3, 0):
        with pytest.raises(InputError, match=rf"mesh.slices={slices} must .* be a multiple of their 2 TPU slices"):
            make_mesh(devices=chips, slices=slices)
    assert make_mesh(devices=chips).shape["slice"] == 2
    nodes = [dataclasses.replace(chip, platform="gpu") for chip in chips]
    assert make_mesh(fsdp=8, devices=nodes).shape == {"slice": 1, "data": 1, "fsdp": 8}


def test_rows_follow_the_devices_and_not_the_hosts(monkeypatch):
    mesh = Mesh(np.array(jax.devices())[[0, 2, 3, 1]].reshape(1, 4, 1), AXES)
    batch = np.arange(24, dtype=np.uint8).reshape(8, 3)
    np.testing.assert_array_equal(put_batch(batch, local_rows(mesh, 8), 8, mesh), batch)
    # As if this host had only the first two devices, which hold the first and the last rows.
    here = {d: index for d, index in batch_sharding(mesh).devices_indices_map((8,)).items() if d.id < 2}
    monkeypatch.setattr(NamedSharding, "addressable_devices_indices_map", lambda self, shape: here)
    rows = local_rows(mesh, 8)
    assert rows.tolist() == [0, 1, 6, 7]
    monkeypatch.setattr(jax, "make_array_from_callback", lambda shape, _, part: (shape, *map(part, here.values())))
    shape, *parts = put_batch(batch[rows], rows, 8, mesh)
    assert shape == (8, 3)
    for part, index in zip(parts, here.values(), strict=True):
        np.testing.assert_array_equal(part, batch[index])


def start_of(config):
    """The parameters at step 0 on one device."""
    return jax.device_get(init_state(config, make_training(config), make_mesh(-1, 1, jax.devices()[:1]))).params


def test_the_same_step_gives_the_same_bits_and_another_seed_other_weights():
    state, history = run(make_config(), 1)
    jax.tree.map(np.testing.assert_array_equal, state, one_device()[0])
    assert history == one_device()[1]
    kernels = [start_of(make_config(seed=seed))["model"]["rotation"]["kernel"] for seed in (0, 1)]
    assert np.abs(kernels[0] - kernels[1]).mean() > 0.01


def test_losses_start_where_chance_is():
    """With a head of one layer: a batch normalisation spreads embeddings that are nearly equal."""
    values = {f"loss.weights.{task}": "learned" for task in tasks.TASKS}
    values |= {"model.projector_layers": 1, "model.projector_norm": "none"}
    metrics = run(make_config(**values), 1, steps=1)[1][0]
    np.testing.assert_allclose(metrics["rotation"], np.log(4), atol=0.1)
    np.testing.assert_allclose(metrics["contrastive"], np.log(31), atol=0.1)
    for task in tasks.TASKS:
        assert metrics[f"log_var_{task}"] != 1.0


def test_one_update_equals_adamw_by_hand_and_the_average_follows():
    """The first AdamW update is -lr * (g / (|g| + eps) + decay * w): about lr in size, whatever the gradient."""
    values = {"optim.clip_norm": 0.0, "optim.warmup_steps": 0, "optim.base_learning_rate": 0.032, "optim.ema": 0.75}
    config = make_config(**values)
    start, (state, history) = start_of(config), run(config, 1, steps=1)
    before, after = start["model"]["rotation"], state.params["model"]["rotation"]
    np.testing.assert_allclose(history[0]["learning_rate"], 1e-3, rtol=1e-6)
    np.testing.assert_allclose(np.abs(after["bias"] - before["bias"]), 1e-3, rtol=1e-3)
    decayed = before["kernel"] * (1 - 1e-3 * 0.05)
    np.testing.assert_allclose(np.abs(after["kernel"] - decayed), 1e-3, rtol=2e-2)
    expected = jax.tree.map(lambda a, b: 0.75 * a + 0.25 * b, start, state.params)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), state.ema, expected)


def test_clipping_task_off_and_corrupted_only():
    values = {"optim.clip_norm": 1e-6, "optim.eps": 1.0, "optim.weight_decay": 0.0, "optim.warmup_steps": 0}
    values |= {"loss.weights.rotation": "0", "loss.corrupted_only": True}
    values |= {"model.projector_norm": "none"}  # whose running averages no optimizer moves
    config = make_config(**values)
    start, (state, history) = start_of(config), run(config, 1, steps=1)
    metrics, plain = history[0], one_device()[1][0]
    # With a large eps the update is proportional to the clipped gradient, whose norm is 1e-6.
    moved = optax.global_norm(jax.tree.map(jnp.subtract, state.params, start))
    assert metrics["grad_norm"] > 0.1
    assert 0 < moved <= 1e-6 * metrics["learning_rate"] * 1.01
    np.testing.assert_array_equal(state.params["model"]["rotation"]["kernel"], start["model"]["rotation"]["kernel"])
    assert metrics["log_var_rotation"] == 1.0
    assert metrics["reconstruction"] != plain["reconstruction"]
    np.testing.assert_allclose(metrics["rotation"], plain["rotation"], rtol=1e-6)


def test_it_overfits_a_few_images():
    """Sixteen pictures of coloured blocks, brighter on top, and a tiny model: all three losses fall far."""
    values = {
        "steps": 200,
        "optim.base_learning_rate": 0.06,
        "corrupt.drop.fraction": (0.0, 0.1),
        "corrupt.replace.fraction": (0.0, 0.1),
        "views.area": (0.9, 1.0),
    }
    # Without changes of colour, which alone tells these pictures apart.
    values |= {f"views.{name}": 0.0 for name in ("brightness", "contrast", "saturation")}
    values |= {f"corrupt.{name}.probability": 0.0 for name in ("grayscale", "recolour")}
    config = make_config(**values)
    images = np.random.default_rng(0).integers(0, 128, (16, 3, 3, 3), np.uint8).repeat(4, axis=1).repeat(4, axis=2)
    images[:, :4] += 128
    mesh, training = make_mesh(-1, 1, jax.devices()[:1]), make_training(config)
    state = init_state(config, training, mesh)
    train_step, _ = compile_steps(training, config, state, mesh)
    history = []
    for _ in range(config.steps):
        state, metrics = train_step(state, {"image": images})
        history.append(metrics)
    first, last = jax.device_get(history[0]), jax.tree.map(lambda *x: np.mean(x), *jax.device_get(history[-10:]))
    assert last["reconstruction"] < 0.6 * first["reconstruction"]
    assert last["contrastive"] < 0.85 * first["contrastive"]
    assert last["rotation"] < 0.7 * first["rotation"]

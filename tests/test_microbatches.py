import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import digits
from sit_jax.checks import check_config, check_microbatches, resolve
from sit_jax.errors import InputError
from sit_jax.mesh import batch_sharding, make_mesh
from sit_jax.train import microbatches, step
from sit_jax.train.state import abstract_state, init_state, make_training
from sit_jax.train.step import compile_steps

pytestmark = pytest.mark.usefixtures("quick_compilation")


def make_config(chunks):
    c = digits.get_config("runlocal")
    c.model.image_size, c.batch_size, c.steps, c.microbatches = 16, 64, 10, chunks
    # Over corrupted pixels only, a mean of means would be wrong: each chunk weighs as much as it has pixels.
    c.optim.clip_norm, c.loss.corrupted_only = 0.0, True
    return resolve(c, 1000)


def images():
    return np.random.default_rng(0).integers(0, 256, (64, 12, 12, 3), np.uint8)


@functools.cache
def first_step(chunks, devices=1, fsdp=1):
    """The first moments, a tenth of the gradients at the first step, and its metrics."""
    config, mesh = make_config(chunks), make_mesh(-1, fsdp, jax.devices()[:devices])
    training = make_training(config)
    with jax.set_mesh(mesh):
        state = init_state(config, training, mesh)
        train_step, _ = compile_steps(training, config, abstract_state(config, training, mesh), mesh)
        state, metrics = train_step(state, {"image": jax.device_put(images(), batch_sharding(mesh))})
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state.opt_state))
    moments = [leaf for path, leaf in leaves if ".mu[" in jax.tree_util.keystr(path)]
    assert len(moments) == len(jax.tree.leaves(state.params))
    return moments, jax.device_get(metrics)


@pytest.mark.parametrize("chunks,devices,fsdp", [(8, 1, 1), (2, 4, 2)])
def test_chunks_give_the_losses_and_gradients_of_the_whole_batch(chunks, devices, fsdp):
    moments, metrics = first_step(chunks, devices, fsdp)
    expected_moments, expected = first_step(1)
    for name in expected:
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, err_msg=name)
    for moment, other in zip(moments, expected_moments, strict=True):
        np.testing.assert_allclose(moment, other, rtol=1e-4, atol=1e-5 * np.abs(other).max())


def test_the_gradient_of_a_loss_that_mixes_rows_is_exact():
    """A closed form: the loss (sum of w x)^2 has the gradient 2 (sum of w x) (sum of x)."""
    x, w = jnp.arange(12.0).reshape(4, 3), jnp.float32(0.5)

    def combine(outputs, w):
        return outputs.sum() ** 2, {"sum": outputs.sum()}

    (value, aux), gradient = microbatches.value_and_grad(lambda w, chunk: (w * chunk).sum(), combine, w, x)
    assert (value, aux["sum"], gradient) == (33.0**2, 33.0, 2 * 33.0 * 66.0)


def test_split_keeps_each_row_on_its_device_and_join_undoes_it():
    with jax.set_mesh(make_mesh()):
        chunks = microbatches.split(jnp.arange(16), 2)
        np.testing.assert_array_equal(chunks, [[0, 1, 4, 5, 8, 9, 12, 13], [2, 3, 6, 7, 10, 11, 14, 15]])
        np.testing.assert_array_equal(microbatches.join(chunks), np.arange(16))
    np.testing.assert_array_equal(microbatches.split(jnp.arange(6), 3), [[0, 1], [2, 3], [4, 5]])


def test_the_evaluation_of_chunks_is_that_of_the_batch():
    results = []
    for chunks in (1, 4):
        config, mesh = make_config(chunks), make_mesh(-1, 1, jax.devices()[:1])
        training = make_training(config)
        params = init_state(config, training, mesh).params
        results.append(jax.jit(step.make_eval_step(training, config))(params, images(), 3))
    (metrics, views, rebuilt), (chunked, first_views, first_rebuilt) = results
    for name in metrics:
        np.testing.assert_allclose(chunked[name], metrics[name], rtol=1e-5, err_msg=name)
    np.testing.assert_array_equal(first_views.corrupted, views.corrupted[:32])
    np.testing.assert_allclose(first_rebuilt, rebuilt[:32], atol=1e-5)


def test_chunks_that_would_cut_a_group_of_donors_are_refused():
    check_microbatches(8, 256, 4)
    with pytest.raises(InputError, match=r"microbatches=3 does not cut the 64 images .* use one of 1, 2, 4, 8"):
        check_microbatches(3, 256, 4)
    with pytest.raises(InputError, match=r"use one of 1$"):
        check_config(make_config(0), 64)

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from sit_jax import losses

LEARNED = dict.fromkeys(losses.TASKS, "learned")


def numpy_nt_xent(embedding, temperature):
    """An independent float64 version, a loop over rows."""
    z = np.asarray(embedding, np.float64)
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    terms = []
    for i in range(len(z)):
        similarity = z @ z[i] / temperature
        others = np.delete(similarity, i)
        terms.append(scipy.special.logsumexp(others) - similarity[i ^ 1])
    return np.mean(terms)


@pytest.mark.parametrize("rows,temperature", [(4, 0.5), (10, 0.5), (64, 0.1), (64, 1.0)])
def test_nt_xent_equals_numpy(rows, temperature):
    embedding = jax.random.normal(jax.random.key(rows), (rows, 16))
    value = losses.nt_xent(embedding, temperature)
    np.testing.assert_allclose(value, numpy_nt_xent(embedding, temperature), rtol=2e-6)


@pytest.mark.parametrize("rows", [2, 8, 512])
def test_identical_embeddings_give_log_of_the_number_of_others(rows):
    value = losses.nt_xent(jnp.tile(jnp.array([[3.0, -1.0, 2.0]]), (rows, 1)), 0.5)
    np.testing.assert_allclose(value, np.log(rows - 1), rtol=1e-6, atol=1e-6)


def test_nt_xent_does_not_depend_on_the_order_of_images_nor_on_the_length_of_embeddings():
    embedding = jax.random.normal(jax.random.key(0), (12, 8))
    pairs = embedding.reshape(6, 2, 8)
    shuffled = pairs[jnp.array([3, 1, 5, 0, 2, 4])].reshape(12, 8)
    expected = losses.nt_xent(embedding, 0.5)
    np.testing.assert_allclose(losses.nt_xent(shuffled, 0.5), expected, rtol=1e-6)
    np.testing.assert_allclose(losses.nt_xent(embedding * 100.0, 0.5), expected, rtol=1e-6)


def test_nt_xent_pulls_the_views_of_an_image_together():
    embedding = jax.random.normal(jax.random.key(0), (8, 8))
    aligned = embedding.reshape(4, 2, 8).at[:, 1].set(embedding.reshape(4, 2, 8)[:, 0]).reshape(8, 8)
    mispaired = jnp.roll(aligned, 1, axis=0)
    assert losses.nt_xent(aligned, 0.5) < losses.nt_xent(embedding, 0.5) < losses.nt_xent(mispaired, 0.5)


def test_nt_xent_is_finite_at_extremes():
    for embedding in (jnp.zeros((4, 8)), jnp.full((4, 8), 1e15), jnp.full((4, 8), 1e-15)):
        value, gradient = jax.value_and_grad(losses.nt_xent)(embedding, 0.01)
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient).all()


def test_rotation_loss_of_uniform_logits_is_log_4():
    np.testing.assert_allclose(losses.rotation_loss(jnp.zeros((8, 4)), jnp.arange(8) % 4), np.log(4), rtol=1e-6)


def test_rotation_loss_by_hand():
    logits = np.array([[2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 3.0, -2.0]])
    expected = np.mean(scipy.special.logsumexp(logits, axis=1) - logits[[0, 1], [3, 2]])
    value = losses.rotation_loss(jnp.array(logits, jnp.float32), jnp.array([3, 2]))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_reconstruction_loss_is_a_mean_over_all_pixels_or_over_the_mask():
    clean, rebuilt = jnp.zeros((2, 4, 4, 3)), jnp.ones((2, 4, 4, 3)).at[0, 0, 0].set(4.0)
    mask = jnp.zeros((2, 4, 4), bool).at[0, 0, 0].set(True).at[1, 2, 2].set(True)
    np.testing.assert_allclose(losses.reconstruction_loss(clean, rebuilt), (31 + 4) / 32, rtol=1e-6)
    np.testing.assert_allclose(losses.reconstruction_loss(clean, rebuilt, mask), 2.5, rtol=1e-6)
    assert losses.reconstruction_loss(clean, rebuilt, jnp.zeros_like(mask)) == 0


def test_learned_weights_by_hand():
    parts = {"reconstruction": jnp.float32(0.8), "rotation": jnp.float32(1.2), "contrastive": jnp.float32(5.0)}
    log_vars = {"reconstruction": jnp.float32(1.0), "rotation": jnp.float32(0.5), "contrastive": jnp.float32(1.4)}
    expected = np.exp(-0.5) * 0.8 + 0.5 + np.exp(-0.5) * 1.2 + 0.25 + np.exp(-1.4) * 5.0 + 0.7
    np.testing.assert_allclose(losses.total_loss(parts, log_vars, LEARNED), expected, rtol=1e-6)


def test_learned_weights_settle_where_theory_says():
    """The minimum over s of exp(-a s) L + s / 2 is at s = log(2 a L) / a."""
    for task, a in losses.LIKELIHOOD_SCALE.items():
        parts = dict.fromkeys(losses.TASKS, jnp.float32(0.7))
        log_vars = dict.fromkeys(losses.TASKS, jnp.float32(0.0)) | {task: jnp.float32(np.log(2 * a * 0.7) / a)}
        gradient = jax.grad(lambda s, parts=parts: losses.total_loss(parts, s, LEARNED))(log_vars)
        np.testing.assert_allclose(gradient[task], 0.0, atol=1e-6)


def test_fixed_weights_and_tasks_switched_off():
    parts = {"reconstruction": jnp.float32(2.0), "rotation": jnp.float32(3.0), "contrastive": jnp.float32(5.0)}
    log_vars = dict.fromkeys(losses.TASKS, jnp.float32(1.0))
    weights = {"reconstruction": "0.5", "rotation": "0", "contrastive": "2"}
    np.testing.assert_allclose(losses.total_loss(parts, log_vars, weights), 11.0, rtol=1e-6)
    weights = {"reconstruction": "learned", "rotation": "0", "contrastive": "0"}
    gradient = jax.grad(lambda s: losses.total_loss(parts, s, weights))(log_vars)
    assert gradient["rotation"] == 0
    assert gradient["contrastive"] == 0
    assert gradient["reconstruction"] != 0

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from sit_jax.config import schema
from sit_jax.model import losses
from sit_jax.model import weighting as weights_of_tasks
from sit_jax.model.tasks import TASKS, tasks_on


def section(weighting="gradient", subtract_floor=False, **weights):
    """The section `loss` of a configuration: learned weights, but for those that are given."""
    c = schema.defaults().loss
    c.update(weighting=weighting, subtract_floor=subtract_floor)
    c.weights.update(dict.fromkeys(TASKS, "learned") | weights)
    return c


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


def test_distances_are_taken_by_what_was_done_to_a_pixel():
    """By hand: one dropped pixel, one replaced after it was dropped, one blurred, five untouched."""
    clean, corrupted = jnp.zeros((1, 2, 4, 3)), jnp.zeros((1, 2, 4, 3)).at[0, 0, :3].set(jnp.arange(1.0, 4.0)[:, None])
    rebuilt = jnp.full((1, 2, 4, 3), 0.5)
    empty = jnp.zeros((1, 2, 4), bool)
    masks = {"blur": empty.at[0, 0, 2].set(True), "drop": empty.at[0, 0, :2].set(True)}
    masks["replace"] = empty.at[0, 0, 1].set(True)
    found = {name: tuple(map(float, pair)) for name, pair in losses.distances(clean, corrupted, rebuilt, masks).items()}
    assert found == {
        **{
            "reconstruction_dropped": (0.5, 1),
            "reconstruction_replaced": (0.5, 1),
            "reconstruction_untouched": (2.5, 5),
        },
        **{"copy_dropped": (1, 1), "copy_replaced": (2, 1), "copy_untouched": (0, 5), "copy": (6, 8)},
    }
    over_corrupted = losses.distances(clean, corrupted, rebuilt, masks, corrupted_only=True)["copy"]
    assert tuple(map(float, over_corrupted)) == (6, 3)


def test_learned_weights_by_hand():
    parts = {"reconstruction": jnp.float32(0.8), "rotation": jnp.float32(1.2), "contrastive": jnp.float32(5.0)}
    log_vars = {"reconstruction": jnp.float32(1.0), "rotation": jnp.float32(0.5), "contrastive": jnp.float32(1.4)}
    expected = np.exp(-0.5) * 0.8 + 0.5 + np.exp(-0.5) * 1.2 + 0.25 + np.exp(-1.4) * 5.0 + 0.7
    np.testing.assert_allclose(weights_of_tasks.total_loss(parts, log_vars, section(), {}), expected, rtol=1e-6)


def test_learned_weights_settle_where_theory_says():
    """The minimum over s of exp(-a s) L + s / 2 is at s = log(2 a L) / a."""
    for task, a in ((name, row.likelihood_scale) for name, row in TASKS.items()):
        parts = dict.fromkeys(TASKS, jnp.float32(0.7))
        log_vars = dict.fromkeys(TASKS, jnp.float32(0.0)) | {task: jnp.float32(np.log(2 * a * 0.7) / a)}
        gradient = jax.grad(lambda s, parts=parts: weights_of_tasks.total_loss(parts, s, section(), {}))(log_vars)
        np.testing.assert_allclose(gradient[task], 0.0, atol=1e-6)


def test_fixed_weights_and_tasks_switched_off():
    parts = {"reconstruction": jnp.float32(2.0), "rotation": jnp.float32(3.0), "contrastive": jnp.float32(5.0)}
    log_vars = dict.fromkeys(TASKS, jnp.float32(1.0))
    weights = section(reconstruction="0.5", rotation="0", contrastive="2")
    np.testing.assert_allclose(weights_of_tasks.total_loss(parts, log_vars, weights, {}), 11.0, rtol=1e-6)
    weights = section(rotation="0", contrastive="0")
    gradient = jax.grad(lambda s: weights_of_tasks.total_loss(parts, s, weights, {}))(log_vars)
    assert gradient["rotation"] == 0
    assert gradient["contrastive"] == 0
    assert gradient["reconstruction"] != 0


def test_nt_xent_of_several_views_has_the_mean_over_the_positives():
    """L_out of arXiv 2004.11362, written out row by row in float64."""
    embedding = np.random.default_rng(0).normal(size=(12, 5))
    z = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    similarity, rows = z @ z.T / 0.3, []
    for row in range(12):
        others = [other for other in range(12) if other != row]
        positives = [other for other in others if other // 4 == row // 4]
        denominator = scipy.special.logsumexp(similarity[row, others])
        rows.append(np.mean([denominator - similarity[row, positive] for positive in positives]))
    np.testing.assert_allclose(losses.nt_xent(jnp.float32(embedding), 0.3, views=4), np.mean(rows), rtol=2e-6)


@pytest.mark.parametrize("views", [2, 4])
def test_nt_xent_reaches_its_floor_where_images_are_orthogonal(views):
    embedding = jnp.eye(6).repeat(views, axis=0)
    floor = losses.nt_xent_floor(6 * views, 0.5, views)
    np.testing.assert_allclose(losses.nt_xent(embedding, 0.5, views), floor, rtol=1e-6)


def test_a_floor_changes_the_weights_and_no_gradient_of_the_model():
    c = section(subtract_floor=True)
    parts, log_vars = dict.fromkeys(TASKS, jnp.float32(3.0)), dict.fromkeys(TASKS, jnp.float32(0.4))
    floors = weights_of_tasks.floors(c, 128, 2)
    assert floors == {"contrastive": pytest.approx(np.log(np.exp(2) + 126) - 2, rel=1e-6)}
    assert weights_of_tasks.floors(section(), 128, 2) == {}

    def gradients(floors):
        return jax.grad(weights_of_tasks.total_loss, (0, 1))(parts, log_vars, c, floors)

    (of_losses, of_weights), (expected, other) = gradients(floors), gradients({})
    assert of_losses == expected
    excess = 3.0 - floors["contrastive"]
    np.testing.assert_allclose(of_weights["contrastive"], 0.5 - np.exp(-0.4) * excess, rtol=1e-5)
    assert of_weights["rotation"] == other["rotation"]


def test_weights_in_closed_form_follow_the_average_of_the_loss():
    """Against the average itself, in float64: s is where exp(-a s) L + s / 2 is least; the first loss starts it."""
    history = np.random.default_rng(0).uniform(0.2, 4.0, (30, 3))
    log_vars, averages = dict.fromkeys(TASKS, jnp.float32(1.0)), None
    for step, row in enumerate(history):
        parts = {task: jnp.float32(value) for task, value in zip(TASKS, row, strict=True)}
        log_vars = weights_of_tasks.closed_form(log_vars, parts, {"contrastive": 0.1}, jnp.int32(step))
        row = row - [0, 0, 0.1]
        averages = row if averages is None else 0.99 * averages + 0.01 * row
    for task, average in zip(TASKS, averages, strict=True):
        a = TASKS[task].likelihood_scale
        np.testing.assert_allclose(np.exp(-a * log_vars[task]), 1 / (2 * a * average), rtol=1e-4)


def test_weights_in_closed_form_have_no_gradient():
    parts, log_vars = dict.fromkeys(TASKS, jnp.float32(3.0)), dict.fromkeys(TASKS, jnp.float32(0.4))
    gradient = jax.grad(lambda s: weights_of_tasks.total_loss(parts, s, section(weighting="closed_form"), {}))(log_vars)
    assert all(value == 0 for value in gradient.values())


@pytest.mark.parametrize("weighting", ["gradient", "closed_form"])
def test_a_loss_below_its_floor_has_the_weight_of_a_small_one(weighting):
    c = section(weighting, subtract_floor=True)
    parts, log_vars = dict.fromkeys(TASKS, jnp.float32(3.0)), dict.fromkeys(TASKS, jnp.float32(0.4))
    floors = {"contrastive": 3.5}
    of_losses, of_weights = jax.grad(weights_of_tasks.total_loss, (0, 1))(parts, log_vars, c, floors)
    np.testing.assert_allclose(of_losses["contrastive"], np.exp(-0.4), rtol=1e-6)
    if weighting == "gradient":
        np.testing.assert_allclose(
            of_weights["contrastive"], 0.5 - np.exp(-0.4) * weights_of_tasks.SMALLEST_LOSS, rtol=1e-5
        )
    else:
        found = weights_of_tasks.closed_form(log_vars, parts, floors, jnp.int32(0))["contrastive"]
        np.testing.assert_allclose(found, np.log(2 * weights_of_tasks.SMALLEST_LOSS), rtol=1e-5)


def test_tasks_that_are_on():
    assert tasks_on(section(rotation="0", contrastive="0.5")) == ["reconstruction", "contrastive"]

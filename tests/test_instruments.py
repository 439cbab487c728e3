"""The instruments on a model: their views, devices, and warnings."""

import functools

import jax
import numpy as np
import pytest
from flax import nnx

from configs import digits
from sit_jax.common.keys import named_key
from sit_jax.config.resolve import resolve
from sit_jax.model import losses, tasks
from sit_jax.model.build import make_model
from sit_jax.model.heads import project
from sit_jax.parallel.mesh import make_mesh
from sit_jax.probes import instruments, monitors
from sit_jax.views import make_views

pytestmark = pytest.mark.usefixtures("quick_compilation")
HEALTHY = {"token_std_rotation": 0.3, "token_std_contrastive": 0.3, "shared_variance": 0.4}


def make_config(**values):
    c = digits.get_config("runlocal")
    c.model.image_size, c.batch_size, c.dtype = 16, 16, "float32"
    c.update_from_flattened_dict(values)
    return resolve(c, 1000)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).integers(0, 256, (40, 12, 12, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return make_model(make_config(), jax.random.key(0))


def measured(model, images, devices, **values):
    params = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    mesh = make_mesh(-1, 1, jax.devices()[:devices])
    with jax.set_mesh(mesh):
        return instruments.make_measure(make_config(**values), mesh)(params, images)


def test_they_are_those_of_views_as_in_training(model, images):
    """The 32 images of two batches; the five draws of two views are made by hand, all rotated as in the first draw."""
    found, config = measured(model, images, 1), make_config()
    seed_key = named_key(jax.random.key(config.seed), "instruments")

    @nnx.jit
    def draw(model, number, rows, images):
        key = jax.random.fold_in(seed_key, number)
        views = make_views(key, images, config, rows, seed_key)
        return model(views.corrupted)["token"], views.rotation

    drawn = [[draw(model, number, rows, images[rows]) for rows in np.arange(32).reshape(2, 16)] for number in range(5)]
    tokens = [np.concatenate([token for token, _ in draws]) for draws in drawn]
    rotations = [np.concatenate([rotation for _, rotation in draws]) for draws in drawn]
    assert all(np.array_equal(rotation, rotations[0]) for rotation in rotations) and len(set(rotations[0])) > 1
    embeddings = [np.asarray(project(model.contrastive, token, training=True)[0]) for token in tokens]
    first = embeddings[0].reshape(32, 2, -1)
    views = np.concatenate([token.reshape(32, 2, -1) for token in tokens], axis=1)
    loss = np.mean([losses.nt_xent(embedding, config.loss.temperature) for embedding in embeddings])
    expected = {
        "contrastive_progress": monitors.contrastive_progress(loss, 64, config.loss.temperature, 2),
        "alignment": monitors.alignment(first),
        "uniformity": monitors.uniformity(first[:, 0]),
        "negative_cosine": monitors.negative_cosine(first),
        "lidar": monitors.lidar(views),
        "shared_variance": monitors.shared_variance(views),
    }
    assert found == {name: pytest.approx(value, rel=1e-3, abs=1e-4) for name, value in expected.items()}


def test_without_the_contrastive_task_there_is_no_progress(model, images):
    assert "contrastive_progress" not in measured(model, images, 1, **{"loss.weights.contrastive": "0"})


def test_the_same_on_several_devices_and_in_parts(model, images):
    images = images[:32]  # whole batches, and whole parts of them
    expected = measured(model, images, 1)
    assert measured(model, images, 1) == expected
    for devices, values in ((4, {}), (1, {"microbatches": 2})):
        other = measured(model, images, devices, **values)
        assert other == {name: pytest.approx(value, rel=1e-2, abs=1e-4) for name, value in expected.items()}


def test_fewer_images_than_a_batch_will_do(model, images):
    assert all(np.isfinite(value) for value in measured(model, images[:3], 1).values())


def test_a_collapse_and_views_that_are_too_hard_are_said_in_a_line():
    warned = functools.partial(instruments.warnings, tasks=tasks.TASKS, trained=True)
    assert warned(HEALTHY) == []
    (line,) = warned(HEALTHY | {"token_std_contrastive": 0.001})
    assert line.startswith("the contrastive token has collapsed: its spread over images is 0.001 of 1")
    assert warned(HEALTHY | {"token_std_rotation": 0.001}, trained=False) == []
    assert warned(HEALTHY | {"token_std_rotation": 0.001}, tasks=["contrastive"]) == []
    (line,) = warned(HEALTHY | {"shared_variance": 0.09}, trained=False)
    assert line.startswith("two views of an image share 9% of the variance of the contrastive token: make them easier")


def test_equal_images_collapse(model):
    features = np.broadcast_to(np.float32([[1.0, 2.0], [3.0, -1.0]]), (20, 2, 2))
    found = instruments.of_features(features)
    assert found["rank_me"] == pytest.approx(1, rel=1e-3)
    assert len(instruments.warnings(found | {"shared_variance": 1.0}, tasks.TASKS, trained=True)) == 2

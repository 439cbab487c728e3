"""The instruments on a model: the views that they draw, devices, and what they warn of."""

import jax
import numpy as np
import pytest
from flax import nnx

from configs import digits
from sit_jax import losses
from sit_jax.checks import resolve
from sit_jax.eval import instruments, monitors
from sit_jax.keys import named_key
from sit_jax.mesh import make_mesh
from sit_jax.model import project
from sit_jax.train.state import make_model
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
    """Of the 32 images that two batches hold: embeddings of the first draw by hand."""
    found, config = measured(model, images, 1), make_config()
    key = jax.random.fold_in(named_key(jax.random.key(config.seed), "instruments"), 0)
    tokens_of = nnx.jit(lambda model, rows, images: model(make_views(key, images, config, rows).corrupted)["token"])
    tokens = [tokens_of(model, rows, images[rows]) for rows in np.arange(32).reshape(2, 16)]
    embedding = project(model.contrastive, np.concatenate(tokens), training=True)[0]
    pairs = np.asarray(embedding).reshape(32, 2, -1)
    assert found["alignment"] == pytest.approx(monitors.alignment(pairs), rel=1e-3)
    assert found["negative_cosine"] == pytest.approx(monitors.negative_cosine(pairs), abs=1e-3)
    loss = float(losses.nt_xent(embedding, config.loss.temperature))
    progress = monitors.contrastive_progress(loss, 64, config.loss.temperature, 2)
    assert found["contrastive_progress"] == pytest.approx(progress, abs=0.05)  # the mean over five draws


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
    assert instruments.warnings(HEALTHY, trained=True) == []
    (line,) = instruments.warnings(HEALTHY | {"token_std_contrastive": 0.001}, trained=True)
    assert line.startswith("the contrastive token has collapsed: its spread over images is 0.001 of 1")
    assert instruments.warnings(HEALTHY | {"token_std_rotation": 0.001}, trained=False) == []
    (line,) = instruments.warnings(HEALTHY | {"shared_variance": 0.09}, trained=False)
    assert line.startswith("two views of an image share 9% of the variance of the contrastive token: make them easier")


def test_equal_images_collapse(model):
    features = np.broadcast_to(np.float32([[1.0, 2.0], [3.0, -1.0]]), (20, 2, 2))
    found = instruments.of_features(features)
    assert found["rank_me"] == pytest.approx(1, rel=1e-3)
    assert len(instruments.warnings(found | {"shared_variance": 1.0}, trained=True)) == 2

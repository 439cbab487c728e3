import jax
import numpy as np
import pytest
from flax import nnx
from sklearn.neighbors import KNeighborsClassifier

from configs import digits
from sit_jax.config.resolve import resolve
from sit_jax.model.build import make_graphdefs
from sit_jax.model.heads import project
from sit_jax.parallel.mesh import make_mesh
from sit_jax.probes import knn
from sit_jax.probes.features import CLASSIFIED, extract, make_encode
from sit_jax.probes.knn import knn_votes
from sit_jax.train.state import init_state, make_training

pytestmark = pytest.mark.usefixtures("quick_compilation")


def clusters(count, seed, noise=1.2):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(5, 16))
    labels = rng.integers(0, 5, count)
    return (centres[labels] + noise * rng.normal(size=(count, 16))).astype(np.float32), labels


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("blocks", [{}, {"QUERIES": 64, "KEYS": 70}])
def test_knn_equals_scikit_learn(temperature, blocks, monkeypatch):
    for name, size in blocks.items():
        monkeypatch.setattr(knn, name, size)
    (train, train_labels), (test, test_labels) = clusters(300, 1), clusters(1500, 2)
    ks = (1, 5, 20, 500)
    votes = knn_votes(train[:, None], train_labels, test[:, None], 5, ks, temperature, make_mesh())
    for k in ks:
        classifier = KNeighborsClassifier(min(k, 300), metric="cosine", weights=lambda d: np.exp((1 - d) / temperature))
        expected = classifier.fit(train, train_labels).predict(test)
        assert 0.3 < np.mean(expected == test_labels) < 1
        np.testing.assert_array_equal(votes[k].argmax(axis=1), expected)


def test_nearest_of_equals_are_the_first():
    features = np.ones((40, 3), np.float32)
    similarity, rows = knn.nearest(features[:8], features, 5, make_mesh())
    np.testing.assert_array_equal(rows, np.tile(np.arange(5), (8, 1)))
    np.testing.assert_allclose(similarity, 1, rtol=1e-6)


def test_nearest_of_fewer_queries_than_devices_and_of_blocks_with_a_rest(monkeypatch):
    """The order of a sort in NumPy; the last block of features has one row, and k is more than a block has."""
    monkeypatch.setattr(knn, "KEYS", 3)
    rng = np.random.default_rng(0)
    features, queries = (rng.normal(size=(rows, 6)).astype(np.float32) for rows in (10, 5))
    exact = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (queries, features)]
    expected = exact[0] @ exact[1].T
    for count in (1, 5):
        similarity, rows = knn.nearest(queries[:count], features, 7, make_mesh())
        np.testing.assert_array_equal(rows, np.argsort(-expected[:count], axis=1)[:, :7])
        np.testing.assert_allclose(similarity, np.take_along_axis(expected[:count], rows, 1), atol=1e-6)


def test_a_vector_has_unit_length_but_for_one_of_zeros():
    vectors = np.float32([[[3.0, 4.0], [0.0, 0.0]], [[3e-6, -4e-6], [0.0, 1e6]]])
    np.testing.assert_allclose(knn.normalise(vectors), [[[0.6, 0.8], [0, 0]], [[0.6, -0.8], [0, 1]]], rtol=1e-6)


def test_votes_by_hand():
    """A neighbour votes with exp(similarity / temperature), in units of the nearest one's; other classes have -inf."""
    similarity, labels = np.float32([[0.9, 0.5, 0.1], [1.0, 1.0, -1.0]]), np.array([[0, 1, 1], [2, 2, 0]])
    votes = knn.vote(similarity, labels, 3, 0.1)
    np.testing.assert_allclose(votes, [[1, np.exp(-4) + np.exp(-8), -np.inf], [np.exp(-20), -np.inf, 2]], rtol=1e-5)


def encoder(mesh):
    config = resolve(digits.get_config("runlocal"), 1000)
    with jax.set_mesh(mesh):
        return config, init_state(config, make_training(config), mesh).params["model"]


def test_features_do_not_depend_on_batches_nor_devices():
    images = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), np.uint8)
    results = []
    for devices, batch_size in [(1, 37), (1, 8), (4, 16), (4, 7)]:
        mesh = make_mesh(-1, 1, jax.devices()[:devices])
        config, params = encoder(mesh)
        encode = make_encode(config, mesh)
        results.append(extract(encode, params, images.__getitem__, len(images), batch_size, mesh))
    assert results[0].shape == (37, 2, 32)
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-4, atol=1e-5)
    assert len(np.unique(np.round(results[0], 4), axis=0)) == 37


def test_kinds_of_features_are_parts_of_the_same_tokens():
    mesh = make_mesh()
    config, params = encoder(mesh)
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    kinds = {kind: np.asarray(make_encode(config, mesh, kind)(params, images)) for kind in (*CLASSIFIED, "patches")}
    tokens, patches = kinds["tokens"], kinds["patches"]
    side = config.model.image_size // config.model.patch_size
    assert patches.shape == (4, side, side, 32)
    np.testing.assert_array_equal(kinds["rotation"], tokens[:, :1])
    np.testing.assert_array_equal(kinds["contrastive"], tokens[:, 1:])
    np.testing.assert_array_equal(kinds["concat"][:, 0], tokens.reshape(4, -1))
    np.testing.assert_allclose(kinds["patch_mean"][:, 0], patches.mean(axis=(1, 2)), rtol=1e-5, atol=1e-6)
    projection = np.asarray(make_encode(config, mesh, "projection")(params, images))
    head = nnx.merge(make_graphdefs(config)["contrastive"], params["contrastive"])
    np.testing.assert_allclose(projection[:, 0], project(head, tokens[:, 1])[0], rtol=1e-4, atol=1e-5)

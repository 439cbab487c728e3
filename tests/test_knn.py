import jax
import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from configs import digits
from sit_jax.checks import resolve
from sit_jax.eval.features import extract, make_encode
from sit_jax.eval.knn import knn_top1
from sit_jax.mesh import make_mesh
from sit_jax.train.state import init_state, make_training


def clusters(count, seed, noise=1.2):
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(0).normal(size=(5, 16))
    labels = rng.integers(0, 5, count)
    return (centres[labels] + noise * rng.normal(size=(count, 16))).astype(np.float32), labels


@pytest.mark.parametrize("k", [1, 5, 20, 500])
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_knn_equals_scikit_learn(k, temperature):
    (train, train_labels), (test, test_labels) = clusters(300, 1), clusters(1500, 2)
    k_used = min(k, 300)
    classifier = KNeighborsClassifier(k_used, metric="cosine", weights=lambda d: np.exp((1 - d) / temperature))
    expected = classifier.fit(train, train_labels).score(test, test_labels)
    assert 0.3 < expected < 1
    assert knn_top1(train, train_labels, test, test_labels, k, temperature) == expected


def test_features_do_not_depend_on_batches_nor_devices():
    config = resolve(digits.get_config("runlocal"), 1000)
    images = np.random.default_rng(0).integers(0, 256, (37, 8, 8, 3), np.uint8)
    results = []
    for devices, batch_size in [(1, 37), (1, 8), (4, 16)]:
        mesh = make_mesh(-1, 1, jax.devices()[:devices])
        training = make_training(config)
        with jax.set_mesh(mesh):
            params = init_state(config, training, mesh).params["model"]
            encode = make_encode(training.graphdef, config, mesh)
            results.append(extract(encode, params, images, batch_size, mesh))
    assert results[0].shape == (37, 2 * 32)
    for other in results[1:]:
        np.testing.assert_allclose(other, results[0], rtol=1e-4, atol=1e-5)
    assert np.unique(np.round(results[0], 4), axis=0).shape[0] == 37

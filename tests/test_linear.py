import jax
import numpy as np
import pytest
import scipy.special
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

from sit_jax.parallel.mesh import make_mesh
from sit_jax.probes import linear
from sit_jax.probes.linear import UNCHOSEN_L2, Standardiser, cross_entropy, fit, linear_logits, predict

L2S = (1e-4, 1e-2, 1.0)


@pytest.fixture(scope="module")
def digits():
    """Digits as features [N, 2, 32]: the upper and the lower half of each; 1001 to train, a number without divisors."""
    images, labels = load_digits(return_X_y=True)
    features = images.reshape(-1, 2, 32).astype(np.float32)
    return features[:1001], labels[:1001], features[1001:], labels[1001:]


@pytest.mark.parametrize("l2", L2S)
def test_the_optimum_is_that_of_scikit_learn(digits, l2):
    train, labels, test, test_labels = digits
    scale = Standardiser(train[:, 0])
    params = fit(scale(train[:, 0]), labels, 10, (l2,), make_mesh())[0]
    reference = LogisticRegression(C=1 / (l2 * len(train)), max_iter=5000, tol=1e-6)
    reference.fit(scale(train[:, 0]).astype(np.float64), labels)
    features = scale(test[:, 0])
    ours, theirs = predict([params], features[:, None]), reference.decision_function(features)
    gap = abs(np.mean(ours.argmax(1) == test_labels) - np.mean(theirs.argmax(1) == test_labels))
    assert gap <= 0.005
    assert np.mean(ours.argmax(1) == theirs.argmax(1)) > 0.99
    both = [cross_entropy(x, test_labels) for x in (ours, theirs)]
    assert both[0] == pytest.approx(both[1], abs=0.01)


def test_two_classifiers_averaged_beat_each_and_the_penalty_is_chosen(digits):
    train, labels, test, test_labels = digits
    top1 = {}
    for name, part in (("both", slice(0, 2)), ("upper", slice(0, 1)), ("lower", slice(1, 2))):
        logits, chosen = linear_logits(train[:, part], labels, test[:, part], 10, L2S, 0.1, 0, make_mesh())
        top1[name] = np.mean(logits.argmax(axis=1) == test_labels)
        assert chosen["l2"] == float(min(chosen["held_out_cross_entropy"], key=chosen["held_out_cross_entropy"].get))
    assert top1["both"] > max(top1["upper"], top1["lower"]) + 0.05


def test_one_label_a_class_leaves_nothing_to_choose_with(digits):
    train, labels, test, test_labels = digits
    rows = [int(np.flatnonzero(labels == c)[0]) for c in range(10)]
    logits, chosen = linear_logits(train[rows], labels[rows], test, 10, L2S, 0.1, 0, make_mesh())
    assert (chosen["l2"], chosen["held_out_cross_entropy"]) == (UNCHOSEN_L2, {})
    assert 0.3 < np.mean(logits.argmax(axis=1) == test_labels) < 1


def test_cross_entropy_of_equal_logits_is_log_of_the_classes():
    assert cross_entropy(np.full((4, 7), 1000.0), np.arange(4)) == pytest.approx(np.log(7))


def test_features_are_scaled_by_the_mean_and_deviation_of_the_training_ones(digits):
    """The scaler and the solver of scikit-learn, where the test features lie elsewhere and are spread wider."""
    train, labels, test, _ = digits
    logits, chosen = linear_logits(train, labels, 2 * test, 10, (1.0,), 0.1, 0, make_mesh())
    expected = []
    for k in range(2):
        scaler, reference = StandardScaler().fit(train[:, k]), LogisticRegression(C=1 / len(train), tol=1e-8)
        reference.fit(scaler.transform(train[:, k]), labels)
        expected.append(reference.decision_function(scaler.transform(2 * test[:, k])))
    assert chosen == {"l2": 1.0, "held_out_cross_entropy": {}}
    # The sum of the logits of a row is free.
    centred = [x - x.mean(axis=1, keepdims=True) for x in (logits, np.mean(expected, axis=0))]
    np.testing.assert_allclose(*centred, atol=2e-3)


def test_a_class_of_one_label_leaves_nothing_to_choose_with_whatever_the_others_have(digits):
    train, labels, test, _ = digits
    nines = np.flatnonzero(labels == 9)
    labels = labels.copy()
    labels[nines[1:]] = 8
    _, chosen = linear_logits(train[:, :1], labels, test[:4, :1], 10, L2S, 0.1, 0, make_mesh())
    assert chosen == {"l2": UNCHOSEN_L2, "held_out_cross_entropy": {}}


def test_standardiser_by_hand():
    """Deviations of 2 and 0.001; a feature that does not vary is divided by 1e-6."""
    scale = Standardiser(np.float64([[1, 0.002, 7], [5, 0.004, 7]]))
    np.testing.assert_allclose(scale(np.float64([[3, 0.005, 7], [-1, 0.003, 8]])), [[0, 2, 0], [-2, 0, 1e6]], atol=1e-9)


def test_cross_entropy_by_hand():
    logits = np.array([[2.0, 0.0, -1.0, 0.5], [0.0, 1.0, 3.0, -2.0], [-5.0, -7.0, -6.0, -5.5]])
    expected = np.mean(scipy.special.logsumexp(logits, axis=1) - logits[[0, 1, 2], [3, 2, 0]])
    assert cross_entropy(logits, np.array([3, 2, 0])) == pytest.approx(expected)


def test_the_steps_are_limited(monkeypatch):
    """After a single step the loss is lower and the gradient, which ends the search, is not small yet."""
    monkeypatch.setattr(linear, "MAX_STEPS", 1)
    rng = np.random.default_rng(0)
    features, targets = np.float32(rng.normal(size=(8, 3))), np.eye(2, dtype=np.float32)[rng.integers(0, 2, 8)]
    start = {"kernel": np.zeros((3, 2), np.float32), "bias": np.zeros(2, np.float32)}
    found = linear.solve(start, features, targets, np.float32(8), np.float32(0.1))
    loss = jax.jit(jax.value_and_grad(lambda params: linear.objective(params, features, targets, 8.0, 0.1)))
    (before, _), (after, gradient) = loss(start), loss(found)
    np.testing.assert_allclose(before, np.log(2), rtol=1e-6)
    assert after < before - 0.01 and abs(gradient["kernel"]).max() > 100 * linear.TOLERANCE

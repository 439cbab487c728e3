import numpy as np
import pytest
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from sit_jax.parallel.mesh import make_mesh
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

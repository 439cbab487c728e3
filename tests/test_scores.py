"""Scores, amounts of labels and splits, against hand-made cases and scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import confusion_matrix, top_k_accuracy_score

from sit_jax.common.errors import InputError
from sit_jax.data.split import hold_out
from sit_jax.probes.labels import Amount, parse_amounts, pick
from sit_jax.probes.scores import score


def test_scores_equal_scikit_learn():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(500, 9)), rng.integers(0, 8, 500)
    result = score(scores, labels)
    predicted = scores.argmax(axis=1)
    assert result["top1"] == np.mean(predicted == labels)
    assert result["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=range(9)))
    np.testing.assert_array_equal(result["confusion"], confusion_matrix(labels, predicted, labels=range(9)))
    assert result["per_class"][8] is None  # a class without test images
    expected = [np.mean(predicted[labels == c] == c) for c in range(8)]
    np.testing.assert_allclose(result["per_class"][:8], expected)


def test_equal_scores_do_not_count_as_right():
    result = score(np.zeros((10, 10)), np.arange(10))
    assert (result["top1"], result["top5"]) == (0.1, 0.5)
    assert score(np.eye(3), np.arange(3))["top5"] is None


LABELS = np.repeat([0, 1, 2], [100, 40, 5])


def test_shares_are_of_each_class_nested_and_seeded():
    small, large = (pick(LABELS, Amount(share=share), 0, 0) for share in (0.05, 0.5))
    np.testing.assert_array_equal(np.bincount(LABELS[small]), [5, 2, 1])
    np.testing.assert_array_equal(np.bincount(LABELS[large]), [50, 20, 2])
    assert set(small) < set(large)
    np.testing.assert_array_equal(small, pick(LABELS, Amount(share=0.05), 0, 0))
    assert set(small) != set(pick(LABELS, Amount(share=0.05), 0, 1)) != set(pick(LABELS, Amount(share=0.05), 1, 0))
    np.testing.assert_array_equal(pick(LABELS, Amount(share=1.0), 0, 0), np.arange(145))


def test_labels_per_class():
    np.testing.assert_array_equal(np.bincount(LABELS[pick(LABELS, Amount(per_class=5), 0, 0)]), [5, 5, 5])
    with pytest.raises(InputError, match="class 2 has 5 training images"):
        pick(LABELS, Amount(per_class=6), 0, 0)


def test_held_out_and_kept_are_all():
    kept, held = hold_out(LABELS, 0.1, 0)
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, held])), np.arange(145))
    np.testing.assert_array_equal(np.bincount(LABELS[held]), [10, 4, 1])
    kept, held = hold_out(np.array([0, 1, 1]), 0.1, 0)  # the only image of a class is not held out
    assert (len(held), len(kept)) == (1, 2) and 0 in kept
    assert len(hold_out(LABELS, 0.0, 0)[1]) == 0


def test_amounts_of_the_command_line():
    assert parse_amounts([], []) == [Amount(share=1.0)]
    assert parse_amounts(["1", "0.1"], []) == [Amount(share=0.1), Amount(share=1.0)]
    assert parse_amounts([], ["10", "5"]) == [Amount(per_class=5), Amount(per_class=10)]
    for shares, per_class in [(["0"], []), (["1.5"], []), (["x"], []), ([], ["0"]), ([], ["1.5"]), (["1"], ["1"])]:
        with pytest.raises(InputError):
            parse_amounts(shares, per_class)

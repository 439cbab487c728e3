"""Scores, amounts of labels and splits, against hand-made cases and scikit-learn."""

import json

import numpy as np
import pytest
import sklearn.metrics
from sklearn.metrics import top_k_accuracy_score

from sit_jax.common.errors import InputError
from sit_jax.data.split import hold_out
from sit_jax.probes.confusion import LARGEST, confusion_json, confusion_matrix, largest_confusions
from sit_jax.probes.intervals import unpack
from sit_jax.probes.knn import vote
from sit_jax.probes.labels import Amount, parse_amounts, pick
from sit_jax.probes.scores import NO_SCORE, score


def test_scores_equal_scikit_learn():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(500, 9)), rng.integers(0, 8, 500)
    result = score(scores, labels)
    predicted = scores.argmax(axis=1)
    assert result["top1"] == np.mean(predicted == labels)
    assert result["top5"] == pytest.approx(top_k_accuracy_score(labels, scores, k=5, labels=range(9)))
    np.testing.assert_array_equal(result["confusion"], confusion_matrix_of_scikit_learn(labels, predicted, 9))
    assert result["per_class"][8] is None  # a class without test images
    expected = [np.mean(predicted[labels == c] == c) for c in range(8)]
    np.testing.assert_allclose(result["per_class"][:8], expected)


def expected(scores, label, place):
    """The probability that a class is among the first `place`, if the order of equal scores is random."""
    own = scores[label]
    before, equal = np.sum(scores > own), np.sum(scores == own)
    return 0.0 if own == NO_SCORE else np.clip((place - before) / equal, 0, 1)


@pytest.mark.parametrize("values", [(0.0,), (0.0, 1.0), (NO_SCORE, 0.0, 1.0), (NO_SCORE, 1.0)])
def test_equal_scores_are_ordered_at_random(values):
    rng = np.random.default_rng(1)
    scores, labels = rng.choice(values, (4000, 10)), rng.integers(0, 10, 4000)
    scores[:, 0] = 0.0  # so that one class ranks
    result = score(scores, labels)
    for name, place in (("top1", 1), ("top5", 5)):
        shares = np.array([expected(row, label, place) for row, label in zip(scores, labels, strict=True)])
        error = np.sqrt(np.sum(shares * (1 - shares))) / len(labels)
        assert abs(result[name] - shares.mean()) <= 4 * error, name
    assert result["top1"] == np.trace(result["confusion"]) / 4000 == unpack(result["hits"], 4000).mean()


def test_no_class_is_favoured():
    """All scores are equal: each class is predicted as often, up to chance, and top-5 is right for half."""
    predicted = np.sum(score(np.zeros((5000, 10)), np.arange(5000) % 10)["confusion"], axis=0)
    assert abs(predicted - 500).max() < 4 * np.sqrt(5000 * 0.1 * 0.9)
    assert score(np.eye(3), np.arange(3))["top5"] is None


def test_classes_without_a_vote_do_not_rank():
    """Nine classes; the three neighbours are of two classes, so only these two can be in the top five."""
    votes = vote(np.array([[0.9, 0.8, 0.7]] * 9), np.array([[3, 4, 4]] * 9), 9, 0.07)
    result = score(votes, np.arange(9))
    assert (result["top1"], result["top5"]) == (1 / 9, 2 / 9)
    assert np.isneginf(votes).sum() == 9 * 7


def test_a_confusion_of_many_classes_is_a_list():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 1500, 3000)
    predicted = np.where(rng.random(3000) < 0.5, labels, rng.integers(0, 40, 3000))
    predicted[labels == 7] = 9
    whole = confusion_json(labels, predicted, 1500)
    np.testing.assert_array_equal(confusion_matrix(whole), confusion_matrix_of_scikit_learn(labels, predicted, 1500))
    short = largest_confusions(whole)
    counts = [count for _, _, count in short["entries"]]
    assert len(counts) == LARGEST and counts == sorted(counts, reverse=True)
    assert short["entries"][0] == [7, 9, np.sum(labels == 7)]
    assert all(label != wrong for label, wrong, _ in short["entries"])
    assert sum(counts) + short["left_out"] == 3000
    assert len(json.dumps(score(np.eye(1500)[predicted], labels), indent=2)) < 300_000
    few = confusion_json(labels % 3, predicted % 3, 3)
    assert largest_confusions(few) == few == confusion_matrix(few).tolist()


def confusion_matrix_of_scikit_learn(labels, predicted, count):
    return sklearn.metrics.confusion_matrix(labels, predicted, labels=range(count))


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

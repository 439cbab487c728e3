"""Metrics of a classifier from its scores on test images: top-1, top-5, per class, confusion."""

import numpy as np

from sit_jax.probes.confusion import confusion_json
from sit_jax.probes.intervals import pack

TOP = 5
NO_SCORE = -np.inf  # of a class that does not rank, such as a class without a vote in k-NN


def score(scores: np.ndarray, labels: np.ndarray) -> dict:
    """Returns `top1`, `top5`, `per_class` (top-1 of each class, None without images), `confusion`, `hits`, `num_test`.

    `scores` are [n, C] float, higher is likelier; at least one class of each image ranks. `labels` are [n] int. The
    order of equal scores is random: each image has an order of its own, from a fixed seed. A class with NO_SCORE is in
    no top five. With at most five classes, `top5` is None. `hits` packs the correctly classified images.
    `confusion` is described in `probes.confusion`.
    """
    num_classes = scores.shape[1]
    rank, first = ranks(scores, labels)
    right = np.bincount(labels[rank == 0], minlength=num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    return {
        "top1": float(np.mean(rank == 0)),
        "top5": float(np.mean(rank < TOP)) if num_classes > TOP else None,
        "per_class": [float(right[c] / counts[c]) if counts[c] else None for c in range(num_classes)],
        "confusion": confusion_json(labels, first, num_classes),
        "hits": pack(rank == 0),
        "num_test": len(labels),
    }


def ranks(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the rank [n] of the own class, 0 is the first and C is for NO_SCORE, and the class [n] of rank 0.

    If t classes share the score of the own class and a classes are before them, each rank from a to a + t - 1 has the
    probability 1 / t.
    """
    num_classes = scores.shape[1]
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    rank, first = np.sum(scores > own, axis=1), np.argmax(scores, axis=1)
    equal_to_own = (np.sum(scores == own, axis=1) > 1) & (own[:, 0] != NO_SCORE)
    equal_first = np.sum(scores == scores.max(axis=1, keepdims=True), axis=1) > 1
    for row in np.flatnonzero(equal_to_own | equal_first):
        order = np.random.default_rng([0, int(row)]).permutation(num_classes)  # the place of each class among equals
        ordered = np.lexsort((order, -scores[row]))
        rank[row], first[row] = np.flatnonzero(ordered == labels[row])[0], ordered[0]
    rank[own[:, 0] == NO_SCORE] = num_classes
    return rank, first

"""Metrics of a classifier from its scores on test images: top-1, top-5, per class, confusion."""

import numpy as np

from sit_jax.probes.intervals import pack

TOP = 5


def score(scores: np.ndarray, labels: np.ndarray) -> dict:
    """Returns `top1`, `top5`, `per_class` (top-1 of each class, None without images), `confusion` and `hits`.

    `scores` are [n, C] float, higher is likelier; `labels` are [n] int. Among equal scores, the lower class wins.
    `confusion[i][j]` counts images of class i classified as class j. With at most five classes, `top5` is None. `hits`
    packs the correctly classified images.
    """
    num_classes = scores.shape[1]
    own = np.take_along_axis(scores, labels[:, None], axis=1)
    earlier = np.arange(num_classes) < labels[:, None]
    rank = np.sum((scores > own) | ((scores == own) & earlier), axis=1)
    confusion = np.zeros((num_classes, num_classes), np.int64)
    np.add.at(confusion, (labels, np.argmax(scores, axis=1)), 1)
    counts = confusion.sum(axis=1)
    return {
        "top1": float(np.mean(rank == 0)),
        "top5": float(np.mean(rank < TOP)) if num_classes > TOP else None,
        "per_class": [float(confusion[c, c] / counts[c]) if counts[c] else None for c in range(num_classes)],
        "confusion": confusion.tolist(),
        "hits": pack(rank == 0),
    }

"""What a classifier is worth, from its scores on test images: top-1, top-5, per class, confusion."""

import numpy as np

from sit_jax.probes.intervals import pack

TOP = 5


def score(scores: np.ndarray, labels: np.ndarray) -> dict:
    """Returns `top1`, `top5`, `per_class` (top-1 of each class, None without images), `confusion` and `hits`.

    `scores` [N, C] float, the more the likelier; `labels` [N] int. Among equal scores the lower class goes first.
    `confusion[i][j]` counts images of class i taken for class j. With five classes or fewer `top5` is None. `hits` says
    which images were told right, packed.
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

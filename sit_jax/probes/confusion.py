"""Confusion matrices as JSON values whose size does not grow with the square of the classes.

Up to FULL classes, the value is the matrix [C][C]. With more classes, it is an object: `classes` is C, `entries` lists
[true class, predicted class, images] with the largest numbers first, and `left_out` counts images in cells that are
not listed.
"""

import numpy as np

FULL = 100  # classes
LARGEST = 200  # entries of a report with more classes

Confusion = list | dict


def confusion_json(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> Confusion:
    """Returns how many images of each class are classified as each class; nothing is left out.

    `labels` and `predicted` are [n] int in 0..C-1, C = `num_classes`. There are at most n entries.
    """
    if num_classes <= FULL:
        counts = np.zeros((num_classes, num_classes), np.int64)
        np.add.at(counts, (labels, predicted), 1)
        return counts.tolist()
    cells, counts = np.unique(np.stack([labels, predicted], axis=1), axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    entries = np.concatenate([cells, counts[:, None]], axis=1)[order]
    return {"classes": num_classes, "entries": entries.tolist(), "left_out": 0}


def largest_confusions(confusion: Confusion) -> Confusion:
    """Returns the value for a report: if it is an object, only its LARGEST entries of wrongly classified images."""
    if isinstance(confusion, list):
        return confusion
    kept = [entry for entry in confusion["entries"] if entry[0] != entry[1]][:LARGEST]
    total = sum(count for _, _, count in confusion["entries"]) + confusion["left_out"]
    return confusion | {"entries": kept, "left_out": total - sum(count for _, _, count in kept)}


def confusion_matrix(confusion: Confusion) -> np.ndarray:
    """Returns the matrix [C, C] int64 of the listed entries."""
    if isinstance(confusion, list):
        return np.array(confusion, np.int64)
    counts = np.zeros((confusion["classes"], confusion["classes"]), np.int64)
    for label, predicted, count in confusion["entries"]:
        counts[label, predicted] = count
    return counts

"""Splits of labelled images, functions of the seed."""

import numpy as np


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into (kept, held out), both sorted, int64: the same share of each class, a function of the seed.

    A class of one image is kept; of two or more, at least one is held out.
    """
    held = []
    for _, members in by_class(labels, [seed, 3]):
        count = max(1, round(share * len(members))) if share and len(members) > 1 else 0
        held.append(members[:count])
    held_rows = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held_rows), held_rows


def by_class(labels: np.ndarray, seed: list[int]) -> list[tuple[int, np.ndarray]]:
    """Returns for each class (label, its rows in random order)."""
    classes = np.unique(labels)
    return [(int(c), np.random.default_rng([*seed, int(c)]).permutation(np.flatnonzero(labels == c))) for c in classes]

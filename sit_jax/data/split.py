"""Splits of labelled images as functions of the seed."""

import numpy as np

STAND_IN_SHARE = 0.1  # of the training images


def stand_in(count: int, labels: np.ndarray | None, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Splits the rows of `count` training images into (kept, test rows) for data without a test split; see `hold_out`.

    The evaluation during training uses the default seed, as `sit_jax.evaluate` does: both score the same images, and
    runs of several seeds can be compared image by image. Without `labels`, all images count as one class.
    """
    return hold_out(np.zeros(count, np.int32) if labels is None else labels, STAND_IN_SHARE, seed)


def hold_out(labels: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows into (kept, held out), both sorted int64: the same share of each class, a function of the seed.

    A class of one image is kept. If `share` is above 0, at least one image of every larger class is held out.
    """
    held = []
    for _, members in by_class(labels, [seed, 3]):
        count = max(1, round(share * len(members))) if share and len(members) > 1 else 0
        held.append(members[:count])
    held_rows = np.sort(np.concatenate(held))
    return np.setdiff1d(np.arange(len(labels)), held_rows), held_rows


def by_class(labels: np.ndarray, seed: list[int]) -> list[tuple[int, np.ndarray]]:
    """Returns (label, its rows in random order) for each class."""
    classes = np.unique(labels)
    return [(int(c), np.random.default_rng([*seed, int(c)]).permutation(np.flatnonzero(labels == c))) for c in classes]

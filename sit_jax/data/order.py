"""The order of the images in the stream: a pure function of (seed, position)."""

import numpy as np


def raw_permutation(total: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the permutation of (seed, epoch), int64 [total]."""
    return np.random.default_rng([seed, epoch]).permutation(total)


def epoch_order(total: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the order of the images in one epoch: a permutation, int64 [total].

    The stream joins the epochs and is cut into batches. A batch that spans two epochs would hold an image twice if the
    image is in the tail of the old epoch and in the head of the new epoch. Such images of the head are swapped with
    images from the middle. Tails are never changed, so an order depends only on the raw permutations of its own and the
    previous epoch. If total >= 2 * batch_size, no batch holds an image twice; below, few batches do.
    """
    order = raw_permutation(total, seed, epoch)
    head = -epoch * total % batch_size  # completes the batch that the previous epoch started
    if head == 0:
        return order
    tail = raw_permutation(total, seed, epoch - 1)[total - (batch_size - head) :]
    middle_end = total - (epoch + 1) * total % batch_size  # the rest starts the next batch that spans two epochs
    twice = np.flatnonzero(np.isin(order[:head], tail))
    spare = head + np.flatnonzero(~np.isin(order[head:middle_end], tail))
    count = min(len(twice), len(spare))
    twice, spare = twice[:count], spare[:count]
    order[twice], order[spare] = order[spare], order[twice]
    return order

"""The order in which images are visited: a pure function of (seed, position in the stream)."""

import numpy as np


def raw_permutation(total: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the permutation that belongs to (seed, epoch), int64 [total]."""
    return np.random.default_rng([seed, epoch]).permutation(total)


def epoch_order(total: int, batch_size: int, seed: int, epoch: int) -> np.ndarray:
    """Returns the images of one epoch in the order of their visit, a permutation, int64 [total].

    The stream is the epochs one after the other, cut into batches. A batch across the end of an epoch would hold an
    image twice if it is in the tail of the old epoch and in the head of the new one. So what the head shares with that
    tail is swapped with images from the middle. Tails are never touched, hence an order depends on the raw permutations
    of its own and the previous epoch alone. No batch holds an image twice if total >= 2 * batch_size, and few do below.
    """
    order = raw_permutation(total, seed, epoch)
    head = -epoch * total % batch_size  # completes the batch that the previous epoch began
    if head == 0:
        return order
    tail = raw_permutation(total, seed, epoch - 1)[total - (batch_size - head) :]
    middle_end = total - (epoch + 1) * total % batch_size  # what follows begins the batch across the next end
    twice = np.flatnonzero(np.isin(order[:head], tail))
    spare = head + np.flatnonzero(~np.isin(order[head:middle_end], tail))
    count = min(len(twice), len(spare))
    twice, spare = twice[:count], spare[:count]
    order[twice], order[spare] = order[spare], order[twice]
    return order

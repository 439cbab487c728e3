"""Batches as a pure function of (seed, step)."""

import functools

import grain
import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data.load import Images
from sit_jax.data.order import epoch_order


def check_size(batch_size: int, total: int) -> None:
    """Raises InputError if `batch_size` is below 1 or above the number of images, `total`."""
    if batch_size < 1:
        raise InputError(f"batch_size={batch_size} must be 1 or more")
    if batch_size > total:
        raise InputError(f"batch_size={batch_size} is more than the {total} images; set it to {total} or less")


class Batches:
    """The batches of an endless training; each batch is a pure function of (seed, step).

    Step k takes the positions k * B to (k + 1) * B - 1 of a stream of epochs, with B = `batch_size` over all hosts.
    Each epoch visits each image exactly once, in its own order; a batch may span two epochs. This process reads only
    the positions `local` of a batch (ascending; None: all). Raises InputError if `batch_size` is below 1 or above the
    number of images.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int,
        local: np.ndarray | None = None,
        labels: np.ndarray | None = None,
    ):
        check_size(batch_size, len(images))
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.local = np.arange(batch_size) if local is None else local
        # A batch spans at most two epochs, and batches are read ahead: three orders are in use at a time.
        order = functools.partial(epoch_order, len(images), batch_size, seed)
        self._order = functools.lru_cache(maxsize=3)(order)

    def rows_at(self, step: int) -> np.ndarray:
        """Returns the image indices of a step, over all processes, int64 [B]."""
        total, start = len(self.images), step * self.batch_size
        (epoch, first), last = divmod(start, total), (start + self.batch_size - 1) // total
        orders = [self._order(e) for e in range(epoch, last + 1)]
        # Most batches lie within one epoch: a slice avoids copying the epoch.
        order = orders[0] if last == epoch else np.concatenate(orders)
        return order[first : first + self.batch_size]

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's part of a step: {"image": [n, s, s, c]}, with n = len(local).

        With labels, also {"label": int32 [n]}.
        """
        rows = self.rows_at(step)[self.local]
        batch = {"image": self.images.gather(rows)}
        return batch if self.labels is None else batch | {"label": self.labels[rows]}

    def iterate(self, start_step: int = 0) -> grain.DatasetIterator[dict[str, np.ndarray]]:
        """Yields `batch_at(start_step)`, `batch_at(start_step + 1)`, ... without end; reads ahead in the background.

        Holds at most four batches. If reading fails, for example with InputError for an unreadable image, the error is
        raised when its batch is requested. The iterator may be dropped at any time; close() stops reading at once.
        """
        # Element k of the source is a whole batch: with single images, grain's overhead is 0.1 ms each, 70 times more.
        source = grain.MapDataset.source(_Steps(self))
        iterator = iter(source.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=3)))
        iterator.set_state({"next_index": start_step})
        return iterator


class _Steps:
    """The batches as an endless sequence for grain."""

    def __init__(self, batches: Batches):
        self._batches = batches

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self._batches.batch_at(step)

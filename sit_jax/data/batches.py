"""Batches as a function of the step."""

import functools

import grain
import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.data.load import Images
from sit_jax.data.order import epoch_order


class Batches:
    """The batches of an endless training, each a pure function of (seed, step).

    Step s takes the images at the positions s*B to (s+1)*B - 1 of a stream in which every epoch visits each image
    exactly once, in an order of its own; a batch may span the end of an epoch. Of the `batch_size` images of a step,
    over all hosts, this process reads those at the positions `local` (ascending, all by default) and no others. Raises
    InputError if the batch is larger than the data set.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int,
        local: np.ndarray | None = None,
        labels: np.ndarray | None = None,
    ):
        if batch_size < 1:
            raise InputError(f"batch_size={batch_size} must be 1 or more")
        if batch_size > len(images):
            raise InputError(
                f"batch_size={batch_size} is more than the {len(images)} images; set it to {len(images)} or less"
            )
        self.images, self.labels, self.batch_size = images, labels, batch_size
        self.local = np.arange(batch_size) if local is None else local
        # A batch spans two epochs at most, and batches are read ahead: three orders are in use at a time.
        order = functools.partial(epoch_order, len(images), batch_size, seed)
        self._order = functools.lru_cache(maxsize=3)(order)

    def rows_at(self, step: int) -> np.ndarray:
        """Returns the indices of the images of a step, over all processes, int64 [batch_size]."""
        total, start = len(self.images), step * self.batch_size
        (epoch, first), last = divmod(start, total), (start + self.batch_size - 1) // total
        orders = [self._order(e) for e in range(epoch, last + 1)]
        # Within an epoch a slice will do: most steps copy a batch, not an epoch.
        order = orders[0] if last == epoch else np.concatenate(orders)
        return order[first : first + self.batch_size]

    def batch_at(self, step: int) -> dict[str, np.ndarray]:
        """Returns this process's part of a step: {"image": uint8 [len(local), S, S, 3]}.

        With labels, also {"label": int32 [len(local)]}.
        """
        rows = self.rows_at(step)[self.local]
        batch = {"image": self.images.gather(rows)}
        return batch if self.labels is None else batch | {"label": self.labels[rows]}

    def iterate(self, start_step: int = 0) -> grain.DatasetIterator[dict[str, np.ndarray]]:
        """Yields `batch_at(start_step)`, `batch_at(start_step + 1)`, ... without end, read ahead in the background.

        At most four batches are held. An error while reading, such as InputError for an unreadable image, is raised
        where its batch is asked for. The iterator may be dropped at any time; its close() stops the reading at once.
        """
        # Element k of the source is a whole batch: one image an element costs grain 0.1 ms each, 70 times more.
        source = grain.MapDataset.source(_Steps(self))
        iterator = iter(source.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=3)))
        iterator.set_state({"next_index": start_step})
        return iterator


class _Steps:
    """The batches as the endless sequence that grain reads from."""

    def __init__(self, batches: Batches):
        self._batches = batches

    def __len__(self) -> int:
        return 2**62

    def __getitem__(self, step: int) -> dict[str, np.ndarray]:
        return self._batches.batch_at(step)

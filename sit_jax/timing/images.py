"""Images to time a step with: those of a configuration, or random images in memory."""

from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np


class RandomImages:
    """`count` images of random pixels in memory, [side, side, 3] uint8 each."""

    def __init__(self, count: int, side: int):
        self.array = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)

    def __len__(self) -> int:
        return len(self.array)

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the images at `rows`, uint8 [len(rows), side, side, 3]."""
        return self.array[np.asarray(rows)]


def open_images(config: ml_collections.ConfigDict, random: int | None) -> Any:
    """Returns the images of the configuration, or `random` random images; both have a length and `gather(rows)`."""
    if random is not None:
        return RandomImages(max(random, config.batch_size), config.data.image_size or config.model.image_size)
    # Imported here, because the other parts run without grain.
    from sit_jax.data import image_options, load_images, open_source

    return load_images(open_source(config.data.source).pretrain, **image_options(config))

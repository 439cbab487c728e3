"""Images to time a step with: those of a configuration, or random images in memory."""

from collections.abc import Sequence
from typing import Any

import ml_collections
import numpy as np

from sit_jax.common.layout import RGB, Layout, layout_of


class RandomImages:
    """`count` images of random pixels in memory, [side, side, c] each, stored as `layout` says."""

    def __init__(self, count: int, side: int, layout: Layout = RGB):
        shape, values = (count, *layout.shape(side)), 2**layout.bits
        self.array = np.random.default_rng(0).integers(0, values, shape, layout.dtype)

    def __len__(self) -> int:
        return len(self.array)

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the images at `rows`, [len(rows), side, side, c]."""
        return self.array[np.asarray(rows)]


def open_images(config: ml_collections.ConfigDict, random: int | None) -> Any:
    """Returns the images of the configuration, or `random` random images; both have a length and `gather(rows)`."""
    if random is not None:
        side = config.data.image_size or config.model.image_size
        return RandomImages(max(random, config.batch_size), side, layout_of(config.data))
    # Imported here, because the other parts run without grain.
    from sit_jax.data import image_options, load_images, open_source

    return load_images(open_source(config.data.source).pretrain, **image_options(config))

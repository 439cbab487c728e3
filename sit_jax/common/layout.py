"""How decoded images are stored: the number of channels and the type of their values."""

from typing import NamedTuple

import ml_collections
import numpy as np


class Layout(NamedTuple):
    """The stored form of all images of a data set, [s, s, c] of uint8 or uint16."""

    channels: int = 3  # c
    bits: int = 8  # of a stored value: 8 or 16
    range: tuple[float, float] | None = None  # read values that become 0 and the largest stored value; None: the type's
    alpha: bool = False  # whether the transparency of pictures is a channel

    @property
    def dtype(self) -> np.dtype:
        """The type of the stored values."""
        return np.dtype(np.uint16 if self.bits == 16 else np.uint8)

    @property
    def tag(self) -> str:
        """A text for the keys of caches and reports, different for each layout; empty for pictures of 3 x 8 bits."""
        return "" if self == RGB else "-".join(str(value).replace(" ", "") for value in self)

    def shape(self, image_size: int) -> tuple[int, int, int]:
        """Returns the shape of an image with side `image_size`."""
        return image_size, image_size, self.channels

    def size(self, image_size: int) -> int:
        """Returns the bytes of an image with side `image_size`."""
        return image_size**2 * self.channels * self.dtype.itemsize


RGB = Layout()


def layout_of(data: ml_collections.ConfigDict) -> Layout:
    """Returns the layout that the section `data` sets; open bits are 8."""
    limits = None if data.range is None else (float(data.range[0]), float(data.range[1]))
    return Layout(data.channels, data.bits or 8, limits, data.alpha)

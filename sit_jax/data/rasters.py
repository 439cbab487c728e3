"""Files that hold plain arrays instead of pictures: .npy, and TIFF of many bands or of more than 8 bits."""

import io
import logging
import re
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from sit_jax.common.layout import Layout
from sit_jax.data import formats
from sit_jax.data.decode import UnreadableError
from sit_jax.data.records import Raw

NPY = b"\x93NUMPY"
TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")  # the last two are BigTIFF
BITS_PER_SAMPLE, DESCRIPTION, SAMPLES_PER_PIXEL = 258, 270, 277  # tags of TIFF
CHANNEL_AXES = "SC"  # of tifffile: samples of a pixel, and channels of a microscope

# Pillow logs an error for a TIFF that tifffile then reads.
logging.getLogger("PIL.TiffImagePlugin").setLevel(logging.CRITICAL)


def is_npy(raw: Raw) -> bool:
    """Tells whether an encoded file is an array of NumPy: by the suffix of a path, or by the first bytes."""
    return raw.suffix.lower() == ".npy" if isinstance(raw, Path) else isinstance(raw, bytes) and raw.startswith(NPY)


def is_tiff(raw: Raw) -> bool:
    """Tells whether an encoded file is a TIFF: by the suffix of a path, or by the first bytes."""
    if isinstance(raw, Path):
        return raw.suffix.lower() in (".tif", ".tiff")
    return isinstance(raw, bytes) and raw.startswith(TIFF)


def read_npy(raw: Path | bytes) -> np.ndarray:
    """Reads an array [H, W] or [H, W, c] of numbers; raises ValueError for any other array."""
    array = np.load(raw if isinstance(raw, Path) else io.BytesIO(raw), allow_pickle=False)
    if array.ndim not in (2, 3) or array.dtype.kind not in "uif" or 0 in array.shape:
        raise ValueError(f"an image is numbers [H, W] or [H, W, channels], not {array.dtype} {list(array.shape)}")
    return array


def is_picture(raw: Path | bytes, layout: Layout) -> bool:
    """Tells whether Pillow reads a TIFF without loss: grey of any type, or colours of 8 bits if colours are wanted.

    Pages that are the channels of a microscope are no picture; of other pages, Pillow reads the first.
    """
    try:
        with Image.open(raw if isinstance(raw, Path) else io.BytesIO(raw)) as image:
            tags = getattr(image, "tag_v2", {})
    except UnidentifiedImageError:
        return not _first_bytes(raw).startswith(TIFF)  # something else under the name of a TIFF
    if tags.get(SAMPLES_PER_PIXEL, 1) == 1:
        return not re.search(r"^channels=|<OME\b.*\bSizeC=\"(?!1\")", str(tags.get(DESCRIPTION, "")), re.M | re.S)
    return max(tags.get(BITS_PER_SAMPLE, (8,))) <= 8 and (layout.channels in (1, 3) or layout.alpha)


def _first_bytes(raw: Path | bytes) -> bytes:
    if isinstance(raw, bytes):
        return raw[:4]
    with raw.open("rb") as file:
        return file.read(4)


def read_tiff(raw: Path | bytes, name: str, with_pages: list[str] | None = None) -> np.ndarray:
    """Reads the bands of a TIFF, [H, W] or [H, W, c]; of pages, depths and times, the first.

    If there are several of these, adds `name` to `with_pages`. Raises UnreadableError if the package tifffile is
    missing.
    """
    try:
        import tifffile
    except ImportError as error:
        reason = f"a TIFF of several bands, or of colours of 16 bits, needs a package: {formats.BANDS.remedy}"
        raise UnreadableError(name, reason) from error
    with tifffile.TiffFile(raw if isinstance(raw, Path) else io.BytesIO(raw)) as file:
        series = file.series[0]
        array, axes, count = series.asarray(), series.axes, len(file.series)
    others = [size for size, axis in zip(array.shape, axes, strict=True) if axis not in "YX" + CHANNEL_AXES]
    if with_pages is not None and max([count, *others]) > 1:
        with_pages.append(name)
    picked = tuple(slice(None) if axis in "YX" + CHANNEL_AXES else 0 for axis in axes)
    array, axes = array[picked], "".join(axis for axis in axes if axis in "YX" + CHANNEL_AXES)
    order = [axes.index(axis) for axis in "YX"] + [i for i, axis in enumerate(axes) if axis in CHANNEL_AXES]
    array = array.transpose(order)
    return array.reshape(*array.shape[:2], -1)

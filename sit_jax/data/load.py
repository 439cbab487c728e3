"""Decoded images: all in memory if they fit, otherwise decoded on demand."""

import dataclasses
import functools
import logging
import os
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import ml_collections
import numpy as np

from sit_jax.common.console import say, with_progress
from sit_jax.common.errors import InputError
from sit_jax.common.layout import RGB, Layout, layout_of
from sit_jax.common.text import shown
from sit_jax.data import cache
from sit_jax.data.channels import decode
from sit_jax.data.decode import SKIP, UnreadableError
from sit_jax.data.records import Records

logger = logging.getLogger(__name__)
NAMED = 20  # unreadable images in a message


@dataclasses.dataclass(frozen=True)
class MemoryImages:
    """Images in one array, [n, s, s, c], in memory or mapped from a file; `records` has one record per image."""

    array: np.ndarray
    records: Records
    in_memory = True

    @property
    def labels(self) -> np.ndarray | None:
        """The classes, int32 [n], or None."""
        return self.records.labels

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, index: int) -> np.ndarray:
        return self.array[index]

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the images at `rows` [m], [m, s, s, c]."""
        return self.array[np.asarray(rows, np.int64)]


class StreamedImages:
    """Images that several threads decode on demand.

    With `skip_unreadable`, the next readable image in the order of the records replaces an unreadable image, which
    keeps its label. The first replacement logs a warning; `skipped` holds the unreadable indices found so far. Without
    `skip_unreadable`, access to an unreadable image raises InputError.
    """

    in_memory = False

    def __init__(self, records: Records, image_size: int, skip_unreadable: bool = False, layout: Layout = RGB):
        self.records, self.image_size, self.skip_unreadable, self.layout = records, image_size, skip_unreadable, layout
        self.skipped: set[int] = set()
        self._told_of_pages = False
        self._lock = threading.Lock()
        # More threads than cores, because threads also wait for the disk.
        self._threads = ThreadPoolExecutor(min(32, 4 + (os.cpu_count() or 1)), thread_name_prefix="sit-decode")

    @property
    def labels(self) -> np.ndarray | None:
        """The classes, int32 [n], or None."""
        return self.records.labels

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> np.ndarray:
        total = len(self)
        if not -total <= index < total:
            raise IndexError(f"image {index} of {total}")
        if not self.skip_unreadable:
            return self._decode(index % total)
        for i in range(index, index + total):
            try:
                return self._decode(i % total)
            except UnreadableError as error:
                self._count(i % total, error)
        raise _all_unreadable(self.records)

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the images at `rows` [m], [m, s, s, c]."""
        images = self._threads.map(self.__getitem__, map(int, rows))
        empty = np.empty((0, *self.layout.shape(self.image_size)), self.layout.dtype)
        return np.stack(list(images)) if len(rows) else empty

    def _decode(self, index: int) -> np.ndarray:
        with_pages: list[str] = []
        image = _decode_record(self.records, self.image_size, index, self.layout, with_pages)
        if with_pages and not self._told_of_pages:
            self._told_of_pages = True
            say(f"{shown(with_pages[0])} has several pages or frames; of such files, only the first page is used")
        return image

    def _count(self, index: int, error: UnreadableError) -> None:
        with self._lock:
            if not self.skipped:
                logger.warning("skipped: %s; further unreadable images are replaced without a warning", error)
            self.skipped.add(index)


@dataclasses.dataclass(frozen=True)
class Subset:
    """The images at `rows` int64 [m] of `images`, in the order of `rows`."""

    images: "Images"
    rows: np.ndarray

    @property
    def labels(self) -> np.ndarray | None:
        """The classes, int32 [m], or None."""
        return None if self.images.labels is None else self.images.labels[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def gather(self, rows: Sequence[int] | np.ndarray) -> np.ndarray:
        """Returns the images at `rows` [n] of the subset, [n, s, s, c]."""
        return self.images.gather(self.rows[np.asarray(rows, np.int64)])

    def take(self, rows: np.ndarray) -> "Subset":
        """Returns the images at `rows` of the subset."""
        return Subset(self.images, self.rows[rows])


Images = MemoryImages | StreamedImages | Subset


def image_options(config: ml_collections.ConfigDict) -> dict:
    """Returns the keyword arguments of `load_images` that a configuration sets."""
    data = config.data
    return {
        "image_size": data.image_size or config.model.image_size,
        "memory_limit_gb": data.memory_limit,
        "cache_dir": data.cache_dir,
        "skip_unreadable": data.skip_unreadable,
        "layout": layout_of(data),
    }


def load_images(
    records: Records,
    image_size: int,
    memory_limit_gb: float = 8.0,
    cache_dir: str | os.PathLike | None = None,
    skip_unreadable: bool = False,
    layout: Layout = RGB,
) -> Images:
    """Returns the images of `records` as squares with side `image_size` in pixels, stored as `layout` says.

    If the decoded images take at most `memory_limit_gb` (10^9 bytes), all cores decode them now and they stay in
    memory; decoded files are cached in `cache_dir` (None: ~/.cache/sit_jax/images). Otherwise images are decoded on
    demand. In memory, `skip_unreadable` leaves out unreadable images with their labels and logs their number. Raises
    InputError if `image_size` is not positive, if no image is readable, or, without `skip_unreadable`, if an image is
    unreadable: when all are decoded (and cached, so that nothing is lost), with the names of the first twenty.
    """
    if image_size < 1:
        raise InputError(f"image_size={image_size} must be at least 1")
    if len(records) * layout.size(image_size) > memory_limit_gb * 1e9:
        return StreamedImages(records, image_size, skip_unreadable, layout)
    unreadable: dict[int, UnreadableError] = {}
    decode_now = functools.partial(_decode_all, records, image_size, layout, unreadable, skip_unreadable)
    if records.stamp is None:  # arrays need no decoding
        array, rows = decode_now()
    else:
        array, rows = cache.cached(
            cache.folder(cache_dir), cache.key(records, image_size, layout), len(records), skip_unreadable, decode_now
        )
    if len(rows) == len(records):
        return MemoryImages(array, records)
    if not skip_unreadable:
        raise _unreadable_error(records, rows, unreadable)
    logger.warning("skipped %d unreadable images of %d", len(records) - len(rows), len(records))
    return MemoryImages(array, records.take(rows))


def _decode_record(records: Records, image_size: int, i: int, layout: Layout, with_pages: list[str]) -> np.ndarray:
    return decode(records.read(i), image_size, records.names[i], layout, with_pages)


def _decode_all(
    records: Records, image_size: int, layout: Layout, unreadable: dict[int, UnreadableError], skip_unreadable: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the readable images, [n, s, s, c], and their indices, int64 [n].

    Adds the errors of the other images, by index, to `unreadable`. Raises InputError if none is readable.
    """
    array = np.empty((len(records), *layout.shape(image_size)), layout.dtype)
    with_pages: list[str] = []

    def decode_rows(rows: range) -> range:
        for i in rows:
            try:
                array[i] = _decode_record(records, image_size, i, layout, with_pages)
            except UnreadableError as error:
                unreadable[i] = error
        return rows

    chunks = [range(i, min(i + 64, len(records))) for i in range(0, len(records), 64)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            for _ in with_progress(threads.map(decode_rows, chunks), len, len(records), "decoding images"):
                pass
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise
    if with_pages:
        say(f"{len(with_pages):,} of {len(records):,} files have several pages or frames; only the first page is used")
    rows = np.setdiff1d(np.arange(len(records)), list(unreadable))
    if not len(rows):
        raise _all_unreadable(records) if skip_unreadable else _unreadable_error(records, rows, unreadable)
    return (array if len(rows) == len(array) else array[rows]), rows


def _all_unreadable(records: Records) -> InputError:
    return InputError(f"{shown(records.names[0])}: unreadable, as are all other images; check the data set")


def _unreadable_error(records: Records, rows: np.ndarray, unreadable: dict[int, UnreadableError]) -> InputError:
    """Returns the error that lists the images without a row in `rows`; `unreadable` has the error of each."""
    missing = np.setdiff1d(np.arange(len(records)), rows).tolist()
    first = records.names[missing[0]]
    error = unreadable.get(missing[0]) or UnreadableError(first, "for another process")
    if len(missing) == 1:
        return error
    names = ", ".join(shown(records.names[i]) for i in missing[1:NAMED])
    more = f" and {len(missing) - NAMED:,} more" if len(missing) > NAMED else ""
    return InputError(
        f"{shown(first)}: unreadable image ({error.reason}), and so are {names}{more}: "
        f"{len(missing):,} of {len(records):,} images; repair or remove them, or set {SKIP}"
    )

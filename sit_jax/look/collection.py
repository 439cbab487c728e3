"""A collection of pictures as a trained encoder sees them: features, small versions, folders, labels."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence

import jax
import numpy as np

from sit_jax.common.console import say, with_progress
from sit_jax.common.errors import InputError
from sit_jax.common.layout import layout_of
from sit_jax.common.text import shown
from sit_jax.data import Records, open_source
from sit_jax.data.given import open_given
from sit_jax.data.load import StreamedImages
from sit_jax.draw.pictures import to_rgb
from sit_jax.eval.restore import Restored
from sit_jax.probes.duplicates import shrink
from sit_jax.probes.features import extract_batches, make_encode

BATCH = 256  # images encoded at once
TOKENS = ("both", "rotation", "contrastive")  # what can be compared: both tokens as one vector, or one of them


@dataclasses.dataclass(frozen=True)
class Pictures:
    """n pictures that are decoded when they are drawn."""

    records: Records
    images: StreamedImages  # the same pictures as squares
    shown: Sequence[int] | None  # the channels that people see (data.shown)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, row: int) -> str:
        """Returns the name of a picture, for people."""
        return shown(str(self.records.names[row]))


@dataclasses.dataclass(frozen=True)
class Collection(Pictures):
    """n pictures and what the encoder says of them."""

    features: np.ndarray  # both tokens, float32 [n, 2 D]
    small: np.ndarray  # uint8 [n, SIDE, SIDE, 3], for the search for copies
    total: int  # pictures that there are; the n pictures are drawn at random if they are fewer
    folders: tuple[str, ...]  # names of the folders that hold pictures, or ()
    folder_of: np.ndarray | None  # int64 [n], or None without folders
    classes: tuple[str, ...]
    label_of: np.ndarray | None  # int64 [n], -1 without a label; None without labels

    def token(self, name: str) -> np.ndarray:
        """Returns the features of a token of TOKENS, float32 [n, F]."""
        width = self.features.shape[1] // 2
        halves = {"both": slice(None), "rotation": slice(width), "contrastive": slice(width, None)}
        return self.features[:, halves[name]]


def open_records(images: str | None, restored: Restored) -> tuple[Records, tuple[str, ...]]:
    """Returns the pictures of the option --images, or, without it, of the run, and the names of their classes.

    Raises InputError if there are none.
    """
    if images:
        given = open_given(images)
        return given.records, given.class_names
    name = restored.config.data.source
    if not name:
        raise InputError("--images is missing: weights of another project have no data set of their own")
    source = open_source(name)
    return source.pretrain, source.class_names or ()


def encode_collection(
    records: Records, classes: Sequence[str], restored: Restored, most: int | None = None, seed: int = 0
) -> Collection:
    """Encodes pictures, `most` at most, drawn at random by the seed; leaves out unreadable pictures with a message.

    Raises InputError if no picture can be read.
    """
    total, config = len(records), restored.config
    if most is not None and most < total:
        records = records.take(np.sort(np.random.default_rng([seed, 5]).permutation(total)[:most]))
    images = StreamedImages(records, config.model.image_size, True, layout_of(config.data))
    small: list[np.ndarray] = []

    def gather(rows: np.ndarray) -> np.ndarray:
        found = images.gather(rows)
        small.append(shrunk(found, config.data.shown))
        return found

    encode = make_encode(config, restored.mesh, "concat")
    batches = extract_batches(encode, restored.params, gather, len(records), BATCH, restored.mesh)
    features = np.concatenate([batch[:, 0] for batch in batches])
    pictures, rows = readable(images, config.data.shown)
    labels = pictures.records.labels
    known = labels is not None and bool((labels >= 0).any())
    numbers = range(int(labels.max()) + 1) if labels is not None and known else ()
    return Collection(
        *(pictures.records, pictures.images, pictures.shown),
        features[rows],
        np.concatenate(small)[rows],
        total,
        *folders_of(pictures.records),
        tuple(map(shown, classes)) or tuple(map(str, numbers)),
        labels.astype(np.int64) if labels is not None and known else None,
    )


def shrink_records(records: Records, image_size: int) -> tuple[Pictures, np.ndarray]:
    """Decodes pictures to squares of `image_size` and returns them with their small versions (see Collection).

    Leaves out unreadable pictures with a message. Raises InputError if no picture can be read.
    """
    images = StreamedImages(records, image_size, True)
    starts = range(0, len(records), BATCH)
    parts = (shrunk(images.gather(range(start, min(start + BATCH, len(records)))), None) for start in starts)
    small = np.concatenate(list(with_progress(parts, len, len(records), "decoding images")))
    pictures, rows = readable(images, None)
    return pictures, small[rows]


def readable(images: StreamedImages, channels: Sequence[int] | None) -> tuple[Pictures, np.ndarray]:
    """Returns the pictures that could be read, after all were read once, and their rows; prints how many could not."""
    records, rows = images.records, np.setdiff1d(np.arange(len(images)), list(images.skipped))
    if images.skipped:
        say(f"left out {len(images.skipped)} of {len(images)} pictures that cannot be read")
        records = records.take(rows)
    return Pictures(records, StreamedImages(records, images.image_size, layout=images.layout), channels), rows


def shrunk(images: np.ndarray, channels: Sequence[int] | None) -> np.ndarray:
    """Returns small versions of images [n, s, s, c], uint8 [n, SIDE, SIDE, 3]."""
    return np.asarray(shrink(for_people(images, channels))).round().astype(np.uint8)


def for_people(images: np.ndarray, channels: Sequence[int] | None) -> np.ndarray:
    """Returns images [n, s, s, c] of uint8 or uint16 as uint8 [n, s, s, 3]; see `to_rgb`."""
    wide = to_rgb(images, channels)
    largest = np.iinfo(images.dtype).max
    return wide if wide.dtype == np.uint8 else (wide * (255 / largest)).round().astype(np.uint8)


def folders_of(records: Records) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Returns the folders of pictures, named from the first folder that differs, and the folder of each, int64 [n].

    Without files, or if all are in one folder, returns ((), None).
    """
    parents = [str(pathlib.PurePath(str(name)).parent) for name in records.names]
    found = sorted(set(parents))
    if len(found) < 2:
        return (), None
    common = os.path.commonpath(found) if all(os.path.isabs(name) for name in found) else ""
    index = {name: i for i, name in enumerate(found)}
    names = tuple(shown(os.path.relpath(name, common) if common else name) for name in found)
    return names, np.array([index[name] for name in parents], np.int64)


def tiles(pictures: Pictures, rows: Sequence[int] | np.ndarray, largest: int) -> np.ndarray:
    """Returns pictures as squares, uint8 [m, side, side, 3], decoded now.

    `side` is the largest divisor of the model's image size up to `largest`: a mean over whole pixels is sharp and
    quick.
    """
    size = pictures.images.image_size
    side = max(side for side in range(1, largest + 1) if size % side == 0)
    if side < min(largest, size) / 2:  # the size is prime, or nearly so
        side = min(largest, size)
    parts = [pictures.images.gather(rows[start : start + BATCH]) for start in range(0, len(rows), BATCH)]
    return np.concatenate([mean_pixels(for_people(part, pictures.shown), side) for part in parts])


def mean_pixels(images: np.ndarray, side: int) -> np.ndarray:
    """Returns images [n, s, s, 3] uint8 with `side` pixels on each side."""
    count, size = images.shape[:2]
    if size % side:
        resized = jax.image.resize(images.astype(np.float32), (count, side, side, 3), "linear", antialias=True)
        return np.asarray(resized).round().astype(np.uint8)
    factor = size // side
    blocks = images.reshape(count, side, factor, side, factor, 3)
    return blocks.mean(axis=(2, 4)).round().astype(np.uint8) if factor > 1 else images

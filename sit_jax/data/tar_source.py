"""Shards of images as tar files in the webdataset layout, read in place."""

import json
import logging
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from typing import BinaryIO

import numpy as np

from sit_jax.common.console import with_progress
from sit_jax.common.errors import InputError
from sit_jax.data import index, layout, paths
from sit_jax.data.assemble import Classes, assemble, split_of, words_of_file
from sit_jax.data.index import Index
from sit_jax.data.ranges import Names, Ranges
from sit_jax.data.records import Source
from sit_jax.data.stored import Files

logger = logging.getLogger(__name__)

PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}  # first bytes
LABEL_BYTES = 2**20  # the longest .cls or .json that is read


def open_tar(pattern: str) -> Source:
    """Opens the images in the tar files of a pattern (`paths.expand`), in the order of the files and of their members.

    Labels: `KEY.cls` beside `KEY.jpg` holds a number or a name, `KEY.json` has it as "label". Where there is none at
    all, the folders of the members tell splits and labels, as in a folder of images. Files with `train` and `test` (or
    `val`, ...) in their names are splits. The first opening reads all headers once and keeps the places of the images
    in the user's cache folder; later a picture is read from its place. Raises InputError if files are missing, packed
    or damaged, or if they hold no image.
    """
    name = f"tar:{pattern}"
    shards = Files(paths.expand(pattern))
    rows = split_of(range(len(shards.paths)), lambda i: words_of_file(shards.paths[i]))
    with ThreadPoolExecutor(min(16, 2 * (os.cpu_count() or 1))) as threads:
        found = threads.map(
            lambda i: index.kept("tar 1", shards, i, lambda: _index(shards, i)), range(len(shards.paths))
        )
        indices = list(with_progress(found, lambda _: 1, len(shards.paths), "indexing shards", "file"))
    ranges = {split: _ranges(shards, indices, files) for split, files in rows.items()}
    if empty := [split for split, images in ranges.items() if not len(images)]:
        raise InputError(f"{name}: holds no images in the files of the split {empty[0]}; correct the pattern")
    if any(len(one.classes.texts) for one in indices):
        classes = {split: Classes.join([indices[i].classes for i in files]) for split, files in rows.items()}
        return assemble(name, {split: (ranges[split].records(), classes[split]) for split in rows})
    if len(rows) == 1:
        (images,) = ranges.values()
        return layout.open_names(name, images.names, lambda rows: images.take(rows).records())
    return assemble(name, {split: (one.records(), layout.folder_classes(one.names)) for split, one in ranges.items()})


def _ranges(shards: Files, indices: list[Index], files: list[int]) -> Ranges:
    counts = [len(indices[i]) for i in files]
    return Ranges(
        shards,
        np.repeat(np.array(files, np.int32), counts),
        np.concatenate([indices[i].starts for i in files]),
        np.concatenate([indices[i].sizes for i in files]),
        Names.join([indices[i].names for i in files]),
    )


def _index(shards: Files, file: int) -> Index:
    path = shards.paths[file]
    try:
        start = shards.read(file, 0, min(8, shards.sizes[file]))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); give a tar file") from error
    if packed := next((kind for magic, kind in PACKED.items() if start.startswith(magic)), None):
        raise InputError(
            f"{path}: is packed with {packed}, where no picture can be found by its place; unpack the file"
        )
    try:
        with shards.open(file) as opened:
            return _read_headers(path, opened)
    except InputError:  # of a label, and an InputError is a ValueError
        raise
    except (tarfile.TarError, EOFError, ValueError, OSError) as error:
        raise InputError(f"{path}: cannot be read as a tar file ({error}); write or download it again") from error


def _read_headers(path: str, opened: BinaryIO) -> Index:
    starts, sizes, names, keys, labels = [], [], [], [], {}
    with tarfile.open(fileobj=opened, mode="r:") as archive:
        while (member := archive.next()) is not None:
            archive.members.clear()  # type: ignore[attr-defined] # they would all stay in memory
            if not member.isreg():
                continue
            folder, slash, file = member.name.rpartition("/")
            key, _, kind = file.partition(".")
            if layout.is_image(member.name):
                starts.append(member.offset_data)
                sizes.append(member.size)
                names.append(member.name)
                keys.append(folder + slash + key)
            elif kind in ("cls", "json") and member.size <= LABEL_BYTES:
                label = _label(f"{path}/{member.name}", kind, _read(opened, member))
                if label is not None:
                    labels[folder + slash + key] = label
        # `tarfile` takes any damaged header but the first for the end.
        opened.seek(archive.offset)
        if opened.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"damaged at byte {archive.offset}")
    # An array beside a picture of the same key is a feature, a mask or a depth.
    pictures = {key for key, name in zip(keys, names, strict=True) if not _is_array(name)}
    kept = [i for i, key in enumerate(keys) if key not in pictures or not _is_array(names[i])]
    return Index(
        np.array(starts, np.int64)[kept],
        np.array(sizes, np.int64)[kept],
        Names.of([names[i] for i in kept]),
        Classes.of(labels.get(keys[i]) for i in kept),
    )


def _is_array(name: str) -> bool:
    return name.lower().endswith(".npy")


def _read(opened: BinaryIO, member: tarfile.TarInfo) -> bytes:
    opened.seek(member.offset_data)
    return opened.read(member.size)


def _label(name: str, kind: str, content: bytes) -> str | None:
    try:
        text = content.decode()
        label = text.strip() if kind == "cls" else json.loads(text).get("label")
    except (ValueError, AttributeError):
        raise InputError(f"{name}: holds no label; write a number or a name in it, or leave it out") from None
    is_none = label is None or isinstance(label, bool | float | list | dict) or str(label) in ("", "-1")
    return None if is_none else str(label)

"""Decoded images on disk, so that they are decoded once: `<key>.npy`, and `<key>.rows.npy` where some are left out."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sit_jax.common.files import replacing, user_cache
from sit_jax.data import decode
from sit_jax.data.records import Records

logger = logging.getLogger(__name__)

Decoded = tuple[np.ndarray, np.ndarray]


def folder(cache_dir: str | os.PathLike | None) -> Path:
    """Returns the folder of the cache: the one given, or `sit_jax/images` in the user's cache folder."""
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    return user_cache() / "images"


def key(records: Records, image_size: int) -> str:
    """Returns a hash that changes with the records (names, sizes, times), the image size and the decoder."""
    assert records.stamp is not None
    digest = hashlib.sha256(f"{decode.VERSION} {image_size} {len(records)}".encode())
    for i in range(len(records)):
        digest.update(f"\n{records.stamp(i)}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def cached(folder: Path, key: str, total: int, allow_missing: bool, decode_now: Callable[[], Decoded]) -> Decoded:
    """Returns images uint8 [M,S,S,3] and their indices int64 [M] from the cache, or decodes `total` and caches them.

    A cached entry that leaves images out is used only if `allow_missing`. A folder that cannot be written costs a
    warning and the cache.
    """
    found = _read(folder, key, total)
    if found is not None and (allow_missing or len(found[1]) == total):
        return found
    array, rows = decode_now()
    try:
        _write(folder, key, array, rows, total)
    except OSError as error:
        logger.warning("decoded images are not cached in %s (%s); set data.cache_dir", folder, error.strerror or error)
        return array, rows
    # From here on the array is the file's, shared by all processes of the machine.
    return _read(folder, key, total) or (array, rows)


def _read(folder: Path, key: str, total: int) -> Decoded | None:
    """Returns a complete entry, or None: a file that is missing, cut short or overlong is no entry."""
    path, rows_path = folder / f"{key}.npy", folder / f"{key}.rows.npy"
    try:
        array = np.load(path, mmap_mode="r")
        rows = np.load(rows_path) if rows_path.exists() else np.arange(total)
        is_complete = path.stat().st_size == array.offset + array.nbytes and len(rows) == len(array)
    except (OSError, ValueError, EOFError):
        return None
    return (array, rows) if is_complete else None


def _write(folder: Path, key: str, array: np.ndarray, rows: np.ndarray, total: int) -> None:
    """Writes an entry; several processes may do so at once, each file appears complete and all write the same."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(rows) < total:
        _write_file(folder / f"{key}.rows.npy", rows)
    else:
        (folder / f"{key}.rows.npy").unlink(missing_ok=True)
    _write_file(folder / f"{key}.npy", array)


def _write_file(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)

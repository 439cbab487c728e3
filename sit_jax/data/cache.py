"""Cache of decoded images on disk: `<key>.npy`, and `<key>.rows.npy` if some images are left out.

`<key>.sha256` remembers the hash of the undecoded content.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sit_jax.common.files import replacing, user_cache
from sit_jax.common.layout import RGB, Layout
from sit_jax.data import content, decode
from sit_jax.data.records import Records

logger = logging.getLogger(__name__)

Decoded = tuple[np.ndarray, np.ndarray]


def folder(cache_dir: str | os.PathLike | None) -> Path:
    """Returns the cache folder: `cache_dir`, or `sit_jax/images` in the user's cache folder."""
    if cache_dir is not None:
        return Path(os.path.expanduser(cache_dir))
    return user_cache() / "images"


def key(records: Records, image_size: int, layout: Layout = RGB) -> str:
    """Returns a hash of the records (stamps, and a sample of the content), the form and the decoder version.

    To hash the whole content would take as long as reading it, at each start. The stamps tell files of two folders
    apart, and old from new files of one folder (see `listing.file_records`). The sample tells apart what has the same
    stamps nevertheless, for example folders of two machines that share the cache, at 64 small reads.
    """
    assert records.stamp is not None
    digest = hashlib.sha256(f"{_form(image_size, layout)} {content.sample_hash(records)}".encode())
    for i in range(len(records)):
        digest.update(f"\n{records.stamp(i)}".encode(errors="surrogateescape"))
    return digest.hexdigest()[:32]


def content_key(records: Records, image_size: int, folder: Path, layout: Layout = RGB) -> str:
    """Returns a hash of the whole content of the records, the image size, the layout and the decoder version.

    It stays the same if the records move, so the results of an evaluation are found again. Reading everything takes
    little time compared with an evaluation, and happens once: `folder` keeps the result under the key of the records.
    """
    whole = content.content_hash(records, folder / f"{key(records, 0)}.sha256" if records.stamp else None)
    return hashlib.sha256(f"{_form(image_size, layout)} {whole}".encode()).hexdigest()[:32]


def _form(image_size: int, layout: Layout) -> str:
    """Returns the form of decoded images as text, the same as in former versions for three channels of 8 bits."""
    return f"{decode.VERSION} {image_size}{layout.tag and ' ' + layout.tag}"


def cached(folder: Path, key: str, total: int, allow_missing: bool, decode_now: Callable[[], Decoded]) -> Decoded:
    """Returns images [n, s, s, c] and their indices int64 [n] from the cache, else decodes and caches them.

    `total` is the number of records. An entry that leaves images out is used only if `allow_missing`. If the folder
    cannot be written, the images are not cached and a warning is logged.
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
    # The array mapped from the file is shared by all processes of the machine.
    return _read(folder, key, total) or (array, rows)


def _read(folder: Path, key: str, total: int) -> Decoded | None:
    """Returns a complete entry; None if a file is missing, truncated or too long."""
    path, rows_path = folder / f"{key}.npy", folder / f"{key}.rows.npy"
    try:
        array = np.load(path, mmap_mode="r")
        rows = np.load(rows_path) if rows_path.exists() else np.arange(total)
        is_complete = path.stat().st_size == array.offset + array.nbytes and len(rows) == len(array)
    except (OSError, ValueError, EOFError):
        return None
    return (array, rows) if is_complete else None


def _write(folder: Path, key: str, array: np.ndarray, rows: np.ndarray, total: int) -> None:
    """Writes an entry. Several processes may do so at once: writes are atomic, and all write the same bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    if len(rows) < total:
        _write_file(folder / f"{key}.rows.npy", rows)
    else:
        (folder / f"{key}.rows.npy").unlink(missing_ok=True)
    _write_file(folder / f"{key}.npy", array)


def _write_file(path: Path, array: np.ndarray) -> None:
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.save(file, array)

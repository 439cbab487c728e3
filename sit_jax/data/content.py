"""What undecoded images hold: a quick sample for the cache key, and the whole content for evaluations."""

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from sit_jax.common.console import with_progress
from sit_jax.common.files import replacing
from sit_jax.data.records import Raw, Records

SAMPLED = 64  # records
EDGE = 4096  # bytes at each end of a record
CHUNK = 64  # records that one thread reads at a time


def sample_hash(records: Records) -> str:
    """Returns a hash of the ends of 64 records, evenly spread. Paths, names and times do not matter."""
    digest = hashlib.sha256(f"{len(records)}".encode())
    for row in np.unique(np.linspace(0, len(records) - 1, min(SAMPLED, len(records))).round().astype(int)).tolist():
        digest.update(_digest(records, row, _ends))
    return digest.hexdigest()


def content_hash(records: Records, remembered: Path | None = None) -> str:
    """Returns a hash of all bytes of all records, in their order. Paths, names and times do not matter.

    Reads everything once; the result is kept in the file `remembered`, whose name must change with the records.
    """
    if remembered is not None:
        with contextlib.suppress(OSError, UnicodeDecodeError):
            if len(text := remembered.read_text()) == 64:
                return text
    digest = hashlib.sha256()
    for part in with_progress(_digests(records), len, len(records), "reading images"):
        digest.update(b"".join(part))
    if remembered is not None:
        with contextlib.suppress(OSError), replacing(remembered) as temporary:
            temporary.write_text(digest.hexdigest())
    return digest.hexdigest()


def _digests(records: Records) -> Iterator[list[bytes]]:
    rows = [range(i, min(i + CHUNK, len(records))) for i in range(0, len(records), CHUNK)]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        try:
            yield from threads.map(lambda part: [_digest(records, i, _whole) for i in part], rows)
        except BaseException:
            threads.shutdown(cancel_futures=True)
            raise


def _digest(records: Records, row: int, part: Callable[[Raw], bytes]) -> bytes:
    try:
        return hashlib.sha256(part(records.read(row))).digest()
    except Exception:  # decoding will report it as unreadable
        return b"unreadable".ljust(32)


def _whole(raw: Raw) -> bytes:
    if isinstance(raw, Path):
        return raw.read_bytes()
    # Arrays of other shapes can hold the same bytes.
    return raw if isinstance(raw, bytes) else f"{raw.dtype} {raw.shape}".encode() + np.ascontiguousarray(raw).tobytes()


def _ends(raw: Raw) -> bytes:
    if not isinstance(raw, Path):
        whole = _whole(raw)
        return str(len(whole)).encode() + whole[:EDGE] + whole[-EDGE:]
    with raw.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(EDGE)
        file.seek(max(size - EDGE, 0))
        return str(size).encode() + start + file.read(EDGE)

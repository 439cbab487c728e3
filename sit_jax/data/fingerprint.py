"""A hash of a list of images, by which a resumed run notices that its images have changed."""

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from sit_jax.data.records import Raw, Records

SAMPLES = 64  # images whose content is read
PIECE = 2**16  # bytes read at the start of a file


def fingerprint(records: Records) -> str:
    """Returns a hash of the names and file sizes of all records and of the content of SAMPLES of them.

    Names are relative to the folder that holds all, and times do not count: a copy in another place has the same hash.
    """
    start = len(common_folder(records.names))
    digest = hashlib.sha256(str(len(records)).encode())
    sampled = set(np.linspace(0, len(records) - 1, min(SAMPLES, len(records)), dtype=int).tolist())
    are_files = isinstance(records.read(0), Path)  # then reading gives a path, which costs nothing
    for i, name in enumerate(records.names):
        digest.update(f"\n{name[start:]}".encode(errors="surrogateescape"))
        for part in _parts(records.read(i), i in sampled) if are_files or i in sampled else ():
            digest.update(part)
    return digest.hexdigest()[:32]


def common_folder(names: Sequence[str]) -> str:
    """Returns the beginning, up to a slash, that all names share; names of shards have the path of their file."""
    first, last = min(names).split("/"), max(names).split("/")
    shared = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first[:-1], last[:-1], strict=False))
    return "".join(f"{part}/" for part, _ in shared)


def _parts(raw: Raw, is_sampled: bool) -> Iterator[bytes]:
    if isinstance(raw, Path):
        try:
            yield str(raw.stat().st_size).encode()
            if is_sampled and raw.is_file():  # a pipe would be waited for
                with raw.open("rb") as file:
                    yield file.read(PIECE)
        except OSError:  # decoding reports it as unreadable
            yield b"missing"
    elif is_sampled:
        yield raw if isinstance(raw, bytes) else np.ascontiguousarray(raw).tobytes()

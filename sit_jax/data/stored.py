"""Files that are read by ranges of bytes, from many threads, on disk or in a remote store."""

import io
import os
from collections.abc import Sequence
from typing import BinaryIO

from sit_jax.common.errors import InputError
from sit_jax.data import paths, remote
from sit_jax.data.blocks import Blocks

BLOCK = 4 * 2**20  # bytes that a remote store is asked for at once


class Files:
    """The files `paths`, all on disk or all in a remote store.

    `sizes` are in bytes; `versions` change with the content. With `keep`, blocks of remote files stay in the user's
    cache folder if all files fit in it; otherwise each read asks the store for just its bytes. `told` is what the store
    told of the files, if that is known. Raises InputError that lists the files that are missing.
    """

    def __init__(self, names: Sequence[str], keep: bool = True, told: Sequence[dict] | None = None):
        self.paths = list(names)
        remotes = [remote.is_remote(name) for name in self.paths]
        if any(remotes) and not all(remotes):
            raise InputError(
                f"{self.paths[remotes.index(False)]}: is on disk, and others are not; copy one to the other"
            )
        self.is_remote = all(remotes)
        self.sizes, self.versions = self._remote(told) if self.is_remote else self._local()
        self._blocks = None
        if self.is_remote and keep:
            blocks = Blocks("\n".join([*self.paths, *self.versions]), sum(self.sizes))
            self._blocks = blocks if blocks.on_disk else None

    def read(self, file: int, start: int, size: int) -> bytes:
        """Returns `size` bytes from `start` of the file number `file`.

        Raises InputError if a file on disk has become shorter, StoreError if a remote store does not answer.
        """
        if self._blocks is not None:
            return b"".join(self._read_block(file, block, start, size) for block in _covering(start, size))
        if self.is_remote:
            return remote.read(self.paths[file], start, size) if size else b""
        with open(self.paths[file], "rb", buffering=0) as opened:
            data = os.pread(opened.fileno(), size, start)
        if len(data) != size:
            raise InputError(f"{self.paths[file]}: has become shorter while it is read; start again")
        return data

    def open(self, file: int) -> BinaryIO:
        """Opens the file number `file` for reading from start to end."""
        if not self.is_remote:
            return open(self.paths[file], "rb")
        return io.BufferedReader(_Opened(self, file), 2**20)

    def _read_block(self, file: int, block: int, start: int, size: int) -> bytes:
        assert self._blocks is not None
        begin = block * BLOCK
        length = min(BLOCK, self.sizes[file] - begin)
        first, last = max(start - begin, 0), min(start + size - begin, length)
        make = lambda: remote.read(self.paths[file], begin, length)  # noqa: E731
        return self._blocks.read(f"{file}.{block}", make, first, last - first)

    def _local(self) -> tuple[list[int], list[str]]:
        sizes, versions, missing = [], [], []
        for path in self.paths:
            try:
                status = os.stat(path)
            except OSError:
                missing.append(path)
                continue
            sizes.append(status.st_size)
            # The place, because a relative path names another file in another folder; the time of the last change of
            # any kind, because a copy can keep size and time.
            place = os.path.realpath(path)
            versions.append(f"{place} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}")
        _check_found(missing, len(self.paths))
        return sizes, versions

    def _remote(self, told: Sequence[dict] | None) -> tuple[list[int], list[str]]:
        found, missing = (told, []) if told is not None else remote.describe(self.paths)
        _check_found(missing, len(self.paths))
        infos = [info or {} for info in found]
        if folders := [path for path, info in zip(self.paths, infos, strict=True) if info.get("type") == "directory"]:
            raise InputError(f"{folders[0]}: is a folder; give its files, for example by a pattern with *")
        if unknown := [path for path, info in zip(self.paths, infos, strict=True) if info.get("size") is None]:
            raise InputError(f"{unknown[0]}: the server does not tell its size; use another server, or copy the file")
        return [info["size"] for info in infos], [remote.version(info) for info in infos]


class _Opened(io.RawIOBase):
    """One of several files, as a file object."""

    def __init__(self, files: Files, file: int):
        self._files, self._file, self._position = files, file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._files.sizes[self._file]}[whence]
        self._position = base + offset
        return self._position

    def readinto(self, buffer) -> int:
        size = max(0, min(len(buffer), self._files.sizes[self._file] - self._position))
        buffer[:size] = self._files.read(self._file, self._position, size)
        self._position += size
        return size


def _covering(start: int, size: int) -> range:
    return range(start // BLOCK, (start + size - 1) // BLOCK + 1) if size else range(0)


def _check_found(missing: list[str], total: int) -> None:
    if missing:
        raise InputError(
            f"{len(missing)} of {total} files are missing: {paths.shown(missing)}; add them or correct the list"
        )

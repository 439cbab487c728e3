"""Blocks of bytes that are made once: kept in the user's cache folder if they fit, else the last few in memory."""

import collections
import hashlib
import logging
import os
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from sit_jax.common.errors import InputError
from sit_jax.common.files import replacing, user_cache

logger = logging.getLogger(__name__)

LIMIT_NAME = "SIT_JAX_CACHE_GB"
LIMIT = 50.0  # 10^9 bytes, for the blocks of all sources
MEMORY = 512 * 10**6  # bytes, for the blocks of one source


def limit() -> float:
    """Returns how many bytes all blocks may take on the disk: SIT_JAX_CACHE_GB (10^9 bytes) or 50 GB."""
    text = os.environ.get(LIMIT_NAME) or str(LIMIT)
    try:
        return float(text) * 1e9
    except ValueError as error:
        raise InputError(f"{LIMIT_NAME}={text}: must be a number of 10^9 bytes, for example 50") from error


class Blocks:
    """The blocks of one source, which take `total` bytes; `key` names the source and changes with its content.

    If `total` fits in the cache and in half of the free disk, each block becomes a file, and the blocks of other
    sources make room, the least recently opened first. Otherwise `on_disk` is False, and at most 512 MB stay in memory.
    Threads and processes may share blocks.
    """

    def __init__(self, key: str, total: int):
        self.folder = user_cache() / "blocks" / hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()[:32]
        self.on_disk = total <= limit() and self._make_room(total)
        self._memory: collections.OrderedDict[str, bytes] = collections.OrderedDict()
        self._making: dict[str, threading.Lock] = {}
        self._lock = threading.Lock()

    def read(self, name: str, make: Callable[[], bytes], start: int = 0, size: int = -1) -> bytes:
        """Returns `size` bytes (-1: all) from `start` of the block `name`; `make` returns the block if it is new."""
        found = self._find(name, start, size)
        if found is not None:
            return found
        with self._lock:
            making = self._making.setdefault(name, threading.Lock())
        with making:  # other threads that need the block wait for it
            found = self._find(name, start, size)
            if found is None:
                block = make()
                self._keep(name, block)
                found = block[start : len(block) if size < 0 else start + size]
        with self._lock:
            self._making.pop(name, None)
        return found

    def _find(self, name: str, start: int, size: int) -> bytes | None:
        with self._lock:
            if (block := self._memory.get(name)) is not None:
                self._memory.move_to_end(name)
                return block[start : len(block) if size < 0 else start + size]
        if not self.on_disk:
            return None
        try:
            with open(self.folder / name, "rb", buffering=0) as file:
                file.seek(start)
                found = file.read(size)
                return found if size < 0 or len(found) == size else None  # cut short: made again
        except OSError:
            return None

    def _keep(self, name: str, block: bytes) -> None:
        if self.on_disk:
            try:
                with replacing(self.folder / name) as temporary:
                    temporary.write_bytes(block)
                return
            except OSError as error:
                logger.warning("%s: cannot be written (%s); blocks stay in memory", self.folder, error.strerror)
                self.on_disk = False
        with self._lock:
            self._memory[name] = block
            while len(self._memory) > 1 and sum(map(len, self._memory.values())) > MEMORY:
                self._memory.popitem(last=False)

    def _make_room(self, total: int) -> bool:
        """Deletes blocks of other sources until `total` bytes fit; returns whether they do."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            os.utime(self.folder)
            sizes = {folder: _size(folder) for folder in self.folder.parent.iterdir() if folder != self.folder}
            needed = total - _size(self.folder)
            if needed > (_free(self.folder) + sum(sizes.values())) / 2:  # not even with all the room that there is
                return False
            for folder in sorted(sizes, key=_opened_at):
                if sum(sizes.values()) + total <= limit() and needed <= _free(self.folder) / 2:
                    break
                shutil.rmtree(folder, ignore_errors=True)
                del sizes[folder]
            return needed <= _free(self.folder) / 2
        except OSError:
            return False


def _size(folder: Path) -> int:
    try:
        return sum(entry.stat().st_size for entry in os.scandir(folder))
    except OSError:  # another process deletes it
        return 0


def _opened_at(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free

"""Where the images of a large file lie: found once, then kept in the user's cache folder."""

import dataclasses
import hashlib
import logging
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from sit_jax.common.files import replacing, user_cache
from sit_jax.data import remote
from sit_jax.data.assemble import Classes
from sit_jax.data.ranges import Names
from sit_jax.data.stored import Files

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Index:
    """The n images of a file: places and lengths in bytes (int64 [n]), names and classes."""

    starts: np.ndarray
    sizes: np.ndarray
    names: Names
    classes: Classes

    def __len__(self) -> int:
        return len(self.starts)


def kept(form: str, files: Files, file: int, make: Callable[[], Index]) -> Index:
    """Returns the index of the file number `file` from the cache, else `make()`, which then goes into the cache.

    `form` names how it was made. The entry is used as long as path, size and time of the file (in a remote store: its
    version) are the same.
    """
    path = files.paths[file]
    path = path if remote.is_remote(path) else str(Path(path).absolute())
    key = hashlib.sha256(f"{form}\n{path}\n{files.versions[file]}".encode(errors="surrogateescape")).hexdigest()[:32]
    entry = user_cache() / "index" / f"{key}.npz"
    found = _read(entry)
    if found is not None:
        return found
    index = make()
    try:
        _write(entry, index)
    except OSError as error:
        logger.warning("%s: the index cannot be kept (%s); it is made again at each start", entry, error.strerror)
    return index


def _read(entry: Path) -> Index | None:
    try:
        with np.load(entry, allow_pickle=False) as found:
            texts = Names(found["texts"], found["text_ends"])
            classes = Classes(found["ids"], list(texts))
            return Index(found["starts"], found["sizes"], Names(found["names"], found["name_ends"]), classes)
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(entry: Path, index: Index) -> None:
    texts = Names.of(index.classes.texts)
    with replacing(entry) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            starts=index.starts,
            sizes=index.sizes,
            names=index.names.text,
            name_ends=index.names.ends,
            ids=index.classes.ids,
            texts=texts.text,
            text_ends=texts.ends,
        )

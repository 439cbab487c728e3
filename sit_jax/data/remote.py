"""Files of a remote store, such as gs://, s3:// and https://, through fsspec."""

import concurrent.futures
import contextlib
import fnmatch
import logging
import re
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from sit_jax.common.errors import InputError, StoreError

Result = TypeVar("Result")

PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
PAUSES = (0.5, 2.0, 8.0)  # seconds before another attempt to read
REQUESTS = 32  # at once
# What changes with the content of a file; each kind of store has some of these.
VERSION_KEYS = ("size", "ETag", "etag", "generation", "LastModified", "Last-Modified", "mtime", "created")


def is_remote(path: str) -> bool:
    """Returns whether a path is an address in a remote store."""
    return "://" in path


def find(pattern: str) -> list[str]:
    """Returns the sorted addresses of the files that a glob matches."""
    store, path = filesystem(pattern)
    names = _opened(pattern, lambda: store.glob(path))
    return [store.unstrip_protocol(name) for name in sorted(names)]


def list_folder(url: str) -> dict[str, dict]:
    """Returns the sorted names of all files below an address, relative to it, with what the store tells of each."""
    store, path = filesystem(url.rstrip("/"))
    found = _opened(url, lambda: store.find(path, detail=True))
    start = len(path.rstrip("/")) + 1
    ordered = sorted(found, key=lambda name: name.split("/"))  # as a folder on disk is read
    return {name[start:]: found[name] for name in ordered if not fnmatch.fnmatch(f"/{name[start:]}", "*/.*")}


def describe(urls: Sequence[str]) -> tuple[list[dict | None], list[str]]:
    """Returns what the store tells of each file (None: missing), and the missing files."""

    def one(url: str) -> dict | None:
        store, path = filesystem(url)
        return _opened(url, lambda: _info(store, path))

    with concurrent.futures.ThreadPoolExecutor(REQUESTS) as threads:
        told = list(threads.map(one, urls))
    return told, [url for url, info in zip(urls, told, strict=True) if info is None]


def version(info: dict) -> str:
    """Returns a text that changes with the content of a file."""
    return " ".join(str(info[key]) for key in VERSION_KEYS if info.get(key) is not None)


def read(url: str, start: int, size: int) -> bytes:
    """Reads `size` bytes from `start` on; tries again if that fails. Raises StoreError after four attempts."""
    store, path = filesystem(url)
    for pause in (*PAUSES, None):
        try:
            data = store.cat_file(path, start=start, end=start + size)
            break
        # Each store has its own exceptions, and most are worth another attempt.
        except Exception as error:
            if pause is None or isinstance(error, FileNotFoundError | PermissionError):
                raise StoreError(f"{url}: cannot be read ({_reason(error)}); check the connection") from error
            time.sleep(pause)
    if len(data) != size:
        whole = "the server sends whole files only" if len(data) > size else "the file has become shorter"
        raise StoreError(f"{url}: {size} bytes were asked for and {len(data)} came ({whole}); use another store")
    return data


def filesystem(url: str) -> tuple[Any, str]:
    """Returns the fsspec file system of an address, and the path in it.

    Raises InputError if no store has such addresses, or if the package for it is missing.
    """
    kind = url.partition("://")[0]
    package = PACKAGES.get(kind, "")
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs tracebacks of errors that it also raises
    try:
        import fsspec

        return fsspec.core.url_to_fs(url)
    except ImportError as error:
        install = f"`pip install fsspec {package}`".replace(" `", "`")
        raise InputError(f"{url}: reading {kind}:// needs another package; run {install}") from error
    except ValueError as error:
        raise InputError(f"{url}: {kind}:// is no known store; use gs://, s3:// or https://") from error


def _info(store: Any, path: str) -> dict | None:
    """Returns what a store tells of a file; None if the file is missing."""
    with contextlib.suppress(FileNotFoundError):
        return store.info(path)
    return None


def _opened(url: str, ask: Callable[[], Result]) -> Result:
    """Returns the answer of a store; raises InputError if it refuses, or has no such bucket or folder."""
    try:
        return ask()
    except FileNotFoundError as error:
        raise InputError(f"{url}: the store has no such bucket or folder; correct the address") from error
    except Exception as error:
        raise InputError(
            f"{url}: the store cannot be read ({_reason(error)}); check the address, the connection and your rights"
        ) from error


def _reason(error: Exception) -> str:
    return re.sub(r"\s+", " ", str(error)).strip()[:200] or type(error).__name__

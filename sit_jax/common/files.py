"""Files of the user: the cache folder, atomic writes, and checks that a file can be written."""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from sit_jax.common.errors import InputError


def user_cache() -> Path:
    """Returns `sit_jax` in the user's cache folder: XDG_CACHE_HOME, else ~/.cache."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sit_jax"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields the path of a temporary file that replaces `path` at the end; after an error, `path` is unchanged.

    Creates the folder. Several processes may write the same file at once; the last write wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a temporary folder beside `path` that becomes `path` at the end; after an error, it is removed.

    It has the mode that the umask allows; a folder of the module tempfile would be for its owner alone.
    """
    temporary = path.absolute().with_name(f".{path.name}-{uuid.uuid4().hex[:8]}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        temporary.rename(path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, values: dict) -> None:
    """Writes JSON atomically; creates the folder."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def check_local(name: str, value: object) -> None:
    """Raises InputError if `value`, of the option `name`, is an address in a remote store: nothing is written there."""
    if "://" in str(value):
        raise InputError(f"{name}={value}: only images are read from remote stores; give a folder of this machine")


def check_out(out: Path, suffix: str) -> None:
    """Raises InputError unless `out`, the value of --out, ends in `suffix` and can be written."""
    if out.suffix != suffix:
        raise InputError(f"--out={out}: the name must end in {suffix}")
    check_writable(out, f"--out={out}: cannot be written ({{}}); choose another file")


def check_writable(path: Path, message: str) -> None:
    """Creates the folder of `path`; raises InputError, with `message` and the reason, if the file cannot be written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise InputError(message.format(error.strerror)) from error

"""Files of the user: where they go, whether they can be written, whole or not at all."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from sit_jax.common.errors import InputError


def user_cache() -> Path:
    """Returns the folder of this program in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sit_jax"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives the path of a temporary file that replaces `path` at the end; after an error, `path` stays as it was.

    Makes the folder. Several processes may write the same file at once; the last one stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, values: dict) -> None:
    """Writes JSON, whole or not at all, making the folder."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(values, indent=2) + "\n")


def check_out(out: Path, suffix: str) -> None:
    """Raises InputError unless `--out` has this ending and can be written."""
    if out.suffix != suffix:
        raise InputError(f"--out={out}: the name must end in {suffix}")
    check_writable(out, f"--out={out}: cannot be written ({{}}); choose another file")


def check_writable(path: Path, message: str) -> None:
    """Raises InputError, `message` with the reason in it, unless a file can be written; its folder is made."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        existed = path.exists()
        with path.open("ab"):
            pass
        if not existed:
            path.unlink()
    except OSError as error:
        raise InputError(message.format(error.strerror)) from error

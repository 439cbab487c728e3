"""Files of the user: where they go, whether they can be written, whole or not at all."""

import json
import os
import pathlib
from pathlib import Path

from sit_jax.common.errors import InputError


def user_cache() -> Path:
    """Returns the folder of this program in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sit_jax"


def write_json(path: pathlib.Path, values: dict) -> None:
    """Writes JSON, whole or not at all, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(values, indent=2) + "\n")
    os.replace(temporary, path)


def check_out(out: pathlib.Path, suffix: str) -> None:
    """Raises InputError unless `--out` has this ending and can be written."""
    if out.suffix != suffix:
        raise InputError(f"--out={out}: the name must end in {suffix}")
    check_writable(out, f"--out={out}: cannot be written ({{}}); choose another file")


def check_writable(path: pathlib.Path, message: str) -> None:
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

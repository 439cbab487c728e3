"""Where files of the user go that belong to no run."""

import os
from pathlib import Path


def user_cache() -> Path:
    """Returns the folder of this program in the user's cache folder."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "sit_jax"

"""Text for people: names of files and classes may hold any bytes, screens and pictures may not."""

import os
import sys
from typing import TextIO

STARTED_BY = "SIT_JAX_STARTED_BY"  # an environment variable: the name of the script that started this process


def command_name(name: str) -> str:
    """Returns how people start a command: `sit-jax NAME` if this process was, else `python -m sit_jax.NAME`."""
    script = os.environ.get(STARTED_BY)
    return f"{script} {name}" if script else f"python -m sit_jax.{name}"


def shown(name: str) -> str:
    """Returns a name with a question mark in place of each character that cannot be shown.

    These are line breaks, control characters, and bytes of a file name that are not UTF-8 (surrogates in Python).
    """
    return "".join(letter if letter.isprintable() else "?" for letter in name)


def printable(text: str, stream: TextIO | None = None) -> str:
    """Returns text that a stream (None: stdout) can write, with a question mark for each character that it cannot."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "replace").decode(encoding)

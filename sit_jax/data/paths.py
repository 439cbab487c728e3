"""From a pattern to the names of files: brace ranges, lists and globs, on disk or in a remote store."""

import glob
import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

from sit_jax.common import text
from sit_jax.common.errors import InputError
from sit_jax.data import remote

MOST = 1_000_000  # names from braces
SHOWN = 20  # names in a message


def expand(pattern: str) -> list[str]:
    """Returns the files of a pattern, sorted within each glob; `~` is expanded.

    The parts between commas are patterns of their own. `{000..127}` counts, with the zeros of its first number;
    `{a,b}` lists; `*`, `?`, `[...]` and `**` (any depth) are globs. A file that has the whole pattern for its name is
    that file. In a remote store, `?` stays as it is, and only globs are looked up now. Raises InputError if a part
    names no file.
    """
    if os.path.exists(os.path.expanduser(pattern)):
        return [os.path.expanduser(pattern)]
    found, missing = [], []
    for name in itertools.chain.from_iterable(map(_braces, _split(pattern))):
        matches = _matches(name)
        found += matches
        missing += [] if matches else [name]
    if missing or not found:
        raise InputError(f"{pattern}: there is no file {shown(missing)}; correct the pattern, or add the files")
    return found


def is_pattern(text: str) -> bool:
    """Returns whether a text has a glob or braces."""
    return any(sign in text for sign in ("*[{" if remote.is_remote(text) else "*?[{"))


def fixed_part(pattern: str) -> str:
    """Returns the folder before the first glob or brace; empty if there is none, or several patterns with commas."""
    if len(_split(pattern)) > 1:
        return ""
    start = min((pattern.find(sign) for sign in "*?[{" if sign in pattern), default=len(pattern))
    return pattern[:start].rpartition("/")[0]


def shown(names: Sequence[str]) -> str:
    """Returns the first twenty names, and how many more there are, for a message."""
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(text.shown, names[:SHOWN])) + more


def _split(pattern: str) -> list[str]:
    """Splits at the commas that are outside of braces."""
    return [part for part in re.split(r",(?![^{}]*\})", pattern) if part]


def _braces(text: str) -> list[str]:
    found = re.search(r"\{(?:(\d+)\.\.(\d+)|([^{}]*,[^{}]*))\}", text)
    if not found:
        return [text]
    first, last, several = found.groups()
    count = 0 if first is None else max(0, int(last) - int(first) + 1)
    rests = _braces(text[found.end() :])
    if count * len(rests) > MOST:
        raise InputError(f"{text}: {found.group()} makes more than {MOST} names; write a smaller range")
    options = several.split(",") if several else [f"{int(first) + i:0{len(first)}d}" for i in range(count)]
    return [text[: found.start()] + option + rest for option in options for rest in rests]


def _matches(name: str) -> list[str]:
    if remote.is_remote(name):
        return remote.find(name) if is_pattern(name) else [name]
    name = os.path.expanduser(name)
    if os.path.exists(name):
        return [name]
    return sorted(found for found in glob.iglob(name, recursive=True) if Path(found).is_file())

"""Output for the user: messages, warnings, tables, progress."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import jax
import tqdm

from sit_jax.common.text import printable

Item = TypeVar("Item")


def with_progress(
    items: Iterator[Item], size: Callable[[Item], int], total: int, description: str, unit: str = "img"
) -> Iterator[Item]:
    """Yields the items, `size(item)` units each; after two seconds, shows a progress line with the time left."""
    # A terminal redraws the line; a log file gets one every ten seconds.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm.tqdm(total=total, desc=description, unit=unit, delay=2, mininterval=interval) as line:
        for item in items:
            line.update(size(item))
            yield item


def format_seconds(seconds: float) -> str:
    """Returns a duration as text: "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def shown(name: str) -> str:
    """Returns a name of the user for one line of a message: characters that do not print become their escapes.

    File names may hold line ends, control characters and bytes that are not UTF-8.
    """
    return (
        name
        if name.isprintable()
        else "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in name)
    )


def warn(line: str) -> None:
    """Prints a warning to stderr; the run continues."""
    print(printable(f"warning: {line}", sys.stderr), file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Returns rows of cells as a table with two spaces between columns; columns in `right` are right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def say_all(lines: Sequence[str]) -> None:
    """Prints lines for the user, on the first host only."""
    for line in lines:
        say(line)


def say(line: str) -> None:
    """Prints a line for the user, on the first host only."""
    if jax.process_index() == 0:
        print(printable(line), flush=True)

"""Lines for the user: messages, warnings, tables, the progress of long work."""

import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import TypeVar

import jax
import tqdm

Item = TypeVar("Item")


def with_progress(items: Iterator[Item], size: Callable[[Item], int], total: int, description: str) -> Iterator[Item]:
    """Yields items that stand for `size(item)` images each; more than two seconds show a line with the time left."""
    # On a terminal the line is redrawn; in a log file it comes every ten seconds.
    interval = 0.2 if sys.stderr.isatty() else 10.0
    with tqdm.tqdm(total=total, desc=description, unit="img", delay=2, mininterval=interval) as line:
        for item in items:
            line.update(size(item))
            yield item


def format_seconds(seconds: float) -> str:
    """Returns a duration for people: "45 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def warn(line: str) -> None:
    """Prints a line about something that is wrong and does not stop the run."""
    print(f"warning: {line}", file=sys.stderr, flush=True)


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> str:
    """Lays rows of cells out as a table: two spaces between columns, those with an index in `right` right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if i in right else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    )


def say(line: str) -> None:
    """Prints a line for the user, once and not once a host."""
    if jax.process_index() == 0:
        print(line, flush=True)

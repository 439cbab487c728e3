"""Output for the user: messages, warnings, tables, progress."""

import shutil
import sys
import time
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


class LiveLine:
    """A line at the bottom of a terminal that is written over; `say` and `warn` print above it."""

    INTERVAL = 0.5  # seconds

    def __init__(self) -> None:
        self.shown, self.last = False, 0.0

    def possible(self) -> bool:
        """Tells whether standard output is a terminal, on the first host."""
        return sys.stdout.isatty() and jax.process_index() == 0

    def due(self) -> bool:
        """Tells whether the line has stood for INTERVAL seconds."""
        return time.monotonic() - self.last > self.INTERVAL

    def show(self, text: str) -> None:
        """Writes the line, cut to the width of the terminal, over the last one."""
        print(f"\r{text[: shutil.get_terminal_size().columns - 1]}{CLEAR}", end="", flush=True)
        self.shown, self.last = True, time.monotonic()

    def clear(self) -> None:
        """Removes the line."""
        if self.shown:
            print(f"\r{CLEAR}", end="", flush=True)
            self.shown = False


CLEAR = "\x1b[K"  # from here to the end of the line
live = LiveLine()


MOST_WARNINGS = 100
warnings: list[str] = []  # of this process, the first MOST_WARNINGS; a run keeps them in its `sessions.json`


def warn(line: str) -> None:
    """Prints a warning to stderr; the run continues."""
    if len(warnings) < MOST_WARNINGS:
        warnings.append(line)
    live.clear()
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
        live.clear()
        print(printable(line), flush=True)

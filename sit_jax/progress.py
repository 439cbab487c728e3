"""How far long work is: one line with the time left, on stderr."""

import sys
from collections.abc import Callable, Iterator
from typing import TypeVar

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

"""Output that cannot be written is dropped, and the command continues.

The reader may have gone, as in `| head -1`, the disk may be full, or the stream closed, as by `>&-`.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class Unbroken:
    """A text stream whose output is dropped once it cannot be written; otherwise the stream that it wraps."""

    def __init__(self, stream: TextIO):
        self.stream = stream

    def write(self, text: str) -> int:
        """Writes; returns the number of characters."""
        try:
            return self.stream.write(text)
        except OSError:
            self._drop()
            return len(text)

    def flush(self) -> None:
        """Flushes."""
        try:
            self.stream.flush()
        except OSError:
            self._drop()

    def _drop(self) -> None:
        """Sends the file descriptor to nowhere, so that what is still buffered is dropped as well."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextlib.contextmanager
def unbroken() -> Iterator[None]:
    """Wraps standard output and standard error in `Unbroken`."""
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # in place of a closed stream, which is None
        sys.stdout, sys.stderr = (Unbroken(stream or nowhere) for stream in before)
        try:
            yield
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            sys.stdout, sys.stderr = before

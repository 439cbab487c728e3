"""Stop signals: a run saves before it stops, so that the same command resumes it."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from jax.experimental import multihost_utils

from sit_jax.parallel import hosts


class StopRequested(Exception):
    """A stop signal came while the run waited for data."""


class StopSignal:
    """Context manager that catches SIGTERM and Ctrl-C; a second Ctrl-C interrupts at once.

    If processes are connected, JAX's preemption service catches SIGTERM instead, and all hosts agree on the step.
    """

    def __init__(self) -> None:
        self.received, self.waiting, self.shared = False, False, hosts.connected()
        self.before: dict = {}

    def __enter__(self) -> "StopSignal":
        # The handler of the service must stay, and only the main thread can set handlers.
        if not self.shared and threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:  # SIGTERM may come twice: from a launcher and from the system
            signal.signal(number, self.before[number])
        self.received = True
        if self.waiting:
            raise StopRequested

    @contextlib.contextmanager
    def interrupting(self) -> Iterator[None]:
        """In its block, as around waiting for data, a signal raises StopRequested at once."""
        self.waiting = True
        try:
            if self.received:
                raise StopRequested
            yield
        finally:
            self.waiting = False

    def requested(self, step: int) -> bool:
        """Returns whether to stop after `step` updates; the same on all hosts."""
        return multihost_utils.reached_preemption_sync_point(step) if self.shared else self.received

"""Signals that ask a run to stop: it saves first, so that the same command goes on from there."""

import signal
import threading
from types import FrameType

from jax.experimental import multihost_utils

from sit_jax.parallel import hosts


class StopSignal:
    """Catches SIGTERM and Ctrl-C while it is entered; a second Ctrl-C interrupts at once.

    Where processes are connected, JAX's preemption service has listened since, and all hosts agree on the step.
    """

    def __init__(self) -> None:
        self.received, self.shared = False, hosts.connected()
        self.before: dict = {}

    def __enter__(self) -> "StopSignal":
        # Where the service listens its handler must stay; elsewhere than in the main thread none can be set.
        if not self.shared and threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._receive) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        if number == signal.SIGINT:  # SIGTERM may well come twice, from a launcher and from the system
            signal.signal(number, self.before[number])
        self.received = True

    def requested(self, step: int) -> bool:
        """Tells whether to stop after `step` updates; the same answer on all hosts."""
        return multihost_utils.reached_preemption_sync_point(step) if self.shared else self.received

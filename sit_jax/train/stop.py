"""Signals that ask a run to stop: it saves first, so that the same command goes on from there."""

import signal
import threading
from types import FrameType

import jax
import orbax.checkpoint as ocp


class StopSignal:
    """Catches SIGTERM and Ctrl-C while it is entered; a second Ctrl-C interrupts at once.

    With several processes JAX's preemption service listens to SIGTERM instead, and all hosts agree on the step.
    """

    def __init__(self, manager: ocp.CheckpointManager):
        self.manager, self.received = manager, False
        self.own = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()
        self.before: dict = {}

    def __enter__(self) -> "StopSignal":
        if self.own:
            self.before = {s: signal.signal(s, self._receive) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exc_info: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        del frame
        self.received = True
        signal.signal(number, self.before[number])

    def requested(self, step: int) -> bool:
        """Tells whether to stop after `step` updates; the same answer on all hosts."""
        return self.received or (not self.own and self.manager.reached_preemption(step))

"""Stop signals outside of the training loop: a command ends soon, even if it reads from what never answers."""

import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from typing import NoReturn

import jax

from sit_jax.common.errors import PREEMPTED

PATIENCE = 3.0  # seconds for an orderly end after a signal
RESUMES, BEGINS_AGAIN = "run the same command to resume", "no result was written; the same command begins again"
CLEANUPS: list[Callable[[], None]] = []  # called before a process ends at once


@contextlib.contextmanager
def soon_ended(ending: str) -> Iterator[None]:
    """Makes SIGTERM and Ctrl-C raise KeyboardInterrupt, and ends the process if it then continues for PATIENCE seconds.

    `ending` is printed then.

    This also ends a command that waits for a thread, a file or the compiler, where Python handles no signal. Where
    other handlers are installed, or processes are connected, it leaves the end to them.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = socket.socketpair()
    writer.setblocking(False)
    before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
    done = threading.Event()
    threading.Thread(target=_watch, args=(reader, done, ending), daemon=True, name="sit-signals").start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        writer.close()


def _watch(reader: socket.socket, done: threading.Event, ending: str) -> None:
    """Waits for signals, and ends the process PATIENCE seconds after the first that nothing else handles."""
    with reader:
        while received := reader.recv(64):
            if not {signal.SIGTERM, signal.SIGINT} & set(received) or _others_end_it():
                continue
            if not done.wait(PATIENCE):
                with contextlib.suppress(OSError, ValueError):
                    print(ending, flush=True)
                leave(PREEMPTED)


def _others_end_it() -> bool:
    is_own = signal.getsignal(signal.SIGTERM) is signal.default_int_handler
    return not is_own or jax.distributed.is_initialized()


def leave(code: int) -> NoReturn:
    """Ends this process at once: no thread is waited for."""
    for cleanup in CLEANUPS:
        with contextlib.suppress(Exception):
            cleanup()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)

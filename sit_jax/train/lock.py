"""One run a work directory: a lock file with the host, the process and a heartbeat."""

import contextlib
import json
import os
import pathlib
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from typing import NamedTuple

import jax
import psutil

from sit_jax.common.console import say
from sit_jax.common.errors import InputError
from sit_jax.common.stopping import CLEANUPS
from sit_jax.parallel.hosts import all_agree

NAME = "lock.json"
BEAT_SECONDS = 10.0
# A lock of another host without a heartbeat for this long is left over. File systems show times of other hosts late,
# and clocks differ: only a change of the time counts, never the time itself.
SILENCE_SECONDS = 45.0


class Found(NamedTuple):
    """A lock file as it was read."""

    text: str
    beat: float  # the time of the last heartbeat, by the clock of the file server

    @property
    def owner(self) -> dict:
        """What identifies the process of the lock; empty if the file is damaged."""
        try:
            owner = json.loads(self.text)
        except ValueError:  # a kill or a full disk cut it short, or it is being written
            return {}
        return owner if isinstance(owner, dict) else {}


@contextlib.contextmanager
def locked(workdir: pathlib.Path) -> Iterator["Lock"]:
    """Holds the lock of a work directory, which it creates, and gives it; only the first host of a run locks.

    A lock is left over if its process has ended on this machine, or if its heartbeat stands still. At the end, folders
    that it created and that are still empty are removed. Raises InputError, on all hosts, if another run is going on
    in `workdir`, or if the lock cannot be written.
    """
    lock, failure = Lock(workdir), None
    if jax.process_index() == 0:
        try:
            lock.take()
        except InputError as error:
            failure = error
    if not all_agree(failure is None):
        raise failure or InputError(f"{workdir}: the first host cannot lock it; its message says why")
    try:
        yield lock
    finally:
        lock.release()


class Lock:
    """The lock file of a work directory."""

    def __init__(self, workdir: pathlib.Path):
        self.path = workdir / NAME
        self.owner = {**here(), "token": uuid.uuid4().hex}
        self.created: list[pathlib.Path] = []  # folders, the innermost first
        self.ended = threading.Event()
        self.held = self.lost = False

    def take(self) -> None:
        """Writes the lock, unless another run holds it, and starts its heartbeat."""
        missing = [folder for folder in (self.path.parent, *self.path.parent.parents) if not folder.exists()]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.created = missing
            while not self._write():
                self._wait_or_refuse()
        except OSError as error:
            self._remove_folders()
            raise InputError(f"{self.path}: cannot be written ({error.strerror}); choose another --workdir") from error
        self.held = True
        CLEANUPS.append(self.release)
        threading.Thread(target=self._beat, daemon=True, name="sit-lock").start()

    def _write(self) -> bool:
        """Creates the file; tells whether it was not there."""
        try:
            with self.path.open("x") as file:
                json.dump(self.owner, file)
            return True
        except FileExistsError:
            return False

    def check(self) -> None:
        """Raises InputError if another run has taken the lock since, so that this run writes nothing more."""
        if self.lost:
            raise InputError(
                f"{self.path.parent}: another run has taken the lock, because this one showed no sign of life; this "
                "run ends, and leaves the work directory to it"
            )

    def _wait_or_refuse(self) -> None:
        """Returns when the lock found is removed or left over; raises InputError if its run is going on."""
        found = self._read()
        if found is None:  # removed since, and perhaps locked by a third run
            return
        owner = found.owner
        if same_machine(owner) and not is_running(owner):
            self._discard(found)
            return
        where = f"process {owner.get('pid')} on {owner.get('host')}"
        message = f"{self.path.parent}: another run is going on there ({where}, since {owner.get('since')}); wait for "
        message += "its end, or choose another --workdir"
        if same_machine(owner):
            raise InputError(message)
        say(
            f"{where} locked {self.path.parent} at {owner.get('since')}; waiting up to {SILENCE_SECONDS:.0f} s to see "
            "whether it still runs"
        )
        end = time.monotonic() + SILENCE_SECONDS
        while time.monotonic() < end:
            time.sleep(min(1.0, SILENCE_SECONDS))
            now = self._read()
            if now is None:
                return
            if now != found:
                raise InputError(message)
        self._discard(found)

    def _discard(self, found: Found) -> None:
        """Removes the lock found; a lock that another run has written meanwhile stays."""
        aside = self.path.with_name(f"{NAME}.{self.owner['token']}")
        with contextlib.suppress(FileNotFoundError):  # another run was faster
            self.path.rename(aside)
            if aside.read_text(errors="replace") != found.text:
                with contextlib.suppress(FileExistsError):
                    os.link(aside, self.path)
            aside.unlink()

    def _read(self) -> Found | None:
        """Returns the lock file; None if there is none."""
        try:
            with self.path.open(errors="replace") as file:  # a network file system looks anew at a file it opens
                return Found(file.read(), os.fstat(file.fileno()).st_mtime)
        except FileNotFoundError:
            return None

    def _beat(self) -> None:
        """Renews the time of the lock, until the run ends or another run has the lock."""
        while not (self.ended.wait(BEAT_SECONDS) or self.lost):
            with contextlib.suppress(OSError):  # a failing disk must not end the training
                found = self._read()
                self.lost = found is not None and not self._is_mine(found)
                if found is not None and not self.lost:
                    os.utime(self.path)

    def _is_mine(self, found: Found) -> bool:
        return found.owner.get("token") == self.owner["token"]

    def release(self) -> None:
        """Removes the lock if it is this run's, and folders that were created for it and are empty."""
        self.ended.set()
        if not self.held:
            return
        self.held = False
        CLEANUPS.remove(self.release)
        with contextlib.suppress(OSError):
            if (found := self._read()) is not None and self._is_mine(found):
                self.path.unlink(missing_ok=True)
        self._remove_folders()

    def _remove_folders(self) -> None:
        for folder in self.created:
            with contextlib.suppress(OSError):  # it holds files, as after any training
                folder.rmdir()


def here() -> dict:
    """Returns what identifies this process: host, process number, its start, and the space of process numbers."""
    since = time.strftime("%Y-%m-%d %H:%M")
    return {"host": socket.gethostname(), "pid": os.getpid(), "started": started(os.getpid()), "since": since} | space()


def space() -> dict:
    """Returns the identity of the space of process numbers: containers of one host have several."""
    try:
        return {"space": os.readlink("/proc/self/ns/pid"), "boot": read_boot()}
    except OSError:
        return {"space": "", "boot": ""}


def read_boot() -> str:
    """Returns the identity of this start of the machine."""
    return pathlib.Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def started(pid: int) -> float | None:
    """Returns the start time of a process; None if it has ended."""
    try:
        return psutil.Process(pid).create_time()
    except psutil.Error:
        return None


def same_machine(owner: dict) -> bool:
    """Tells whether the process numbers of `owner` mean processes that can be seen here."""
    mine = here()
    return all(owner.get(key) == mine[key] for key in ("host", "space", "boot"))


def is_running(owner: dict) -> bool:
    """Tells whether the process of `owner` still runs; a later process with its number is another one."""
    start = started(owner.get("pid", -1))
    return start is not None and abs(start - (owner.get("started") or 0)) < 2

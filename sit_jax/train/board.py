"""TensorBoard events, written synchronously in the calling thread."""

import itertools
import os
import pathlib
import time

import numpy as np
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto import event_pb2

_count = itertools.count()


class Board:
    """Writes scalars and pictures for TensorBoard into a folder.

    It does not use the SummaryWriter of tensorboardX, whose thread ends at the first error, such as a full disk. Its
    queue then blocks the training forever. Here errors (OSError) reach the caller, and later events go to a new file.
    """

    def __init__(self, folder: pathlib.Path, start_step: int):
        self.folder, self.start_step = folder, start_step
        self.writer: EventsWriter | None = None

    def write(self, step: int, scalars: dict[str, float], images: dict[str, np.ndarray] | None = None) -> None:
        """Writes scalars and pictures [H, W, 3] uint8 of a step; raises OSError if they cannot be written."""
        events = [summary.scalar(name, value) for name, value in scalars.items()]
        events += [summary.image(name, image, dataformats="HWC") for name, image in (images or {}).items()]
        try:
            if self.writer is None:
                self.writer = self._open()
            for event in events:
                self.writer.write_event(event_pb2.Event(summary=event, step=step, wall_time=time.time()))
            self.writer.flush()
        except OSError:
            self.writer = None
            raise

    def _open(self) -> EventsWriter:
        """Opens a new file; in a resumed run, it hides the steps that will be repeated."""
        writer = EventsWriter(str(self.folder / "events"), f".{os.getpid()}.{next(_count)}")
        if self.start_step:
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            writer.write_event(event_pb2.Event(step=self.start_step + 1, session_log=start, wall_time=time.time()))
        self.start_step = 0
        return writer

    def close(self) -> None:
        """Closes the file."""
        if self.writer is not None:
            self.writer.close()

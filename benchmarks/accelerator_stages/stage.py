"""What a stage of the accelerator's measurements works with: its time, its rows of results, its folders."""

import dataclasses
import json
import os
import pathlib
import shutil
import time
import traceback
from collections.abc import Callable, Mapping
from typing import Any

OUT_OF_MEMORY = ("RESOURCE_EXHAUSTED", "out of memory", "Out of memory")
NOTE = 240  # characters of an error that a row keeps; the log has all of them


class Skip(Exception):
    """A piece of work cannot be done here; the message says why."""


@dataclasses.dataclass
class Stage:
    """One stage in a process of its own."""

    name: str
    module: str  # its `main(stage)` does the work
    ends: float  # time.time() at which it should have ended; later it is killed
    dry_run: bool
    lines: str  # the file that its rows are appended to
    work: str  # the folder for what is not brought home
    out: str  # the folder for what is
    train: str  # CONFIG[:args] of the training
    data: str  # the array file of CIFAR-10

    def left(self) -> float:
        """Returns the seconds until the end of this stage."""
        return self.ends - time.time()

    def add(self, table: str, name: str, status: str = "measured", **figures: Any) -> None:
        """Appends a row to a table of the report, on disk when this returns."""
        row = {"stage": self.name, "table": table, "name": name, "status": status, **figures}
        with open(self.lines, "a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def attempt(self, table: str, name: str, work: Callable[[], Mapping[str, Any]], needs: float = 0.0) -> bool:
        """Does a piece of work that returns the figures of a row, and adds the row; returns whether there are figures.

        Where less than `needs` seconds are left, the work is skipped. What it raises costs this row and nothing else.
        """
        if self.left() < needs:
            self.add(table, name, "skipped", note=f"needs about {needs:.0f} s, {max(0.0, self.left()):.0f} s are left")
            return False
        begin = time.perf_counter()
        try:
            figures = dict(work())
        except Skip as reason:
            self.add(table, name, "skipped", note=str(reason))
            return False
        except Exception as error:
            traceback.print_exc()
            lacks_memory = any(text in str(error) for text in OUT_OF_MEMORY)
            note = f"does not fit into memory: {short(error)}" if lacks_memory else short(error)
            self.add(table, name, "skipped" if lacks_memory else "failed", note=note)
            return False
        self.add(table, name, **({"seconds": round(time.perf_counter() - begin, 2)} | figures))
        return True

    def check(self, name: str, work: Callable[[], tuple[float, float, str]], needs: float = 0.0) -> bool:
        """Does work that returns (figure, bound, unit in words), and adds whether the figure is within the bound."""

        def row() -> dict[str, Any]:
            figure, bound, unit = work()
            # Written so that a figure that is not a number fails.
            return {"status": "passed" if figure <= bound else "failed", "figure": figure, "bound": bound, "unit": unit}

        return self.attempt("right", name, row, needs)


def short(error: BaseException) -> str:
    """Returns what an error says, on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:NOTE]


def load(text: str) -> Stage:
    """Returns the stage that `dump` has written."""
    return Stage(**json.loads(text))


def dump(stage: Stage) -> str:
    """Returns a stage as JSON."""
    return json.dumps(dataclasses.asdict(stage))


def fresh(folder: pathlib.Path) -> pathlib.Path:
    """Makes a folder anew, empty, and returns it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder

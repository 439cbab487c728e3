"""The tools of a stage of the accelerator's measurements: its time, its rows of results, its folders."""

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
NOTE = 240  # the most characters of an error in a row; the log has the whole text


class Skip(Exception):
    """The work cannot be done here; the message gives the reason."""


@dataclasses.dataclass
class Stage:
    """One stage in its own process."""

    name: str
    module: str  # its `main(stage)` does the work
    ends: float  # time.time() of its end; it is killed shortly after
    dry_run: bool
    lines: str  # the file for its rows
    work: str  # the folder for temporary files
    out: str  # the folder for results
    train: str  # CONFIG[:args] of the training
    data: str  # the array file of CIFAR-10

    def left(self) -> float:
        """Returns the seconds until the end of the stage."""
        return self.ends - time.time()

    def add(self, table: str, name: str, status: str = "measured", **figures: Any) -> None:
        """Appends a row to a table of the report; the row is on disk when this returns."""
        row = {"stage": self.name, "table": table, "name": name, "status": status, **figures}
        with open(self.lines, "a") as file:
            file.write(json.dumps(row) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def attempt(self, table: str, name: str, work: Callable[[], Mapping[str, Any]], needs: float = 0.0) -> bool:
        """Adds a row with the figures that `work` returns; returns whether it has figures.

        If less than `needs` seconds are left, the work is skipped. If the work raises, only its row is affected.
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
        """Runs work that returns (figure, bound, unit in words), and adds whether the figure is within the bound."""

        def row() -> dict[str, Any]:
            figure, bound, unit = work()
            # This comparison also fails for NaN.
            return {"status": "passed" if figure <= bound else "failed", "figure": figure, "bound": bound, "unit": unit}

        return self.attempt("right", name, row, needs)


def short(error: BaseException) -> str:
    """Returns an error's message on one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:NOTE]


def load(text: str) -> Stage:
    """Returns the stage from the JSON of `dump`."""
    return Stage(**json.loads(text))


def dump(stage: Stage) -> str:
    """Returns a stage as JSON."""
    return json.dumps(dataclasses.asdict(stage))


def fresh(folder: pathlib.Path) -> pathlib.Path:
    """Makes an empty folder, replacing an existing one, and returns it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder

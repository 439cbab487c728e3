"""Parses the call stacks of a compiled program from the tables at the head of its text."""

import re
from typing import NamedTuple

PACKAGE = "sit_jax"


class Frame(NamedTuple):
    """One call on the stack of an instruction."""

    file: str  # starts with the package name in this package, else the whole path
    line: str
    function: str

    @property
    def here(self) -> bool:
        """Returns whether the function belongs to this package."""
        return self.file.startswith(f"{PACKAGE}/")


def read_stacks(text: str) -> dict[str, list[Frame]]:
    """Returns the calls of each stack frame of a module, the innermost first."""
    head, _, rest = text.partition("FunctionNames")
    files = dict(re.findall(r'^(\d+) "(.*)"$', head, re.M))
    functions = dict(re.findall(r'^(\d+) "(.*)"$', rest.partition("FileLocations")[0], re.M))
    locations = {
        location: Frame(_shortened(files.get(file, "")), line, functions.get(function, ""))
        for location, file, function, line in re.findall(
            r"^(\d+) \{file_name_id=(\d+) function_name_id=(\d+) .*?\bline=(\d+)", text, re.M
        )
    }
    rows = re.findall(r"^(\d+) \{file_location_id=(\d+)(?: parent_frame_id=(\d+))?\}", text, re.M)
    # The first frame has no parent. If a frame names itself as parent, parent numbers are shifted by 1 and 1 means
    # none.
    offset = int(any(frame == parent for frame, _, parent in rows))
    parents = {frame: str(int(parent or 0) - offset) for frame, _, parent in rows}
    frames = {frame: locations[location] for frame, location, _ in rows if location in locations}
    return {frame: _stack(frame, frames, parents) for frame in frames}


def _shortened(file: str) -> str:
    _, found, inside = file.rpartition(f"/{PACKAGE}/")
    return f"{PACKAGE}/{inside}" if found else file


def _stack(frame: str, frames: dict[str, Frame], parents: dict[str, str]) -> list[Frame]:
    stack: list[Frame] = []
    while frame in frames and len(stack) < len(frames):
        stack.append(frames[frame])
        frame = parents[frame]
    return stack

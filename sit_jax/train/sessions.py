"""`sessions.json` in a work directory: when and where a run was trained, and what it warned of.

A session is the time from the start of a run to its end, a stop or a kill; a resumed run has several.
"""

import contextlib
import json
import pathlib
import platform
import time

import jax

from sit_jax.common import console
from sit_jax.common.files import replacing
from sit_jax.common.host import cores, processor, versions

NAME = "sessions.json"


class Session:
    """The session of this process. If its file cannot be written, as on a full disk, the training continues."""

    def __init__(self, workdir: pathlib.Path, start_step: int):
        self.path, self.former = workdir / NAME, read_sessions(workdir)
        device, now = jax.devices()[0], time.time()
        self.values: dict = {
            "started": round(now),
            "seen": round(now),  # when it was last known to run
            "from_step": start_step,
            "step": start_step,
            "ended": False,  # whether it came to the end of the run
            "devices": jax.device_count(),
            "device": device.device_kind,
            "platform": device.platform,
            "processor": processor(),
            "cores": cores(),
            "processes": jax.process_count(),
            "python": platform.python_version(),
            "versions": versions(),
            "warnings": [],
        }

    def write(self, step: int, ended: bool = False) -> None:
        """Writes that the session runs, after `step` updates; on the first host only."""
        if jax.process_index():
            return
        self.values |= {"seen": round(time.time()), "step": step, "ended": ended, "warnings": console.warnings}
        with contextlib.suppress(OSError), replacing(self.path) as temporary:
            temporary.write_text(json.dumps([*self.former, self.values], indent=1) + "\n")


def read_sessions(workdir: pathlib.Path) -> list[dict]:
    """Returns the sessions of a run, the oldest first; none if the file is absent or damaged."""
    try:
        found = json.loads((workdir / NAME).read_text())
    except (OSError, ValueError):
        return []
    rows = found if isinstance(found, list) else []
    return [row for row in rows if isinstance(row, dict) and {"started", "seen", "devices"} <= row.keys()]

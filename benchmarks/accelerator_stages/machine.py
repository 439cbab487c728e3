"""The machine of a measurement: device, driver, versions, processor."""

import importlib.metadata
import json
import pathlib
import shutil
import subprocess
from typing import Any

import jax
from packaging.requirements import Requirement

from benchmarks.accelerator_stages.stage import Stage
from sit_jax.timing import machine

REQUIREMENTS = pathlib.Path(__file__).resolve().parent.parent.parent / "requirements.txt"
NVIDIA = ("name", "driver_version", "memory.total", "power.limit", "clocks.max.sm", "temperature.gpu")


def add_machine(stage: Stage) -> None:
    """Adds the conditions of the figures of this stage."""

    def row() -> dict[str, Any]:
        described = machine.describe() | {"card": card(), "client": jax.devices()[0].client.platform_version}
        return {"value": json.dumps(described)}

    stage.attempt("machine", stage.name, row)
    stage.attempt("machine", f"{stage.name}, packages", lambda: {"value": packages()})


def packages() -> str:
    """Returns the installed packages that requirements.txt does not allow."""
    found = []
    for requirement in map(Requirement, requirement_lines(REQUIREMENTS)):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            version = "absent"
        if version == "absent" or not requirement.specifier.contains(version, prereleases=True):
            found.append(f"{requirement.name} {version}, not {requirement.specifier}")
    return "; ".join(found) or "all as in requirements.txt"


def requirement_lines(path: pathlib.Path) -> list[str]:
    """Returns the requirements of a file and of the files that it includes by -r."""
    lines = []
    for line in (line.partition("#")[0].strip() for line in path.read_text().splitlines()):
        if line.startswith("-r "):
            lines += requirement_lines(path.parent / line.removeprefix("-r ").strip())
        elif line:
            lines.append(line)
    return lines


def card() -> dict[str, str] | str:
    """Returns the driver's data of the first GPU, or the reason why there are none."""
    if shutil.which("nvidia-smi") is None:
        return "nvidia-smi is not installed"
    query = ["nvidia-smi", f"--query-gpu={','.join(NVIDIA)}", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"nvidia-smi failed: {error}"
    values = done.stdout.strip().splitlines()
    return dict(zip(NVIDIA, values[0].split(", "), strict=False)) if values else f"nvidia-smi: {done.stderr.strip()}"


def on_gpu() -> bool:
    """Returns whether the measured device is a GPU."""
    return jax.default_backend() == "gpu"

"""Memory of this machine and this process, and the sizes in an out-of-memory message."""

import contextlib
import pathlib
import re

import jax
import psutil

GIB = 2**30
CGROUPS = pathlib.Path("/sys/fs/cgroup")
OWN = pathlib.Path("/proc/self/cgroup")  # says which groups this process is in; a container shows its own as the root
# Limit and use of a control group, by version: where its groups begin, and the names of its files.
LIMITS = (("", "memory.max", "memory.current"), ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes"))
# The compiler's and the allocator's words for too little memory.
SHORTAGE = ("RESOURCE_EXHAUSTED", "Out of memory", "out of memory")


def available_bytes() -> int:
    """Returns the host memory that this process can still take: of the machine, or of its control group if less."""
    return min([psutil.virtual_memory().available, *_left_in_groups()])


def _left_in_groups() -> list[int]:
    """Returns what is left of the limit of the control group; files that are cached count as free."""
    left = []
    for root, limit, used in LIMITS:
        for folder in _groups(root):
            try:
                most, now = (int((folder / name).read_text()) for name in (limit, used))
                text = (folder / "memory.stat").read_text()
            except (OSError, ValueError):  # no such file, or "max"
                continue
            # In version 1, the line with "total_" comes later and counts the groups below as well.
            cached = re.findall(r"^(?:total_)?inactive_file (\d+)$", text, re.M)
            left.append(most - now + (int(cached[-1]) if cached else 0))
    return left


def _groups(root: str) -> list[pathlib.Path]:
    """Returns the folders of the groups of this process below the root of a version: Slurm and systemd limit them."""
    top = CGROUPS / root
    with contextlib.suppress(OSError):
        for line in OWN.read_text().splitlines():
            _, controllers, place = line.split(":", 2)
            if root in controllers.split(","):  # version 2 names no controllers
                inner = top / place.lstrip("/")
                return [inner, *(parent for parent in inner.parents if parent.is_relative_to(top))]
    return [top]


def resident_bytes() -> int:
    """Returns the memory that this process holds now."""
    return psutil.Process().memory_info().rss


def used_bytes() -> int:
    """Returns the memory in use on the first device, or of this process if the device does not tell, such as a CPU."""
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_in_use") or resident_bytes()


def gib(count: float) -> str:
    """Returns bytes as text in GiB, such as 42.4."""
    return f"{count / GIB:.1f}" if count >= 0.1 * GIB else f"{count / GIB:.2g}"


def is_shortage(error: BaseException) -> bool:
    """Tells whether an error of Python, JAX or XLA says that memory ran out."""
    if isinstance(error, MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in SHORTAGE)


def out_of_memory(message: str) -> dict[str, int]:
    """Parses the out-of-memory message of a compiler: the bytes needed and the bytes available."""
    sizes = re.findall(r"\b(\d+(?:\.\d+)?)([KMGT])\b", message)
    found = [int(float(number) * 1024 ** ("KMGT".index(unit) + 1)) for number, unit in sizes]
    return dict(zip(("needed", "available"), found, strict=False))

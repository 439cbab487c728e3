"""Cheap memory for CPU steps: jemalloc if it is installed, otherwise huge pages if the system offers them."""

import os
import pathlib
import platform
import sys

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")  # Debian, Fedora, Arch, local
VARIABLES = ("LD_PRELOAD", "MALLOC_CONF", "GLIBC_TUNABLES")


def settings() -> dict[str, str]:
    """Returns the environment variables that speed up CPU steps on this system; none if the user has set any of them.

    A step allocates gigabytes. The C library returns them to the system after each step, and the system clears them
    for the next step: up to a quarter of the processor time with pages of 4 KiB, less with huge pages. jemalloc keeps
    the memory.
    """
    if sys.platform != "linux" or any(name in os.environ for name in VARIABLES):
        return {}
    library = next(filter(os.path.exists, (f"{folder}/libjemalloc.so.2" for folder in FOLDERS)), None)
    # Other processors may have larger pages than jemalloc was built for; jemalloc would then abort the program.
    if library and platform.machine() == "x86_64":
        return {"LD_PRELOAD": library, "MALLOC_CONF": "dirty_decay_ms:-1"}
    on_demand = HUGE_PAGES.exists() and "[madvise]" in HUGE_PAGES.read_text()
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if on_demand else {}


def running_command() -> str:
    """Returns NAME while Python imports the package for `python -m sit_jax.NAME`, else an empty text.

    Then `sys.argv` starts with "-m", and the rest equals the end of the command line. In a script, even one with an
    argument -m, it starts with the path of the script.
    """
    if sys.argv[:1] != ["-m"]:
        return ""
    return sys.orig_argv[-len(sys.argv)].removeprefix("-m").removeprefix("sit_jax.")


def restart_with_settings() -> None:
    """Restarts this command in the same process if there are `settings`: they take effect only at the start."""
    found = settings()
    if found:
        os.environ.update(found)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

"""Memory between the steps: kept where jemalloc is installed, otherwise in huge pages where the system offers them."""

import itertools
import os
import pathlib
import platform
import sys

HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
FOLDERS = ("/usr/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib")  # Debian, Fedora, Arch, by hand
VARIABLES = ("LD_PRELOAD", "MALLOC_CONF", "GLIBC_TUNABLES")


def settings() -> dict[str, str]:
    """Returns the environment variables that make a step on CPU fast on this system; none where the user set one.

    Such a step takes gigabytes at once. The C library returns them to the system after each step, which must clear them
    for the next one: up to a fourth of the processor's work in pages of 4 KiB, less in huge pages. jemalloc keeps them.
    """
    if sys.platform != "linux" or any(name in os.environ for name in VARIABLES):
        return {}
    library = next(filter(os.path.exists, (f"{folder}/libjemalloc.so.2" for folder in FOLDERS)), None)
    # On other processors pages may be larger than those that the library was built for, and it would end the program.
    if library and platform.machine() == "x86_64":
        return {"LD_PRELOAD": library, "MALLOC_CONF": "dirty_decay_ms:-1"}
    on_demand = HUGE_PAGES.exists() and "[madvise]" in HUGE_PAGES.read_text()
    return {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if on_demand else {}


def restart_command(*names: str) -> None:
    """Restarts with settings if this process is `python -m sit_jax.NAME` with one of the names."""
    modules = {f"sit_jax.{name}" for name in names}
    if any(option == "-m" and module in modules for option, module in itertools.pairwise(sys.orig_argv)):
        restart_with_settings()


def restart_with_settings() -> None:
    """Restarts this command in the same process if there are `settings`, which are read at a start alone."""
    found = settings()
    if found:
        os.environ.update(found)
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

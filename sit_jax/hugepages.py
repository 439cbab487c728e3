"""Memory in huge pages, where the system leaves the choice to the program."""

import os
import pathlib
import sys

SETTING = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")
TUNABLE = "glibc.malloc.hugetlb=1"


def use_huge_pages() -> None:
    """Starts this command anew in the same process, with memory in huge pages, on Linux that offers them on demand.

    A step on CPU takes gigabytes from the system and returns them: in pages of 4 KiB, clearing them is a quarter of the
    work of the processor. The C library reads its settings only when a program starts. A GLIBC_TUNABLES of the user's
    own stays as it is. To be called before anything else.
    """
    on_demand = sys.platform == "linux" and SETTING.exists() and "[madvise]" in SETTING.read_text()
    if on_demand and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = TUNABLE
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])

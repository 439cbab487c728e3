"""SiT, the self-supervised vision transformer, in JAX.

`python -m sit_jax.NAME` imports this file first, so a command prepares its process here. Importing the package as a
library changes nothing and imports neither JAX nor NumPy; the names of LAZY are imported at their first use.
"""

import importlib
import signal
from typing import Any

from sit_jax.common import allocator

__version__ = "0.3.0.dev0"
# By public name: the module that holds it.
LAZY = {
    "Encoder": "sit_jax.api.encoder",
    "InputError": "sit_jax.common.errors",
    "SiTFeatures": "sit_jax.api.transformer",
    "load": "sit_jax.api.encoder",
    "pretrain": "sit_jax.api.training",
}
__all__ = ["Encoder", "InputError", "SiTFeatures", "__version__", "load", "pretrain"]

# Commands that train, encode or decode many images.
RESTARTED = (
    *("bench", "clusters", "duplicates", "embed", "evaluate", "main"),
    *("neighbours", "reconstruct", "report", "transfer"),
)
_command = allocator.running_command()
if _command == "main":
    # From before the restart and the imports, which take seconds, until the end of `hosts.connect`: a SIGTERM waits. If
    # this process ended here, the other processes of its run would wait for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
if _command in RESTARTED:
    allocator.restart_with_settings()


def __getattr__(name: str) -> Any:
    """Imports a name of LAZY at its first use."""
    if name in LAZY:
        return getattr(importlib.import_module(LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

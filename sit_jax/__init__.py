"""SiT, the self-supervised vision transformer, in JAX.

`python -m sit_jax.NAME` imports this file first, so a command prepares its process here. Importing the package as a
library changes nothing.
"""

import signal

from sit_jax.common import allocator

_command = allocator.running_command()
if _command == "main":
    # From before the restart and the imports, which take seconds, until the end of `hosts.connect`: a SIGTERM waits. If
    # this process ended here, the other processes of its run would wait for it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
if _command in ("bench", "embed", "evaluate", "main", "reconstruct", "transfer"):
    allocator.restart_with_settings()

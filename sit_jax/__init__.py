"""SiT, the self-supervised vision transformer, in JAX.

`python -m sit_jax.NAME` imports this file first. A command that trains or encodes therefore restarts here with the
memory settings for this system, because a process reads them only at its start. Importing the package as a library
restarts nothing.
"""

from sit_jax.common import allocator

allocator.restart_command("bench", "embed", "evaluate", "main", "reconstruct", "transfer")

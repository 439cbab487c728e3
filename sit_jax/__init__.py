"""SiT, the self-supervised vision transformer, in JAX.

`python -m sit_jax.NAME` imports this file first. So this is the place where a command that trains or encodes restarts
with the memory settings of the system, which are read at a start alone. Importing the package as a library restarts
nothing.
"""

from sit_jax.common import allocator

allocator.restart_command("bench", "embed", "evaluate", "main", "reconstruct", "transfer")

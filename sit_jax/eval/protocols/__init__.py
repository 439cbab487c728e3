"""The evaluation protocols. A new protocol is one file here and one row of PROTOCOLS.

Flags, `--help`, hashes, checks, transfer and reports derive from the rows.
"""

from sit_jax.eval.protocols import finetune, knn, linear, unlabelled
from sit_jax.eval.protocols.protocol import Protocol

PROTOCOLS: dict[str, Protocol] = {
    "knn": knn.PROTOCOL,
    "linear": linear.PROTOCOL,
    "finetune": finetune.PROTOCOL,
    "unlabelled": unlabelled.PROTOCOL,
}

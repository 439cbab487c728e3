"""Fine-tuning of all weights with the DeiT recipe."""

import functools

from sit_jax.eval.protocols.classify import classify
from sit_jax.eval.protocols.protocol import Protocol

PROTOCOL = Protocol(
    "fine-tuning of all weights",
    functools.partial(classify, "finetune"),
    settings=lambda config: config["finetune"],
    features=("tokens",),  # a classifier on each of the two tokens
)

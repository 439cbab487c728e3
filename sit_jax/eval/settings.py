"""The settings of an evaluation."""

import dataclasses
import pathlib

from sit_jax.probes.labels import Amount


@dataclasses.dataclass(frozen=True)
class Settings:
    """What to evaluate, and how."""

    workdir: pathlib.Path
    protocol: str  # knn, linear, finetune, unlabelled
    data: str | None = None  # a SOURCE string; None: the data set of the run
    step: int | None = None  # None: the newest checkpoint
    weights: str = "params"  # or ema
    features: str = "tokens"  # a key of CLASSIFIED
    amounts: tuple[Amount, ...] = (Amount(share=1.0),)
    repeats: int = 1
    seed: int = 0
    baseline: bool = True
    overrides: dict = dataclasses.field(default_factory=dict)

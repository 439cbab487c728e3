"""The interface of an evaluation protocol."""

import dataclasses
import functools
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from sit_jax.eval.data import Labelled
from sit_jax.eval.restore import Restored
from sit_jax.probes.features import CLASSIFIED, Encode, extract


@dataclasses.dataclass(frozen=True)
class Subject:
    """One encoder on one labelled data set, to be scored by a protocol."""

    restored: Restored  # configuration and mesh
    data: Labelled
    params: dict  # the weights of this encoder
    encode: Encode
    kind: str  # the features: a name in `Protocol.features`

    @functools.cached_property
    def features(self) -> tuple[np.ndarray, np.ndarray]:
        """The features of all training and test images, float32 [m, ...] and [n, ...], computed once."""
        config = self.restored.config
        size = config.batch_size // config.microbatches
        train, test = (
            extract(self.encode, self.params, images.gather, len(images), size, self.restored.mesh)
            for images in (self.data.train, self.data.test)
        )
        return train, test


class Unit(NamedTuple):
    """One draw of the labels."""

    rows: np.ndarray  # [m] int64: the training images whose labels are used
    seed: int
    folder: pathlib.Path  # for work that takes long and can resume


class Protocol(NamedTuple):
    """A row of PROTOCOLS."""

    summary: str  # for --help
    # (subject, unit) -> scores as from `probes.scores.score`, with `hyperparameters`; None if a signal stopped it.
    # If `labels` is False: (restored) -> measure(params, images [n, H, W, c], labels [n] or None) -> figures by
    # name.
    score: Callable[..., Any]
    settings: Callable[[dict], dict] = lambda config: {}  # (configuration as JSON) -> the values that the scores use
    labels: bool = True  # whether it needs labels
    features: tuple[str, ...] = tuple(CLASSIFIED)  # the kinds that it can score
    # The largest side of raw pixels as a baseline, in pixels; None: no pixel baseline.
    pixels: Callable[[ConfigDict], int | None] = lambda config: None
    reading: dict[str, str] | None = None  # if `labels` is False: how to read each figure

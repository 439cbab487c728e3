"""Features of images in pipelines of scikit-learn."""

import os
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

from sit_jax.api.encoder import load


class SiTFeatures(TransformerMixin, BaseEstimator):
    """A transformer from images to features, float32 [n, F].

    `where` and `weights` are those of `sit_jax.load`, `features` is that of `Encoder.__call__`. The encoder is frozen:
    `fit` learns nothing. It is loaded at its first use, and again in another process, so that pipelines pickle.
    """

    def __init__(self, where: str | os.PathLike, features: str = "concat", weights: str = "params"):
        self.where, self.features, self.weights = where, features, weights

    def fit(self, images: Any, y: Any = None) -> "SiTFeatures":
        """Loads the encoder; learns nothing from `images`."""
        del images, y
        self.loaded_ = (self.where, self.weights)
        self.encoder_ = load(self.where, weights=self.weights)
        return self

    def transform(self, images: Any) -> np.ndarray:
        """Returns features, float32 [n, F], of images in any form that `sit_jax.load(where)` takes."""
        if getattr(self, "loaded_", None) != (self.where, self.weights):
            self.fit(images)
        return self.encoder_(images, self.features)

    def __getstate__(self) -> dict:
        return {name: value for name, value in super().__getstate__().items() if name not in ("encoder_", "loaded_")}

    def __sklearn_is_fitted__(self) -> bool:
        return True

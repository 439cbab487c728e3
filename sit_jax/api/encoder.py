"""A trained encoder in Python: `sit_jax.load(where)`."""

import functools
import os
import pathlib
from typing import Any

import jax
import ml_collections
import numpy as np
from flax import nnx

from sit_jax.api.images import as_records
from sit_jax.common.errors import InputError
from sit_jax.common.keys import named_key
from sit_jax.common.layout import layout_of
from sit_jax.common.quiet import quiet
from sit_jax.data import Records
from sit_jax.data.load import StreamedImages
from sit_jax.eval.adopted import workdir_of
from sit_jax.eval.attention_maps import attention_maps
from sit_jax.eval.encoding import KINDS, encode_records
from sit_jax.eval.reconstruction import make_rebuild, reconstructions
from sit_jax.eval.restore import Restored, restore
from sit_jax.model.build import make_graphdefs

Images = Any  # see `api/images.py` (`as_records`)


def load(
    where: str | os.PathLike,
    *,
    step: int | None = None,
    weights: str = "params",
    overrides: dict[str, object] | None = None,
) -> "Encoder":
    """Loads an encoder from a work directory, or from a file or folder of weights of another project (docs/weights.md).

    `step` is the step of a checkpoint in a work directory; None: the newest. `weights` is "params", or "ema" for their
    running average. `overrides` changes keys of the configuration that the weights leave open, such as
    {"model.image_size": 96}. Raises InputError if nothing can be loaded from there.
    """
    if weights not in ("params", "ema"):
        raise InputError(f"weights={weights!r} must be 'params' or 'ema'")
    if not isinstance(where, str | os.PathLike):
        raise InputError(f"load({where!r}): give a work directory, or a file or folder of weights")
    workdir = workdir_of(pathlib.Path(where).expanduser().resolve())  # whatever the current folder is later
    with quiet():
        restored = restore(workdir, step, weights, dict(overrides or {}))
    return Encoder(workdir, restored, dict(overrides or {}))


class Encoder:
    """Turns images into features. Images are whatever `as_records` in `api/images.py` takes, of any size.

    They are resized and cropped to squares as in an evaluation, and encoded in batches on all devices.
    """

    def __init__(self, workdir: pathlib.Path, restored: Restored, overrides: dict[str, object], batch_size: int = 256):
        self.workdir, self.batch_size = workdir, batch_size
        self._restored, self._overrides = restored, overrides

    def __repr__(self) -> str:
        model, step = self.config.model, self._restored.step
        size = f"{model.size}/{model.patch_size} at {model.image_size} px"
        return f"Encoder({size}, step {step}, {str(self.workdir)!r})"

    @property
    def config(self) -> ml_collections.ConfigDict:
        """The configuration of the run."""
        return self._restored.config

    @property
    def params(self) -> dict:
        """The weights of the encoder, a tree of float32 arrays."""
        return self._restored.params["encoder"]

    @property
    def module(self) -> nnx.Module:
        """The encoder as a flax module: images [V, s, s, c] in [-1, 1] to tokens [V, 2 + N, D], rotation first."""
        return nnx.merge(make_graphdefs(self.config)["encoder"], self.params)

    def __call__(self, images: Images, features: str = "concat") -> np.ndarray:
        """Returns features, float32 [n, F]; raises InputError for images or a kind that is not understood.

        `features` is concat (both tokens, F = 2 D), rotation, contrastive, patch_mean, projection (of the contrastive
        head), or tokens, [n, 2, D].
        """
        if features not in KINDS:
            raise InputError(f"features={features!r} must be one of {', '.join(KINDS)}")
        restored = self._with_heads if features == "projection" else self._restored
        return np.concatenate(list(encode_records(restored, self._records(images), features, self.batch_size)))

    def patches(self, images: Images) -> np.ndarray:
        """Returns the features of the patches, float32 [n, side, side, D] with side = s / P."""
        return self(images, "patches")

    def attention(self, images: Images) -> np.ndarray:
        """Returns the attention of both tokens to the patches in the last layer, float32 [n, 2, heads, side, side]."""
        images = self._decoded(self._records(images))
        starts = range(0, len(images), self.batch_size)
        rows = [range(start, min(start + self.batch_size, len(images))) for start in starts]
        maps = [attention_maps(self._restored.params, images.gather(part), self.config) for part in rows]
        return np.concatenate(maps)

    def reconstruct(self, images: Images, seed: int = 0) -> dict[str, np.ndarray]:
        """Corrupts images as in the training and rebuilds them.

        Returns `original`, `corrupted` and `reconstructed`, each float32 [n, s, s, c] in [-1, 1]; reconstructions can
        exceed this range. The images are upright: `rotation` is 0, and `predicted` the predicted quarter turns, int
        [n]. Raises InputError for an encoder without a reconstruction head.
        """
        restored = self._with_heads
        key = named_key(jax.random.key(seed), "reconstruct")
        return reconstructions(
            make_rebuild(restored.config), restored.params, self._decoded(self._records(images)), key
        )

    def similar(self, images: Images, to: Images, count: int = 10) -> tuple[np.ndarray, np.ndarray]:
        """Finds the most similar of `images` to each image of `to`, by cosine similarity of the features.

        Returns (indices into `images`, int64 [m, k]; similarities, float32 [m, k]), best first; k is `count`, or the
        number of images if there are fewer. Raises InputError for a `count` below 1.
        """
        if count < 1:
            raise InputError(f"count={count} must be 1 or more")
        all_features, wanted = unit_rows(self(images)), unit_rows(self(to))
        similarities = wanted @ all_features.T
        best = np.argsort(-similarities, axis=1, kind="stable")[:, :count]
        return best, np.take_along_axis(similarities, best, axis=1)

    def _records(self, images: Images) -> Records:
        return as_records(images, layout_of(self.config.data))

    def _decoded(self, records: Records) -> StreamedImages:
        return StreamedImages(records, self.config.model.image_size, layout=layout_of(self.config.data))

    @functools.cached_property
    def _with_heads(self) -> Restored:
        found = self._restored
        with quiet():
            return restore(self.workdir, found.step, found.weights, self._overrides, with_heads=True)


def unit_rows(features: np.ndarray) -> np.ndarray:
    """Returns features [n, F] with rows of length 1; a row of zeros stays."""
    return features / np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)

"""Reconstructions of corrupted images by the whole model."""

import math
from collections.abc import Callable

import jax
import ml_collections
import numpy as np
from flax import nnx

from sit_jax.common.keys import named_key
from sit_jax.data.load import StreamedImages
from sit_jax.model.build import make_graphdefs
from sit_jax.model.patches import unpatchify
from sit_jax.views import corrupt, whole_images
from sit_jax.views.rotate import random_rotation

BATCH = 32  # maximum images at once
ROWS = ("original", "corrupted", "reconstructed")

Rebuild = Callable[[dict, np.ndarray, jax.Array], dict[str, jax.Array]]


def make_rebuild(config: ml_collections.ConfigDict, rotated: bool = False) -> Rebuild:
    """Returns `rebuild(params, images, key)`: from [B, H, W, c] to the three ROWS, each [B, s, s, c] float32, by name.

    All images are corrupted as the section `corrupt` says. If `rotated`, each is first rotated by 0, 90, 180 or 270
    degrees, equally likely. Values are in [-1, 1]; reconstructions can exceed this range. `rotation` and `predicted`
    are the true and the predicted quarter turns, int32 [B].
    """
    graphdef = make_graphdefs(config)["model"]
    section = config.corrupt.copy_and_resolve_references()
    section.share = 1.0

    @jax.jit
    def rebuild(params: dict, images: jax.Array, key: jax.Array) -> dict[str, jax.Array]:
        clean = whole_images(images, config.model.image_size)
        clean, rotation = random_rotation(named_key(key, "rotate"), clean, turned=0.75 if rotated else 0.0)
        # `corrupt` takes two views of each image; only the first is kept.
        corrupted = corrupt(key, clean.repeat(2, axis=0), section)[0][::2]
        out = nnx.merge(graphdef, params)(corrupted)
        rebuilt = unpatchify(out["patches"], config.model.patch_size)
        turns = {"rotation": rotation, "predicted": out["rotation"].argmax(axis=1)}
        return dict(zip(ROWS, (clean, corrupted, rebuilt), strict=True)) | turns

    return rebuild


def reconstructions(rebuild: Rebuild, params: dict, images: StreamedImages, key: jax.Array) -> dict[str, np.ndarray]:
    """Corrupts and rebuilds images; returns the ROWS, each float32 [n, s, s, c], and the turns, int32 [n], by name.

    They are a function of the key. Replaced blocks come from other images of the same batch. If there is a single
    image, its blocks are not replaced.
    """
    # Batches of about the same size: in a last batch of a single image nothing could be replaced.
    batches = np.array_split(np.arange(len(images)), math.ceil(len(images) / BATCH))
    done = []
    for index, rows in enumerate(batches):
        done.append(jax.device_get(rebuild(params, images.gather(rows), jax.random.fold_in(key, index))))
    return {name: np.concatenate([part[name] for part in done]) for name in done[0]}

"""Features of the frozen encoder: the two tokens after the final norm, of whole images."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from sit_jax.mesh import batch_sharding, replicated
from sit_jax.model import TOKENS
from sit_jax.views import whole_images

Encode = Callable[[dict, jax.Array], jax.Array]


def make_encode(graphdef: nnx.GraphDef, config: ml_collections.ConfigDict, mesh: Mesh) -> Encode:
    """Returns `encode(model_params, images)`: [B, H, W, 3] uint8 to [B, 2D] float32, rotation token first."""

    def encode(model_params: dict, images: jax.Array) -> jax.Array:
        encoder = nnx.merge(graphdef, model_params).encoder
        tokens = encoder(whole_images(images, config.model.image_size))
        return tokens[:, :TOKENS].reshape(len(images), -1).astype(jnp.float32)

    return jax.jit(encode, out_shardings=replicated(mesh))


def extract(encode: Encode, model_params: dict, images: np.ndarray, batch_size: int, mesh: Mesh) -> np.ndarray:
    """Encodes images [N, H, W, 3] uint8, each exactly once, in padded batches; returns [N, 2D] float32.

    Every host must hold all images; each sends its own part of a batch to its devices.
    """
    features = []
    for start in range(0, len(images), batch_size):
        rows = np.arange(start, start + batch_size)
        batch = images[np.minimum(rows, len(images) - 1)]
        features.append(encode(model_params, put_rows(batch, mesh)))
    return np.concatenate(jax.device_get(features))[: len(images)]


def put_rows(batch: np.ndarray, mesh: Mesh) -> jax.Array:
    """Makes a sharded global array of a batch that every host holds whole."""
    sharding = batch_sharding(mesh)
    return jax.make_array_from_callback(batch.shape, sharding, lambda index: batch[index])

"""Features of whole images from the frozen encoder, in evaluation mode."""

from collections.abc import Callable, Iterator

import einops.array_api as einops
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from sit_jax.common.console import with_progress
from sit_jax.model.build import make_graphdefs
from sit_jax.model.heads import project
from sit_jax.model.sizes import TOKENS
from sit_jax.parallel.mesh import batch_sharding, replicated
from sit_jax.views import whole_images

Encode = Callable[[dict, jax.Array], jax.Array]
Gather = Callable[[np.ndarray], np.ndarray]

# [B, T, D] to [B, K, F]: each of the K vectors gets its own classifier.
CLASSIFIED = {
    "tokens": lambda tokens: tokens[:, :TOKENS],
    "concat": lambda tokens: tokens[:, :TOKENS].reshape(len(tokens), 1, -1),
    "rotation": lambda tokens: tokens[:, :1],
    "contrastive": lambda tokens: tokens[:, 1:TOKENS],
    "patch_mean": lambda tokens: tokens[:, TOKENS:].mean(axis=1, keepdims=True),
}


def make_encode(config: ml_collections.ConfigDict, mesh: Mesh, kind: str = "tokens") -> Encode:
    """Returns `encode(params, images)`: from model weights and images [B, H, W, c] to float32 features.

    The kinds of CLASSIFIED give [B, K, F], rotation token first. `projection` gives the contrastive embedding [B, 1, E]
    and needs the weights of its head. `patches` gives the grid [B, side, side, D].
    """
    graphdefs = make_graphdefs(config)

    def encode(params: dict, images: jax.Array) -> jax.Array:
        encoder = nnx.merge(graphdefs["encoder"], params["encoder"])
        tokens = encoder(whole_images(images, config.model.image_size))
        if kind == "projection":
            features = project(nnx.merge(graphdefs["contrastive"], params["contrastive"]), tokens[:, 1])[0][:, None]
        elif kind == "patches":
            side = config.model.image_size // config.model.patch_size
            features = einops.rearrange(tokens[:, TOKENS:], "b (h w) d -> b h w d", h=side)
        else:
            features = CLASSIFIED[kind](tokens.astype(jnp.float32))
        return features.astype(jnp.float32)

    return jax.jit(encode, out_shardings=replicated(mesh))


def extract(encode: Encode, params: dict, gather: Gather, count: int, batch_size: int, mesh: Mesh) -> np.ndarray:
    """Encodes each image once and returns all features, float32 [count, ...]; see `extract_batches`."""
    return np.concatenate(list(extract_batches(encode, params, gather, count, batch_size, mesh)))


def extract_batches(
    encode: Encode, params: dict, gather: Gather, count: int, batch_size: int, mesh: Mesh
) -> Iterator[np.ndarray]:
    """Returns an iterator over features of the images 0 to `count` - 1, batch by batch, with a progress line.

    `gather(rows)` returns images [len(rows), H, W, c]. The batch size is rounded up to a multiple of the device
    count. The last batch is padded, and its padding is removed. Every host must be able to gather all images.
    """
    batch_size = -(-min(batch_size, count) // mesh.size) * mesh.size

    def start_batch(start: int) -> jax.Array:
        rows = np.minimum(np.arange(start, start + batch_size), count - 1)
        return encode(params, put_rows(gather(rows), mesh))

    def batches() -> Iterator[np.ndarray]:
        running = start_batch(0)
        for start in range(0, count, batch_size):
            done = running
            if start + batch_size < count:  # start the next batch before waiting for this one
                running = start_batch(start + batch_size)
            yield np.asarray(done)[: count - start]

    return with_progress(batches(), len, count, "encoding images")


def put_rows(batch: np.ndarray, mesh: Mesh) -> jax.Array:
    """Makes a sharded global array from a batch that every host holds completely."""
    sharding = batch_sharding(mesh)
    return jax.make_array_from_callback(batch.shape, sharding, lambda index: batch[index])

"""Attention maps of the two tokens over a picture, in the last layer of the encoder."""

import jax
import ml_collections
import numpy as np
from flax import nnx

from sit_jax.model.build import make_graphdefs
from sit_jax.model.sizes import TOKENS
from sit_jax.views import whole_images


def attention_maps(params: dict, images: np.ndarray, config: ml_collections.ConfigDict) -> np.ndarray:
    """Returns the attention of both tokens to the patches in the last layer, rotation token first.

    `images` is [B, H, W, c]; `params` holds `encoder`. The result is float32 [B, 2, heads, side, side] with
    side = s / P. Each map [side, side] sums to at most 1; the rest is the attention to the two tokens.
    """
    graphdef = make_graphdefs(config)["encoder"]
    side = config.model.image_size // config.model.patch_size

    @jax.jit
    def last_weights(params: dict, images: jax.Array) -> jax.Array:
        encoder = nnx.merge(graphdef, params["encoder"])
        weights = encoder.attention_weights(whole_images(images, config.model.image_size))
        maps = weights[:, :, :TOKENS, TOKENS:].swapaxes(1, 2)
        return maps.reshape(*maps.shape[:-1], side, side)

    return np.asarray(last_weights(params, images))

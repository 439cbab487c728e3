"""From a resolved configuration to the model."""

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from sit_jax.model.vit import SiT


def make_model(config: ml_collections.ConfigDict, key: jax.Array) -> SiT:
    """Makes the model of a resolved configuration."""
    return SiT(**config.model, dtype=jnp.dtype(config.dtype), rngs=nnx.Rngs(key))


def make_graphdef(config: ml_collections.ConfigDict, part: str | None = None) -> nnx.GraphDef:
    """Returns the static half of the model, or of its part `encoder`, `rotation`, `contrastive` or `reconstruction`."""
    model = nnx.eval_shape(lambda: make_model(config, jax.random.key(0)))
    return nnx.split(getattr(model, part) if part else model, nnx.Param)[0]

"""Makes the model of a resolved configuration."""

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from sit_jax.model.fast.compute import Compute
from sit_jax.model.tasks import TASKS
from sit_jax.model.vit import SiT


def make_compute(config: ml_collections.ConfigDict) -> Compute:
    """Returns the computation settings of a resolved configuration."""
    model = config.model
    return Compute(jnp.dtype(config.dtype), model.products, model.attention, model.remat, model.unroll, model.halves)


def make_model(config: ml_collections.ConfigDict, key: jax.Array) -> SiT:
    """Makes the model of a resolved configuration."""
    return SiT(config.model, make_compute(config), rngs=nnx.Rngs(key))


def make_graphdefs(config: ml_collections.ConfigDict) -> dict[str, nnx.GraphDef]:
    """Returns the graph definitions of the `model`, of its `encoder` and of each task's head, by name."""
    model = nnx.eval_shape(lambda: make_model(config, jax.random.key(0)))
    parts = {"model": model, "encoder": model.encoder, **{name: getattr(model, name) for name in TASKS}}
    return {name: nnx.split(part, nnx.Param)[0] for name, part in parts.items()}

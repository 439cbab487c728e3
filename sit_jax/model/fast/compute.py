"""Settings of the computation."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is computed; no setting changes the model's function by more than rounding.

    `sit_jax.config.computation` chooses the settings for a device.
    """

    dtype: jnp.dtype  # of the computation; parameters are float32
    products: str  # if dtype is float32, "bfloat16" rounds the factors of dense products
    attention: str  # "xla" or "cudnn"
    remat: bool  # rematerialisation: recompute each layer in the backward pass
    unroll: bool  # compile each layer separately instead of a loop over the layers
    halves: bool  # in training on a mesh of one device, run the two halves of the rows concurrently

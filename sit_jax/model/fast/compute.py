"""How a model is computed."""

import dataclasses

import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class Compute:
    """How a model is computed: nothing here changes its function by more than rounding.

    `sit_jax.config.computation` chooses what suits a device.
    """

    dtype: jnp.dtype  # of the computation; parameters are float32
    products: str  # in float32, "bfloat16" rounds the factors of dense products
    attention: str  # "xla" or "cudnn"
    remat: bool  # recompute each layer in the backward pass
    unroll: bool  # compile each layer for itself instead of a loop over them
    halves: bool  # run two halves of the rows side by side in training, on a mesh of one device

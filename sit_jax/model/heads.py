"""The heads of SiT: from tokens to pixels, to rotation logits and to the contrastive embedding (section 3)."""

import itertools

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from sit_jax.model.fast.gelu import gelu
from sit_jax.model.layers import linear, patch_init

PROJECTOR_RATIO = 4  # width of the hidden layers of the contrastive head over that of the tokens, as in the MLPs
BATCH_NORM_EPSILON = 1e-5

Statistics = dict[str, jax.Array]  # `mean` and `var`, [F] each


class ReconstructionHead(nnx.Module):
    """One linear layer from a patch token to its pixels, [..., D] to [..., P * P * 3]; one bias a channel."""

    def __init__(self, width: int, patch_size: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        pixels = patch_size * patch_size * 3
        self.linear = linear(width, pixels, rngs, dtype, use_bias=False, init=patch_init(patch_size))
        self.bias = nnx.Param(jnp.zeros(3))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the pixels of each patch, float32."""
        pixels = self.linear(x).astype(jnp.float32)
        return pixels + jnp.tile(self.bias[...], pixels.shape[-1] // 3)


def projector_sizes(width: int, layers: int, hidden: int | None, embedding_size: int) -> list[tuple[int, int]]:
    """Returns (inputs, outputs) of each dense layer of the contrastive head."""
    return list(itertools.pairwise([width, *[hidden or PROJECTOR_RATIO * width] * (layers - 1), embedding_size]))


def projector_products(model: ml_collections.ConfigDict, width: int) -> int:
    """Returns the multiplications of the contrastive head for one view; `model` is the section of a configuration."""
    sizes = projector_sizes(width, model.projector_layers, model.projector_width, model.embedding_size)
    return sum(inputs * outputs for inputs, outputs in sizes)


class BatchNorm(nnx.Module):
    """Batch normalisation of rows [V, F] (arXiv 1502.03167), in float32.

    In training it takes the statistics of the rows that it is given, which are those of the global batch, and returns
    them; in evaluation it takes its `mean` and `var`, whose gradients are zero: the step sets them to running averages.
    """

    def __init__(self, features: int):
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
        self.mean, self.var = nnx.Param(jnp.zeros(features)), nnx.Param(jnp.ones(features))

    def __call__(self, x: jax.Array, training: bool) -> tuple[jax.Array, Statistics]:
        """Returns the normalised rows and the statistics that they were normalised by."""
        x = x.astype(jnp.float32)
        mean, var = (x.mean(axis=0), x.var(axis=0)) if training else (self.mean[...], self.var[...])
        normalised = (x - mean) * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
        return normalised * self.scale[...] + self.bias[...], {"mean": mean, "var": var}


class Projector(nnx.Module):
    """The contrastive head, [V, D] to [V, E]: `layers` dense layers, each but the last followed by GELU.

    With `norm` "batch", a batch normalisation follows each dense layer, the last one too.
    """

    def __init__(
        self,
        width: int,
        layers: int,
        hidden: int | None,
        norm: str,
        embedding_size: int,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.layers, self.norm = layers, norm
        for index, (inputs, outputs) in enumerate(projector_sizes(width, layers, hidden, embedding_size)):
            # The normalisation would take a bias away again.
            setattr(self, f"layer{index}", linear(inputs, outputs, rngs, dtype, use_bias=norm != "batch"))
            if norm == "batch":
                setattr(self, f"norm{index}", BatchNorm(outputs))

    def __call__(self, x: jax.Array, training: bool = False) -> tuple[jax.Array, dict[str, Statistics]]:
        """Returns the embedding, and the statistics of the batch normalisations by their names."""
        statistics = {}
        for index in range(self.layers):
            x = getattr(self, f"layer{index}")(x)
            if self.norm == "batch":
                x, statistics[f"norm{index}"] = getattr(self, f"norm{index}")(x, training)
            x = gelu(x) if index < self.layers - 1 else x
        return x, statistics


def make_projector(
    model: ml_collections.ConfigDict, width: int, dtype: jnp.dtype, rngs: nnx.Rngs
) -> "nnx.Linear | Projector":
    """Makes the contrastive head: one dense layer in the paper, or a Projector.

    Of the section `model`, `projector_layers` counts the dense layers, `projector_width` is the width of the hidden
    ones (None: four times the width of the tokens), `projector_norm` is "none" or "batch".
    """
    if model.projector_layers == 1 and model.projector_norm == "none":
        return linear(width, model.embedding_size, rngs, dtype)
    hidden, norm = model.projector_width, model.projector_norm
    return Projector(width, model.projector_layers, hidden, norm, model.embedding_size, dtype, rngs)


def project(
    head: nnx.Linear | Projector, token: jax.Array, training: bool = False
) -> tuple[jax.Array, dict[str, Statistics]]:
    """Applies the contrastive head to tokens [V, D].

    Returns the embedding, float32 [V, E], and the statistics of its batch normalisations, where there are some. In
    training these are taken over the V rows, which have to be the whole batch.
    """
    embedding, statistics = head(token, training) if isinstance(head, Projector) else (head(token), {})
    return embedding.astype(jnp.float32), statistics

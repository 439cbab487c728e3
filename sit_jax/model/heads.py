"""The heads of SiT (section 3): tokens to pixels, to rotation logits and to the contrastive embedding."""

import itertools

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from sit_jax.model.fast.gelu import gelu
from sit_jax.model.layers import linear, patch_init

PROJECTOR_RATIO = 4  # hidden width of the contrastive head over D, as in the encoder's MLPs
BATCH_NORM_EPSILON = 1e-5

Statistics = dict[str, jax.Array]  # `mean` and `var`, [F] each


class ReconstructionHead(nnx.Module):
    """One linear layer from a patch token to its pixels, [..., D] to [..., P * P * c], with one bias per channel."""

    def __init__(self, width: int, patch_size: int, channels: int, dtype: jnp.dtype, rngs: nnx.Rngs):
        pixels = patch_size * patch_size * channels
        self.linear = linear(width, pixels, rngs, dtype, use_bias=False, init=patch_init(patch_size, channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: jax.Array) -> jax.Array:
        """Returns the pixels of each patch in float32."""
        pixels = self.linear(x).astype(jnp.float32)
        return pixels + jnp.tile(self.bias[...], pixels.shape[-1] // len(self.bias[...]))


def projector_sizes(width: int, layers: int, hidden: int | None, embedding_size: int) -> list[tuple[int, int]]:
    """Returns (inputs, outputs) of each dense layer of the contrastive head."""
    return list(itertools.pairwise([width, *[hidden or PROJECTOR_RATIO * width] * (layers - 1), embedding_size]))


def projector_products(model: ml_collections.ConfigDict, width: int) -> int:
    """Returns the multiplications of the contrastive head for one view; `model` is the section `model`."""
    sizes = projector_sizes(width, model.projector_layers, model.projector_width, model.embedding_size)
    return sum(inputs * outputs for inputs, outputs in sizes)


class BatchNorm(nnx.Module):
    """Batch normalisation of rows [V, F] in float32 (arXiv 1502.03167).

    In training, it normalises by the statistics of its input, which must be the global batch. In evaluation, it
    normalises by `mean` and `var`. Training does not read these two, so their gradients are zero; the step sets them to
    running averages.
    """

    def __init__(self, features: int):
        self.scale, self.bias = nnx.Param(jnp.ones(features)), nnx.Param(jnp.zeros(features))
        self.mean, self.var = nnx.Param(jnp.zeros(features)), nnx.Param(jnp.ones(features))

    def __call__(self, x: jax.Array, training: bool) -> tuple[jax.Array, Statistics]:
        """Returns the normalised rows and the statistics used."""
        x = x.astype(jnp.float32)
        mean, var = (x.mean(axis=0), x.var(axis=0)) if training else (self.mean[...], self.var[...])
        normalised = (x - mean) * jax.lax.rsqrt(var + BATCH_NORM_EPSILON)
        return normalised * self.scale[...] + self.bias[...], {"mean": mean, "var": var}


class Projector(nnx.Module):
    """The contrastive head, [V, D] to [V, E]: `layers` dense layers with GELU between them.

    If `norm` is "batch", a batch normalisation follows each dense layer, including the last.
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
            # Batch normalisation would cancel a bias.
            setattr(self, f"layer{index}", linear(inputs, outputs, rngs, dtype, use_bias=norm != "batch"))
            if norm == "batch":
                setattr(self, f"norm{index}", BatchNorm(outputs))

    def __call__(self, x: jax.Array, training: bool = False) -> tuple[jax.Array, dict[str, Statistics]]:
        """Returns the embedding and the statistics of the batch normalisations by layer name."""
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
    """Makes the contrastive head: one dense layer as in the paper, or a Projector.

    In the section `model`, `projector_layers` is the number of dense layers, `projector_width` is the hidden width
    (None: 4 D), and `projector_norm` is "none" or "batch".
    """
    if model.projector_layers == 1 and model.projector_norm == "none":
        return linear(width, model.embedding_size, rngs, dtype)
    hidden, norm = model.projector_width, model.projector_norm
    return Projector(width, model.projector_layers, hidden, norm, model.embedding_size, dtype, rngs)


def project(
    head: nnx.Linear | Projector, token: jax.Array, training: bool = False
) -> tuple[jax.Array, dict[str, Statistics]]:
    """Applies the contrastive head to tokens [V, D].

    Returns the embedding, float32 [V, E], and the statistics of the batch normalisations, {} without any. In training,
    the statistics are taken over the V rows, which must be the whole batch.
    """
    embedding, statistics = head(token, training) if isinstance(head, Projector) else (head(token), {})
    return embedding.astype(jnp.float32), statistics

"""The Vision Transformer with a rotation token, a contrastive token and three heads (SiT, section 3).

The functions from `model/fast/` compute what their names say; their code is separate because it is tuned for speed.
"""

import jax
import jax.numpy as jnp
import ml_collections
from flax import nnx

from sit_jax.model.fast import matrix_unit
from sit_jax.model.fast.attention import attention_weights, self_attention
from sit_jax.model.fast.compute import Compute
from sit_jax.model.fast.dense import rows
from sit_jax.model.fast.gelu import gelu
from sit_jax.model.fast.layers import last_layer, run_layers
from sit_jax.model.fast.norm import layer_norm
from sit_jax.model.layers import INIT, linear, patch_init
from sit_jax.model.patches import patchify
from sit_jax.model.sizes import PATCHES, SIZES, TOKENS, token_count
from sit_jax.model.stem import ConvolutionStem
from sit_jax.model.tasks import TASKS


class Attention(nnx.Module):
    """Multi-head self-attention, [V, T, D] to [V, T, D]; the softmax is in float32."""

    def __init__(self, width: int, heads: int, compute: Compute, rngs: nnx.Rngs):
        self.heads, self.implementation = heads, compute.attention
        self.qkv = linear(width, 3 * width, rngs, compute.dtype)
        self.out = linear(width, width, rngs, compute.dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Lets every token attend to all tokens."""
        return rows(self.out, self_attention(self.qkv, x, self.heads, self.implementation))


class Block(nnx.Module):
    """Pre-norm transformer layer with stochastic depth, [V, T, D] to [V, T, D]."""

    def __init__(self, width: int, mlp: int, heads: int, compute: Compute, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.attention = Attention(width, heads, compute, rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.mlp_in = linear(width, mlp, rngs, compute.dtype)
        self.mlp_out = linear(mlp, width, rngs, compute.dtype)

    def __call__(self, x: jax.Array, rate: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Runs the layer at drop-path rate `rate` []; `keys` [V], one per row, turn stochastic depth on."""
        x = x + drop_path(self.attention(layer_norm(self.norm1, x)), rate, keys, 0)
        hidden = gelu(rows(self.mlp_in, layer_norm(self.norm2, x)))
        return x + drop_path(rows(self.mlp_out, hidden), rate, keys, 1)


def drop_path(x: jax.Array, rate: jax.Array, keys: jax.Array | None, branch: int) -> jax.Array:
    """Drops each row's branch with probability `rate`, else scales it by 1 / (1 - rate); without keys, returns `x`."""
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, branch), 1 - rate))(keys)
    return x * (keep / (1 - rate)).astype(x.dtype)[:, None, None]


class Encoder(nnx.Module):
    """Encodes images [V, s, s, c] in [-1, 1] to tokens [V, 2 + N, D] after the final norm.

    The tokens are in the order rotation, contrastive, patches.
    """

    def __init__(
        self,
        size: str,
        patch_size: int,
        image_size: int,
        channels: int,
        stem: str,
        drop_path: float,
        compute: Compute,
        rngs: nnx.Rngs,
    ):
        self.width, self.depth, mlp, heads = SIZES[size]
        self.patch_size, self.drop_path, self.compute = patch_size, drop_path, compute
        pixels = patch_size * patch_size * channels
        self.patch_embedding = (
            ConvolutionStem(self.width, patch_size, channels, compute.dtype, rngs)
            if stem == "convolutions"
            else linear(pixels, self.width, rngs, compute.dtype, init=patch_init(patch_size, channels))
        )
        self.tokens = nnx.Param(INIT(rngs.params(), (TOKENS, self.width)))
        self.position_embedding = nnx.Param(INIT(rngs.params(), (token_count(image_size, patch_size), self.width)))

        @nnx.split_rngs(splits=self.depth)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make_blocks(rngs: nnx.Rngs) -> Block:
            return Block(self.width, mlp, heads, compute, rngs)

        self.blocks = make_blocks(rngs)
        self.norm = nnx.LayerNorm(self.width, epsilon=1e-6, rngs=rngs)

    def __call__(self, images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Encodes images of any side divisible by the patch side; `keys` [V], one per row, turn stochastic depth on."""
        return layer_norm(self.norm, self._run(self._embed(images), keys, self.depth))

    def attention_weights(self, images: jax.Array) -> jax.Array:
        """Returns the last layer's attention weights, float32 [V, heads, T, T]: queries on axis 2, keys on axis 3."""
        x, last = self._run(self._embed(images), None, self.depth - 1), last_layer(self.blocks)
        return attention_weights(last.attention.qkv, layer_norm(last.norm1, x), last.attention.heads)

    def _embed(self, images: jax.Array) -> jax.Array:
        if isinstance(self.patch_embedding, ConvolutionStem):
            x = self.patch_embedding(images)
        else:
            x = rows(self.patch_embedding, patchify(images.astype(self.compute.dtype), self.patch_size))
        tokens = jnp.broadcast_to(self.tokens[...].astype(x.dtype), (x.shape[0], TOKENS, self.width))
        position = resize_position_embedding(self.position_embedding[...], images.shape[1] // self.patch_size)
        return jnp.concatenate([tokens, x], axis=1) + position.astype(x.dtype)

    def _run(self, x: jax.Array, keys: jax.Array | None, count: int) -> jax.Array:
        """Runs the first `count` layers; the drop-path rate grows linearly from 0 to `drop_path` at the last layer."""
        rates = jnp.linspace(0.0, self.drop_path, self.depth)[:count]
        return run_layers(self.blocks, x, keys, rates, bool(self.drop_path), self.compute)


class SiT(nnx.Module):
    """The encoder and the heads of all tasks (SiT, section 3).

    `model` is the section `model` of a configuration. `size` is a key of SIZES. `image_size` is a multiple of
    `patch_size`, both in pixels. `channels` is the number of channels of an image. `stem` is "patches" for one linear
    layer from a patch to its token, or "convolutions" for a ConvolutionStem. `norm_epsilon` is that of the layer norms.
    `drop_path` is the drop-path rate of the
    last layer. The other keys configure the heads (`model/heads.py`) and the computation (`model/build.py`).
    """

    def __init__(self, model: ml_collections.ConfigDict, compute: Compute, *, rngs: nnx.Rngs):
        self.encoder = Encoder(
            *(model.size, model.patch_size, model.image_size, model.channels, model.stem, model.drop_path),
            compute=compute,
            rngs=rngs,
        )
        for _, layer in nnx.iter_modules(self.encoder):
            if isinstance(layer, nnx.LayerNorm):
                layer.epsilon = model.norm_epsilon
        for name in heads_in_order():
            setattr(self, name, TASKS[name].make_head(model, self.encoder.width, compute.dtype, rngs))
        if compute.products == "bfloat16" and compute.dtype == jnp.float32:
            matrix_unit.use(self)

    def __call__(self, images: jax.Array, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Runs the encoder and the heads on images [V, s, s, c] in [-1, 1]; `keys` [V] turn stochastic depth on.

        Returns float32 arrays: `rotation` logits [V, 4], `token` [V, D], which is the input of the contrastive head,
        and `patches` [V, N, P * P * c].
        """
        tokens, outputs = self.encoder(images, keys), {}
        for name, task in TASKS.items():
            x = tokens[:, TOKENS:] if task.reads == PATCHES else tokens[:, task.reads]
            outputs[task.output] = (x if task.whole_batch else getattr(self, name)(x)).astype(jnp.float32)
        return outputs


def heads_in_order() -> list[str]:
    """Returns the tasks in the order in which their heads draw initial weights: the order of their tokens."""
    return sorted(TASKS, key=lambda name: TASKS[name].reads)


def resize_position_embedding(position: jax.Array, side: int) -> jax.Array:
    """Resizes the patch positions to side x side (bicubic), [2 + N, D] to [2 + side^2, D]; both tokens keep theirs."""
    old_side = round((len(position) - TOKENS) ** 0.5)
    if old_side == side:
        return position
    grid = position[TOKENS:].reshape(old_side, old_side, -1)
    grid = jax.image.resize(grid, (side, side, grid.shape[-1]), "cubic", antialias=True)
    return jnp.concatenate([position[:TOKENS], grid.reshape(side * side, -1)])

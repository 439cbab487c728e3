"""The Vision Transformer with a rotation token and a contrastive token, and its three heads (SiT, section 3)."""

import einops.array_api as einops
import jax
import jax.numpy as jnp
from flax import nnx

from sit_jax.model.fast import matrix_unit
from sit_jax.model.fast.attention import attend, softmax_weights
from sit_jax.model.fast.dense import rows
from sit_jax.model.fast.gelu import gelu
from sit_jax.model.fast.norm import layer_norm
from sit_jax.model.heads import Projector, ReconstructionHead
from sit_jax.model.layers import INIT, linear, patch_init
from sit_jax.model.stem import ConvolutionStem
from sit_jax.parallel.mesh import gather, keep_row_major, pin_batch

# Width, depth, width of the MLP, heads: table 2 of arXiv 2106.04560; "mu" is for tests, "XS" for laptops.
SIZES = {
    "mu": (32, 1, 128, 2),
    "XS": (128, 6, 512, 4),
    "Ti": (192, 12, 768, 3),
    "S": (384, 12, 1536, 6),
    "M": (512, 12, 2048, 8),
    "B": (768, 12, 3072, 12),
    "L": (1024, 24, 4096, 16),
    "H": (1280, 32, 5120, 16),
    "g": (1408, 40, 6144, 16),
}
TOKENS = 2  # the rotation token and the contrastive token, in this order, before the patches


def token_count(image_size: int, patch_size: int) -> int:
    """Returns how many tokens the encoder has for square images: two and one for each patch."""
    return TOKENS + (image_size // patch_size) ** 2


class Attention(nnx.Module):
    """Multi-head self-attention, [V, T, D] to [V, T, D], softmax in float32."""

    def __init__(self, width: int, heads: int, implementation: str, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.heads, self.implementation = heads, implementation
        self.qkv = linear(width, 3 * width, rngs, dtype)
        self.out = linear(width, width, rngs, dtype)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Attends from every token to every token."""
        if self.implementation == "cudnn":
            x = jax.nn.dot_product_attention(*self.project_apart(x), implementation="cudnn")
            return rows(self.out, einops.rearrange(x, "v t h d -> v t (h d)"))
        return rows(self.out, einops.rearrange(attend(*self.project(x)), "v h t d -> v t (h d)"))

    def project(self, x: jax.Array) -> jax.Array:
        """Returns queries, keys and values, [3, V, heads, T, d]."""
        return einops.rearrange(rows(self.qkv, x), "v t (n h d) -> n v h t d", n=3, h=self.heads)

    def project_apart(self, x: jax.Array) -> list[jax.Array]:
        """Returns queries, keys and values, [V, T, heads, d] each, of a product for each.

        cuDNN takes each of them in one piece: cut out of the result of one product, all would be copied.
        """
        assert self.qkv.bias is not None
        flat = x.reshape(-1, x.shape[-1])
        # Gathered before they are cut, as devices that share them out cut them elsewhere.
        whole = (gather(parameter[...].astype(x.dtype)) for parameter in (self.qkv.kernel, self.qkv.bias))
        kernels, biases = (jnp.split(parameter, 3, axis=-1) for parameter in whole)
        products = [flat @ kernel + bias for kernel, bias in zip(kernels, biases, strict=True)]
        return [product.reshape(*x.shape[:2], self.heads, -1) for product in products]

    def weights(self, x: jax.Array) -> jax.Array:
        """Returns how much each token reads from each, float32 [V, heads, T, T], rows that sum to 1."""
        q, k, _ = self.project(x)
        return softmax_weights(q, k)


class Block(nnx.Module):
    """One pre-norm transformer layer, [V, T, D] to [V, T, D], with stochastic depth."""

    def __init__(self, width: int, mlp: int, heads: int, attention: str, dtype: jnp.dtype, rngs: nnx.Rngs):
        self.norm1 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.attention = Attention(width, heads, attention, dtype, rngs)
        self.norm2 = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)
        self.mlp_in = linear(width, mlp, rngs, dtype)
        self.mlp_out = linear(mlp, width, rngs, dtype)

    def __call__(self, x: jax.Array, rate: jax.Array, keys: jax.Array | None) -> jax.Array:
        """Runs the layer; `rate` [] is its drop-path rate, `keys` [V] one key a row, None in evaluation."""
        x = x + drop_path(self.attention(layer_norm(self.norm1, x)), rate, keys, 0)
        hidden = gelu(rows(self.mlp_in, layer_norm(self.norm2, x)))
        return x + drop_path(rows(self.mlp_out, hidden), rate, keys, 1)


def drop_path(x: jax.Array, rate: jax.Array, keys: jax.Array | None, branch: int) -> jax.Array:
    """Drops the branch of a row with probability `rate` and scales the others up; without keys, does nothing."""
    if keys is None:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(jax.random.fold_in(key, branch), 1 - rate))(keys)
    return x * (keep / (1 - rate)).astype(x.dtype)[:, None, None]


class Encoder(nnx.Module):
    """Patches to tokens: [V, s, s, 3] in [-1, 1] to [V, 2 + N, D] after the final norm; rotation token first."""

    def __init__(
        self,
        size: str,
        patch_size: int,
        image_size: int,
        stem: str,
        drop_path: float,
        remat: bool,
        unroll: bool,
        halves: bool,
        attention: str,
        dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        width, depth, mlp, heads = SIZES[size]
        self.width, self.depth, self.patch_size = width, depth, patch_size
        self.drop_path, self.remat, self.unroll, self.halves, self.dtype = drop_path, remat, unroll, halves, dtype
        pixels = patch_size * patch_size * 3
        self.patch_embedding = (
            ConvolutionStem(width, patch_size, dtype, rngs)
            if stem == "convolutions"
            else linear(pixels, width, rngs, dtype, init=patch_init(patch_size))
        )
        self.tokens = nnx.Param(INIT(rngs.params(), (TOKENS, width)))
        self.position_embedding = nnx.Param(INIT(rngs.params(), (token_count(image_size, patch_size), width)))

        @nnx.split_rngs(splits=depth)
        @nnx.vmap(in_axes=(0,), out_axes=0)
        def make_blocks(rngs: nnx.Rngs) -> Block:
            return Block(width, mlp, heads, attention, dtype, rngs)

        self.blocks = make_blocks(rngs)
        self.norm = nnx.LayerNorm(width, epsilon=1e-6, rngs=rngs)

    def __call__(self, images: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Encodes images of any side that the patch divides; one key a row [V] turns stochastic depth on."""
        x = self._run_blocks(self._embed(images), keys, self.depth)
        return layer_norm(self.norm, x)

    def attention_weights(self, images: jax.Array) -> jax.Array:
        """Returns the attention of the last layer, float32 [V, heads, T, T]: from which (axis 2), to which token."""
        x = self._run_blocks(self._embed(images), None, self.depth - 1)
        graphdef, stacked = nnx.split(self.blocks, nnx.Param)
        last = nnx.merge(graphdef, jax.tree.map(lambda leaf: leaf[-1], stacked))
        return last.attention.weights(layer_norm(last.norm1, x))

    def _embed(self, images: jax.Array) -> jax.Array:
        if isinstance(self.patch_embedding, ConvolutionStem):
            x = self.patch_embedding(images)
        else:
            x = rows(self.patch_embedding, patchify(images.astype(self.dtype), self.patch_size))
        tokens = jnp.broadcast_to(self.tokens[...].astype(self.dtype), (len(x), TOKENS, self.width))
        position = resize_position_embedding(self.position_embedding[...], images.shape[1] // self.patch_size)
        return jnp.concatenate([tokens, x], axis=1) + position.astype(self.dtype)

    def _run_blocks(self, x: jax.Array, keys: jax.Array | None, count: int) -> jax.Array:
        """Runs the first `count` layers.

        With `halves`, in training, on a mesh of one device, an even number of rows runs in two halves, and neither
        needs the other: while one leaves cores of a CPU idle, between products and where work cannot be divided, the
        other one uses them. Several devices fill the cores without it, and would add up gradients twice.
        """
        half, odd = divmod(len(x), 2)
        if keys is None or not self.halves or odd or jax.sharding.get_abstract_mesh().size != 1:
            return self._run_layers(x, keys, count)
        halves = self._run_layers(x[:half], keys[:half], count), self._run_layers(x[half:], keys[half:], count)
        return jnp.concatenate(halves)

    def _run_layers(self, x: jax.Array, keys: jax.Array | None, count: int) -> jax.Array:
        graphdef, stacked = nnx.split(self.blocks, nnx.Param)

        def layer(x: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
            params, rate, index = inputs
            layer_keys = None
            if keys is not None and self.drop_path:
                layer_keys = jax.vmap(jax.random.fold_in, (0, None))(keys, index)
            x = keep_row_major(pin_batch(x)) if self.unroll else pin_batch(x)
            return nnx.merge(graphdef, params)(x, rate, layer_keys), None

        layers = (stacked, jnp.linspace(0.0, self.drop_path, self.depth), jnp.arange(self.depth))
        # A loop keeps the recomputation apart from the forward pass; without one, XLA may take them for the same.
        layer = jax.checkpoint(layer, prevent_cse=self.unroll) if self.remat else layer
        return jax.lax.scan(layer, x, jax.tree.map(lambda leaf: leaf[:count], layers), unroll=self.unroll)[0]


class SiT(nnx.Module):
    """The encoder and its three heads (SiT, section 3).

    `size` is a key of SIZES, `image_size` a multiple of `patch_size`, both in pixels; `stem` "patches" is one linear
    layer from a patch to its token, "convolutions" a ConvolutionStem; `drop_path` is the rate of the last layer;
    `projector_layers` counts the dense layers of the contrastive head, 1 in the paper, `projector_width` is the width
    of its hidden ones (None: four times that of the tokens), `projector_norm` "none" or "batch"; `remat` recomputes
    each layer in the backward pass; `unroll` compiles each layer for itself instead of a loop; `halves` runs two halves
    of the rows side by side in training, on a mesh of one device; `attention` is "xla" or "cudnn"; `dtype` is the type
    of the computation (parameters are float32); in float32, `products` "bfloat16" has the factors of dense products
    rounded. `sit_jax.config.computation` chooses what suits a device.
    """

    def __init__(
        self,
        size: str,
        patch_size: int,
        image_size: int,
        stem: str = "patches",
        drop_path: float = 0.1,
        embedding_size: int = 512,
        projector_layers: int = 1,
        projector_width: int | None = None,
        projector_norm: str = "none",
        remat: bool = False,
        unroll: bool = False,
        halves: bool = False,
        attention: str = "xla",
        products: str = "float32",
        dtype: jnp.dtype = jnp.float32,
        *,
        rngs: nnx.Rngs,
    ):
        self.encoder = Encoder(
            size, patch_size, image_size, stem, drop_path, remat, unroll, halves, attention, dtype, rngs
        )
        width = self.encoder.width
        self.rotation = linear(width, 4, rngs, dtype)
        self.contrastive = (
            linear(width, embedding_size, rngs, dtype)
            if projector_layers == 1 and projector_norm == "none"
            else Projector(width, projector_layers, projector_width, projector_norm, embedding_size, dtype, rngs)
        )
        self.reconstruction = ReconstructionHead(width, patch_size, dtype, rngs)
        if products == "bfloat16" and dtype == jnp.float32:
            matrix_unit.use(self)

    def __call__(self, images: jax.Array, keys: jax.Array | None = None) -> dict[str, jax.Array]:
        """Runs encoder and heads on [V, s, s, 3] in [-1, 1]; `keys` [V], one a row, turn stochastic depth on.

        Returns float32 `rotation` logits [V, 4], `token` [V, D], which the contrastive head takes, and `patches`
        [V, N, P * P * 3].
        """
        tokens = self.encoder(images, keys)
        return {
            "rotation": self.rotation(tokens[:, 0]).astype(jnp.float32),
            "token": tokens[:, 1].astype(jnp.float32),
            "patches": self.reconstruction(tokens[:, TOKENS:]),
        }


def patchify(images: jax.Array, patch_size: int) -> jax.Array:
    """Cuts [V, s, s, 3] into patches [V, N, P * P * 3], row by row."""
    pattern = "v (h p) (w q) c -> v (h w) (p q c)"
    return einops.rearrange(images, pattern, p=patch_size, q=patch_size)


def unpatchify(patches: jax.Array, patch_size: int) -> jax.Array:
    """Puts patches [V, N, P * P * 3] of square images together again, [V, s, s, 3]."""
    side = round(patches.shape[1] ** 0.5)
    pattern = "v (h w) (p q c) -> v (h p) (w q) c"
    return einops.rearrange(patches, pattern, h=side, p=patch_size, q=patch_size)


def resize_position_embedding(position: jax.Array, side: int) -> jax.Array:
    """Resizes position embeddings [2 + n * n, D] to a grid of side x side patches (bicubic); the tokens keep theirs."""
    old_side = round((len(position) - TOKENS) ** 0.5)
    if old_side == side:
        return position
    grid = position[TOKENS:].reshape(old_side, old_side, -1)
    grid = jax.image.resize(grid, (side, side, grid.shape[-1]), "cubic", antialias=True)
    return jnp.concatenate([position[:TOKENS], grid.reshape(side * side, -1)])

"""The Vision Transformer with a rotation token and a contrastive token, and its three heads (SiT, section 3)."""

import itertools
import math

# The array_api variant never looks for other frameworks, such as a TensorFlow that cannot be imported.
import einops.array_api as einops
import jax
import jax.numpy as jnp
from flax import nnx

from sit_jax import matrix_unit
from sit_jax.attention import attend, softmax_weights
from sit_jax.mesh import gather, keep_row_major, pin_batch
from sit_jax.norm import layer_norm
from sit_jax.stem import ConvolutionStem

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
PROJECTOR_RATIO = 4  # width of the hidden layers of the contrastive head over that of the tokens, as in the MLPs
BATCH_NORM_EPSILON = 1e-5
TOKENS = 2  # the rotation token and the contrastive token, in this order, before the patches
INIT = nnx.initializers.normal(0.02)

Statistics = dict[str, jax.Array]  # `mean` and `var`, [F] each


def token_count(image_size: int, patch_size: int) -> int:
    """Returns how many tokens the encoder has for square images: two and one for each patch."""
    return TOKENS + (image_size // patch_size) ** 2


def linear(
    inputs: int,
    outputs: int,
    rngs: nnx.Rngs,
    dtype: jnp.dtype,
    use_bias: bool = True,
    init: nnx.initializers.Initializer = INIT,
) -> nnx.Linear:
    """Makes a dense layer with the paper's initialisation, a standard deviation of 0.02, and zero bias."""
    return nnx.Linear(inputs, outputs, use_bias=use_bias, kernel_init=init, dtype=dtype, rngs=rngs)


def patch_init(patch_size: int) -> nnx.initializers.Initializer:
    """Returns how layers to and from pixels start: uniform in +-1 / sqrt(3 P^2), as convolutions of PyTorch do."""
    bound = 1 / math.sqrt(3 * patch_size**2)
    return lambda key, shape, dtype=jnp.float32, **_: jax.random.uniform(key, shape, dtype, -bound, bound)


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


def rows(layer: nnx.Linear, x: jax.Array) -> jax.Array:
    """Applies a dense layer to the last axis of `x`, as a product of two matrices.

    With more axes, XLA transposes a factor of the gradient on CPU, which costs a twentieth of the step.
    """
    return layer(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], -1)


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


@jax.custom_vjp
def gelu(x: jax.Array) -> jax.Array:
    """Returns x times the distribution function of the standard normal distribution at x; keeps only x to go back."""
    return (x * normal_cdf(x.astype(jnp.float32))).astype(x.dtype)


def normal_cdf(x: jax.Array) -> jax.Array:
    """Returns the distribution function of the standard normal distribution."""
    return 0.5 * (1 + jax.lax.erf(x * math.sqrt(0.5)))


def _gelu_gradient(x: jax.Array, gradient: jax.Array) -> tuple[jax.Array]:
    # Without a barrier, XLA keeps the distribution function of the forward pass: as large an array as x again.
    wide = jax.lax.optimization_barrier(x).astype(jnp.float32)
    density = jnp.exp(-0.5 * wide**2) / math.sqrt(2 * math.pi)
    return ((gradient * (normal_cdf(wide) + wide * density)).astype(x.dtype),)


gelu.defvjp(lambda x: (gelu(x), x), _gelu_gradient)


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


class SiT(nnx.Module):
    """The encoder and its three heads (SiT, section 3).

    `size` is a key of SIZES, `image_size` a multiple of `patch_size`, both in pixels; `stem` "patches" is one linear
    layer from a patch to its token, "convolutions" a ConvolutionStem; `drop_path` is the rate of the last layer;
    `projector_layers` counts the dense layers of the contrastive head, 1 in the paper, `projector_width` is the width
    of its hidden ones (None: four times that of the tokens), `projector_norm` "none" or "batch"; `remat` recomputes
    each layer in the backward pass; `unroll` compiles each layer for itself instead of a loop; `halves` runs two halves
    of the rows side by side in training, on a mesh of one device; `attention` is "xla" or "cudnn"; `dtype` is the type
    of the computation (parameters are float32); in float32, `products` "bfloat16" has the factors of dense products
    rounded. `sit_jax.compute` chooses what suits a device.
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


def project(
    head: nnx.Linear | Projector, token: jax.Array, training: bool = False
) -> tuple[jax.Array, dict[str, Statistics]]:
    """Applies the contrastive head to tokens [V, D].

    Returns the embedding, float32 [V, E], and the statistics of its batch normalisations, where there are some. In
    training these are taken over the V rows, which have to be the whole batch.
    """
    embedding, statistics = head(token, training) if isinstance(head, Projector) else (head(token), {})
    return embedding.astype(jnp.float32), statistics


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

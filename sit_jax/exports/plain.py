"""The encoder in plain operations, under timm's names, for ONNX and StableHLO.

The model itself is tuned for each device, with operations that other programs do not know. Each export compares this
forward pass with the model on images.
"""

import jax
import jax.numpy as jnp

from sit_jax.model.sizes import TOKENS

Arrays = dict[str, jax.Array]


def encode(arrays: Arrays, images: jax.Array, heads: int, epsilon: float) -> jax.Array:
    """Encodes images [n, s, s, c] in [0, 1] to tokens [n, 2 + N, D], float32, rotation token first."""
    kernel = arrays["patch_embed.proj.weight"]  # [D, c, P, P]
    width, channels, side, _ = kernel.shape
    grid = images.shape[1] // side
    x = (2 * images - 1).reshape(-1, grid, side, grid, side, channels).transpose(0, 1, 3, 5, 2, 4)
    x = x.reshape(-1, grid * grid, channels * side * side) @ kernel.reshape(width, -1).T
    x = x + arrays["patch_embed.proj.bias"]
    tokens = jnp.concatenate([arrays["cls_token"], arrays["dist_token"]], axis=1)
    x = jnp.concatenate([tokens + jnp.zeros_like(x[:, :1]), x], axis=1) + arrays["pos_embed"]
    for i in range(len({name.split(".")[1] for name in arrays if name.startswith("blocks.")})):
        x = x + attention(arrays, f"blocks.{i}.attn", norm(arrays, f"blocks.{i}.norm1", x, epsilon), heads)
        hidden = dense(arrays, f"blocks.{i}.mlp.fc1", norm(arrays, f"blocks.{i}.norm2", x, epsilon))
        x = x + dense(arrays, f"blocks.{i}.mlp.fc2", 0.5 * hidden * (1 + jax.lax.erf(hidden * 0.5**0.5)))
    return norm(arrays, "norm", x, epsilon)


def outputs(arrays: Arrays, images: jax.Array, heads: int, epsilon: float) -> tuple[jax.Array, ...]:
    """Returns what an export gives: (`features` [n, 2 D], `patches` [n, N, D]), and `logits` [n, C] of a classifier."""
    tokens = encode(arrays, images, heads, epsilon)
    features = tokens[:, :TOKENS].reshape(-1, TOKENS * tokens.shape[-1])
    if "head.weight" not in arrays:
        return features, tokens[:, TOKENS:]
    logits = (dense(arrays, "head", tokens[:, 0]) + dense(arrays, "head_dist", tokens[:, 1])) / 2
    return features, tokens[:, TOKENS:], logits


def norm(arrays: Arrays, name: str, x: jax.Array, epsilon: float) -> jax.Array:
    """Layer normalisation of the last axis."""
    mean = x.mean(axis=-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(axis=-1, keepdims=True)
    return (x - mean) / jnp.sqrt(variance + epsilon) * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]


def dense(arrays: Arrays, name: str, x: jax.Array) -> jax.Array:
    """A dense layer on the last axis."""
    return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]


def attention(arrays: Arrays, name: str, x: jax.Array, heads: int) -> jax.Array:
    """Multi-head self-attention, [n, T, D] to [n, T, D]."""
    tokens, width = x.shape[1:]
    qkv = dense(arrays, f"{name}.qkv", x).reshape(-1, tokens, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    scores = qkv[0] @ qkv[1].transpose(0, 1, 3, 2) * (width // heads) ** -0.5
    mixed = jax.nn.softmax(scores, axis=-1) @ qkv[2]
    return dense(arrays, f"{name}.proj", mixed.transpose(0, 2, 1, 3).reshape(-1, tokens, width))

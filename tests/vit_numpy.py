"""A distilled DeiT in NumPy, under the names of timm: an independent forward pass for imports and exports."""

import math

import numpy as np
from scipy.special import erf


def norm(x, arrays, name, epsilon):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + epsilon) * arrays[f"{name}.weight"] + arrays[f"{name}.bias"]


def dense(x, arrays, name):
    return x @ arrays[f"{name}.weight"].T + arrays[f"{name}.bias"]


def attention(x, arrays, name, heads):
    n, tokens, width = x.shape
    qkv = dense(x, arrays, f"{name}.qkv").reshape(n, tokens, 3, heads, width // heads).transpose(2, 0, 3, 1, 4)
    q, k, v = qkv
    scores = q @ k.transpose(0, 1, 3, 2) / math.sqrt(width // heads)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = weights / weights.sum(-1, keepdims=True) @ v
    return dense(mixed.transpose(0, 2, 1, 3).reshape(n, tokens, width), arrays, f"{name}.proj")


def scaled(x, arrays, name):
    return x * arrays.get(name, 1.0)


def encode(arrays, images, heads, epsilon=1e-6):
    """Tokens [n, T, D] of normalised images [n, H, W, c], float64; with LayerScale, and with one token or two."""
    arrays = {name: np.asarray(array, np.float64) for name, array in arrays.items()}
    kernel = arrays["patch_embed.proj.weight"]  # [D, c, P, P]
    n, height, width, channels = images.shape
    side = kernel.shape[-1]
    grid = images.reshape(n, height // side, side, width // side, side, channels).transpose(0, 1, 3, 5, 2, 4)
    x = (
        grid.reshape(n, -1, channels * side * side) @ kernel.reshape(len(kernel), -1).T
        + arrays["patch_embed.proj.bias"]
    )
    first = [arrays[name] for name in ("cls_token", "dist_token") if name in arrays]
    x = np.concatenate([np.repeat(token, n, axis=0) for token in first] + [x], axis=1) + arrays["pos_embed"]
    for i in range(len({name.split(".")[1] for name in arrays if name.startswith("blocks.")})):
        block = f"blocks.{i}"
        y = attention(norm(x, arrays, f"{block}.norm1", epsilon), arrays, f"{block}.attn", heads)
        x = x + scaled(y, arrays, f"{block}.ls1.gamma")
        hidden = dense(norm(x, arrays, f"{block}.norm2", epsilon), arrays, f"{block}.mlp.fc1")
        hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2
        x = x + scaled(dense(hidden, arrays, f"{block}.mlp.fc2"), arrays, f"{block}.ls2.gamma")
    return norm(x, arrays, "norm", epsilon)

"""An encoder of another project as ours: from a file to a tree of arrays, with what was taken and what was left."""

import math
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.model.sizes import SIZES
from sit_jax.weights.authors import as_float32, from_authors
from sit_jax.weights.files import Read, read_weights
from sit_jax.weights.layouts import Layout, recognise, with_both_tokens, with_layer_scale_folded
from sit_jax.weights.names import Arrays, fold_input, from_timm, to_timm

CHANNELS = 3


class Foreign(NamedTuple):
    """Weights of another project, in our names, for images in [-1, 1]."""

    layout: str
    encoder: dict  # float32, as `params["model"]["encoder"]`
    heads: dict[str, dict]  # of the authors' SiT: rotation, contrastive, reconstruction
    log_var: dict[str, np.ndarray]  # of the authors' SiT
    size: str  # a key of SIZES
    patch_size: int
    image_size: int
    epsilon: float
    statistics: tuple[tuple[float, ...], tuple[float, ...]]  # mean and std that were folded in
    left: tuple[str, ...]  # names of the file that are no part of it
    sha256: str


def read_foreign(path: Path) -> Foreign:
    """Reads weights of another project; raises InputError that names the file and says what does not fit."""
    read = read_weights(path)
    try:
        layout = recognise(read.arrays)
        left = tuple(name for name in read.arrays if re.fullmatch(layout.left, name))
        arrays = {name: np.asarray(array, np.float32) for name, array in read.arrays.items() if name not in left}
        arrays = with_both_tokens(with_layer_scale_folded(layout.rename(arrays)))
        size, patch_size, image_size = measure(arrays, read.about)
        check_names(arrays, SIZES[size][1])
        statistics, epsilon = statistics_of(read, layout), epsilon_of(read, layout)
        heads, log_var = from_authors(read.arrays, statistics) if layout.mark == "rot_token" else ({}, {})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    encoder = as_float32(fold_input(from_timm(arrays), *map(np.asarray, statistics)))
    left = () if heads else left
    return Foreign(
        *(layout.name, encoder, heads, log_var, size, patch_size, image_size, epsilon, statistics, left, read.hash())
    )


def measure(arrays: Arrays, about: dict) -> tuple[str, int, int]:
    """Returns (size, patch side, image side) from the shapes; raises InputError if no model of ours has them."""
    missing = [name for name in ("cls_token", "pos_embed", "patch_embed.proj.weight") if name not in arrays]
    if missing:
        raise InputError(f"has no {', '.join(missing)}; not a ViT with learned positions")
    width, channels, patch_size = arrays["patch_embed.proj.weight"].shape[:3]
    if channels != CHANNELS:
        raise InputError(f"reads images of {channels} channels; 3 are needed")
    depth = len({name.split(".")[1] for name in arrays if name.startswith("blocks.")})
    mlp = len(arrays.get("blocks.0.mlp.fc1.weight", ()))
    heads = about.get("num_attention_heads", width // 64)  # not in the arrays; 64 in all published families
    size = next((size for size, row in SIZES.items() if row == (width, depth, mlp, heads)), None)
    if size is None:
        known = ", ".join(f"{name} {row}" for name, row in SIZES.items())
        raise InputError(
            f"has width {width}, depth {depth}, MLP width {mlp} and {heads} heads, unlike the sizes here: {known}"
        )
    patches = arrays["pos_embed"].shape[1] - 2
    if math.isqrt(max(patches, 0)) ** 2 != patches:
        raise InputError(f"has {patches} positions of patches, which is no square; only square images are supported")
    return size, patch_size, math.isqrt(patches) * patch_size


def check_names(arrays: Arrays, depth: int) -> None:
    """Raises InputError unless the names are exactly those of a distilled DeiT with `depth` layers."""
    expected = expected_names(depth)
    missing, unknown = sorted(expected - arrays.keys()), sorted(arrays.keys() - expected)
    if any(name.endswith("attn.qkv.bias") for name in missing):
        raise InputError("has no bias for query, key and value, which this encoder has; it does not fit")
    if missing:
        raise InputError(
            f"lacks {len(missing)} arrays, such as {missing[0]}; the file is incomplete or of another network"
        )
    if unknown:
        raise InputError(
            f"has {len(unknown)} arrays that are not known, such as {unknown[0]}; it is of another network"
        )


def expected_names(depth: int) -> set[str]:
    """Returns the names of a distilled DeiT with `depth` layers."""
    one, dense = np.zeros(1), {"kernel": np.zeros((depth, 1, 1)), "bias": np.zeros((depth, 1))}
    norm = {"scale": np.zeros((depth, 1)), "bias": np.zeros((depth, 1))}
    blocks = {
        "norm1": norm,
        "norm2": norm,
        "attention": {"qkv": dense, "out": dense},
        "mlp_in": dense,
        "mlp_out": dense,
    }
    patches = {"kernel": np.zeros((CHANNELS, 1)), "bias": one}
    final = {"scale": one, "bias": one}
    tokens = np.zeros((2, 1))
    tree = {"tokens": tokens, "position_embedding": tokens, "patch_embedding": patches, "blocks": blocks, "norm": final}
    return set(to_timm(tree, CHANNELS))


def statistics_of(read: Read, layout: Layout) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std of the images: what a file beside the weights says, otherwise of the layout."""
    about = read.about | read.about.get("pretrained_cfg", {})
    mean, std = (about.get(f"image_{name}", about.get(name)) for name in ("mean", "std"))
    return (tuple(mean), tuple(std)) if mean and std else layout.statistics


def epsilon_of(read: Read, layout: Layout) -> float:
    """Returns the epsilon of the layer norms."""
    return float(read.about.get("layer_norm_eps", layout.epsilon))

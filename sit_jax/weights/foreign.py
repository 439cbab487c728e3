"""An encoder of another project as ours: from a file to a tree of arrays, with what was taken and what was left."""

import math
import re
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.model.sizes import SIZES
from sit_jax.weights.authors import as_float32, from_authors
from sit_jax.weights.files import read_weights
from sit_jax.weights.layouts import Layout, recognise, with_both_tokens, with_layer_scale_folded
from sit_jax.weights.names import LAYER, Arrays, check_shapes, fold_input, from_timm

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

    def title(self) -> str:
        """Returns one line on what was read."""
        mean, std = (", ".join(f"{value:g}" for value in values) for values in self.statistics)
        return (
            f"{self.layout}, {self.size}/{self.patch_size} at {self.image_size} px, "
            f"for images normalised by mean ({mean}) and std ({std}); this is folded into its first layer"
        )


def read_foreign(path: Path) -> Foreign:
    """Reads weights of another project; raises InputError that names the file and says what does not fit."""
    read = read_weights(path)
    try:
        layout = recognise(read.arrays)
        left = tuple(name for name in read.arrays if re.fullmatch(layout.left, name))
        check_types({name: array for name, array in read.arrays.items() if name not in left})
        arrays = {name: np.asarray(array, np.float32) for name, array in read.arrays.items() if name not in left}
        arrays = layout.rename(arrays)
        check_is_vit(arrays)
        arrays = with_both_tokens(with_layer_scale_folded(arrays))
        statistics, epsilon = statistics_of(read.about, layout), epsilon_of(read.about, layout)
        size, patch_size, image_size = measure(arrays, read.about)
        check_arrays(arrays, size, patch_size, image_size)
        heads, log_var = from_authors(read.arrays, statistics) if layout.mark == "rot_token" else ({}, {})
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (ValueError, IndexError) as error:  # of shapes
        raise InputError(f"{path}: has arrays that do not fit together ({' '.join(str(error).split())})") from error
    encoder = as_float32(fold_input(from_timm(arrays), *map(np.asarray, statistics)))
    left = () if heads else left  # of the authors' SiT, all is taken
    return Foreign(
        *(layout.name, encoder, heads, log_var, size, patch_size, image_size, epsilon, statistics, left, read.hash())
    )


def check_types(arrays: Arrays) -> None:
    """Raises InputError for an array of integers: quantised weights need their scales."""
    wrong = next((name for name, array in arrays.items() if not jnp.issubdtype(array.dtype, jnp.floating)), "")
    if wrong:
        raise InputError(f"holds integers in {wrong} ({arrays[wrong].dtype}); only weights of floating type are read")


def check_is_vit(arrays: Arrays) -> None:
    """Raises InputError unless there are a class token, learned positions and a first layer on patches."""
    for name, dimensions in {"cls_token": 3, "pos_embed": 3, "patch_embed.proj.weight": 4}.items():
        if name not in arrays or arrays[name].ndim != dimensions:
            raise InputError(f"has no {name} of {dimensions} dimensions; not a ViT with learned positions")


def measure(arrays: Arrays, about: dict) -> tuple[str, int, int]:
    """Returns (size, patch side, image side) from the shapes; raises InputError if no model of ours has them."""
    width, channels, patch_size = arrays["patch_embed.proj.weight"].shape[:3]
    if channels != CHANNELS:
        raise InputError(f"reads images of {channels} channels; 3 are needed")
    depth = len({name.split(".")[1] for name in arrays if name.startswith("blocks.")})
    mlp = len(arrays.get("blocks.0.mlp.fc1.bias", ()))
    size = next((size for size, row in SIZES.items() if row[:3] == (width, depth, mlp)), None)
    arguments = about.get("model_args") or {}
    heads = about.get("num_attention_heads", arguments.get("num_heads") if isinstance(arguments, dict) else None)
    if size is None or heads not in (None, SIZES[size][3]):  # the arrays do not say the number of heads
        known = ", ".join(f"{name} {row}" for name, row in SIZES.items())
        found = f"width {width}, depth {depth}, MLP width {mlp}" + (f" and {heads} heads" if heads else "")
        raise InputError(f"has {found}, unlike the sizes here: {known}")
    patches = arrays["pos_embed"].shape[1] - 2
    if math.isqrt(max(patches, 0)) ** 2 != patches:
        raise InputError(f"has {patches} positions of patches, which is no square; only square images are supported")
    return size, patch_size, math.isqrt(patches) * patch_size


def check_arrays(arrays: Arrays, size: str, patch_size: int, image_size: int) -> None:
    """Raises InputError unless names and shapes are exactly those of a distilled DeiT, and all values are numbers."""
    expected = expected_shapes(size, patch_size, image_size)
    if any(name.endswith("attn.qkv.bias") for name in expected.keys() - arrays.keys()):
        raise InputError("has no bias for query, key and value, which this encoder has; it does not fit")
    check_shapes(arrays, expected)
    if unknown := sorted(arrays.keys() - expected):
        raise InputError(
            f"has {len(unknown)} arrays that are not known, such as {unknown[0]}; it is of another network"
        )


def expected_shapes(size: str, patch_size: int, image_size: int) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of a distilled DeiT under timm's names."""
    width, depth, mlp, _ = SIZES[size]
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width),
        "dist_token": (1, 1, width),
        "pos_embed": (1, 2 + (image_size // patch_size) ** 2, width),
        "patch_embed.proj.weight": (width, CHANNELS, patch_size, patch_size),
        "patch_embed.proj.bias": (width,),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    outputs = {"attn.qkv": 3 * width, "mlp.fc1": mlp}
    inputs = {"norm1": (), "norm2": (), "mlp.fc2": (mlp,)}
    for i in range(depth):
        for _, name in LAYER:
            rows = outputs.get(name, width)
            shapes[f"blocks.{i}.{name}.weight"] = (rows, *inputs.get(name, (width,)))
            shapes[f"blocks.{i}.{name}.bias"] = (rows,)
    return shapes


def statistics_of(about: dict, layout: Layout) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns mean and std of the images: what a file beside the weights says, otherwise those of the layout.

    Raises InputError if these are not three numbers each.
    """
    if about.get("do_normalize") is False:
        return (0.0,) * CHANNELS, (1.0,) * CHANNELS
    if about.get("do_rescale") is False:
        raise InputError("is for images in 0 to 255 (do_rescale is false); only images in [0, 1] fit")
    inner = about.get("pretrained_cfg")
    about = about | (inner if isinstance(inner, dict) else {})
    mean, std = (about.get(f"image_{name}", about.get(name)) for name in ("mean", "std"))
    if mean is None or std is None:
        return layout.statistics
    try:
        mean, std = (tuple(float(value) for value in values) for values in (mean, std))
    except (TypeError, ValueError):
        mean = std = ()
    if len(mean) != CHANNELS or len(std) != CHANNELS or min(std) <= 0 or not all(map(math.isfinite, mean + std)):
        raise InputError("the file beside it says mean and std that are not three numbers each, std above 0; mend it")
    return mean, std


def epsilon_of(about: dict, layout: Layout) -> float:
    """Returns the epsilon of the layer norms; raises InputError if config.json says none, or another activation."""
    activation, epsilon = about.get("hidden_act", "gelu"), about.get("layer_norm_eps", layout.epsilon)
    if activation != "gelu":
        raise InputError(f"has the activation {activation} (config.json); only gelu fits")
    if not isinstance(epsilon, int | float) or not 0 <= epsilon < 1:
        raise InputError(f"has layer_norm_eps {epsilon} in config.json; expected a number from 0 to 1")
    return float(epsilon)

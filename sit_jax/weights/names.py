"""The encoder under the names of timm, which most public vision transformers share, and back.

Here, layers are stacked on axis 0 and kernels are [inputs, outputs]; in timm each layer has its own arrays, and kernels
are [outputs, inputs]. The rotation token is timm's `cls_token`, the contrastive token its `dist_token`: the network is
timm's distilled DeiT.
"""

import math

import numpy as np

from sit_jax.common.errors import InputError

Arrays = dict[str, np.ndarray]
# Of a layer: our module, and its name in timm.
LAYER = (
    (("norm1",), "norm1"),
    (("attention", "qkv"), "attn.qkv"),
    (("attention", "out"), "attn.proj"),
    (("norm2",), "norm2"),
    (("mlp_in",), "mlp.fc1"),
    (("mlp_out",), "mlp.fc2"),
)


def to_timm(encoder: dict, channels: int) -> Arrays:
    """Returns our encoder, a tree of arrays, under timm's names, such as `blocks.0.norm1.weight`."""
    tokens, position = np.asarray(encoder["tokens"]), np.asarray(encoder["position_embedding"])
    kernel = np.asarray(encoder["patch_embedding"]["kernel"])  # [P * P * c, D]
    side = math.isqrt(len(kernel) // channels)
    arrays = {
        "cls_token": tokens[None, :1],
        "dist_token": tokens[None, 1:],
        "pos_embed": position[None],
        "patch_embed.proj.weight": kernel.reshape(side, side, channels, -1).transpose(3, 2, 0, 1),
        "patch_embed.proj.bias": np.asarray(encoder["patch_embedding"]["bias"]),
    }
    for path, name in LAYER:
        for i, layer in enumerate(_unstacked(_inner(encoder["blocks"], path))):
            arrays |= {f"blocks.{i}.{name}.{key}": array for key, array in dense_to_torch(layer).items()}
    arrays |= {f"norm.{key}": array for key, array in dense_to_torch(encoder["norm"]).items()}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def from_timm(arrays: Arrays) -> dict:
    """Returns our encoder, a tree of arrays, from timm's names of a distilled DeiT; the inverse of `to_timm`."""
    depth = len({name.split(".")[1] for name in arrays if name.startswith("blocks.")})
    patches = arrays["patch_embed.proj.weight"]  # [D, c, P, P]
    encoder: dict = {
        "tokens": np.concatenate([arrays["cls_token"][0], arrays["dist_token"][0]]),
        "position_embedding": arrays["pos_embed"][0],
        "patch_embedding": {
            "kernel": patches.transpose(2, 3, 1, 0).reshape(-1, len(patches)),
            "bias": arrays["patch_embed.proj.bias"],
        },
        "blocks": {"attention": {}},
        "norm": dense_from_torch(arrays, "norm"),
    }
    for path, name in LAYER:
        layers = [dense_from_torch(arrays, f"blocks.{i}.{name}") for i in range(depth)]
        _inner(encoder["blocks"], path[:-1])[path[-1]] = {
            key: np.stack([layer[key] for layer in layers]) for key in layers[0]
        }
    return encoder


def check_shapes(arrays: Arrays, expected: dict[str, tuple[int, ...]]) -> None:
    """Raises InputError that names an array which is missing, has another shape, or has values that are no numbers."""
    missing = [name for name in expected if name not in arrays]
    if missing:
        raise InputError(
            f"lacks {len(missing)} arrays, such as {missing[0]}; the file is incomplete or of another network"
        )
    for name, shape in expected.items():
        if arrays[name].shape != shape:
            raise InputError(f"has {name} with the shape {arrays[name].shape}, not {shape}; it is of another network")
        if not np.isfinite(arrays[name]).all():
            raise InputError(f"has values in {name} that are no numbers; take weights from before the training broke")


def dense_to_torch(module: dict) -> Arrays:
    """Returns a dense layer or a norm as `weight` [outputs, inputs] or [D], and `bias`."""
    weight = np.asarray(module["kernel"]).T if "kernel" in module else np.asarray(module["scale"])
    return {"weight": weight, "bias": np.asarray(module["bias"])}


def dense_from_torch(arrays: Arrays, name: str) -> dict:
    """Returns the dense layer or norm `name` as `kernel` [inputs, outputs] or `scale` [D], and `bias`."""
    weight, bias = arrays[f"{name}.weight"], arrays[f"{name}.bias"]
    return {"kernel": weight.T, "bias": bias} if weight.ndim == 2 else {"scale": weight, "bias": bias}


def fold_input(encoder: dict, mean: np.ndarray, std: np.ndarray) -> dict:
    """Returns an encoder for images in [-1, 1] from one for (image in [0, 1] - mean) / std; mean and std are [c].

    Exact: the first layer is linear.
    """
    scale, shift = _affine(mean, std, len(encoder["patch_embedding"]["kernel"]))
    kernel, bias = encoder["patch_embedding"]["kernel"], encoder["patch_embedding"]["bias"]
    patches = {"kernel": kernel * scale[:, None], "bias": bias + shift @ kernel}
    return encoder | {"patch_embedding": patches}


def fold_output(head: dict, mean: np.ndarray, std: np.ndarray) -> dict:
    """Returns a reconstruction head that gives pixels in [-1, 1] from one that gives (pixel in [0, 1] - mean) / std."""
    kernel, channels = head["linear"]["kernel"], len(mean)  # [D, P * P * c]
    scale, shift = _affine(mean, std, kernel.shape[1])
    return {"linear": {"kernel": kernel / scale}, "bias": (head["bias"] - shift[:channels]) / scale[:channels]}


def _affine(mean: np.ndarray, std: np.ndarray, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns a and b, float64 [values], with (image in [0, 1] - mean) / std = a * (image in [-1, 1]) + b."""
    mean, std = np.asarray(mean, np.float64), np.asarray(std, np.float64)
    repeats = values // len(mean)
    return np.tile(0.5 / std, repeats), np.tile((0.5 - mean) / std, repeats)


def _inner(tree: dict, path: tuple[str, ...]) -> dict:
    for key in path:
        tree = tree[key]
    return tree


def _unstacked(module: dict) -> list[dict]:
    """Returns the layers of stacked arrays."""
    arrays = {key: np.asarray(array) for key, array in module.items()}
    return [{key: array[i] for key, array in arrays.items()} for i in range(len(next(iter(arrays.values()))))]

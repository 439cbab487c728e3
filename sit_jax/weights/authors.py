"""The layout of the authors' SiT (its state of July 2021), with its heads: in and out."""

import numpy as np

from sit_jax.weights.names import Arrays, check_shapes, dense_from_torch, dense_to_torch, fold_output, to_timm

# The authors turn pictures clockwise; the swap is its own inverse.
ROTATIONS = [0, 3, 2, 1]
TOKENS = {"cls_token": "rot_token", "dist_token": "contrastive_token"}
LOG_VARS = {"rotation": "rot_w", "contrastive": "contrastive_w", "reconstruction": "recons_w"}
CHANNELS = 3


def from_authors(
    arrays: Arrays, statistics: tuple[tuple[float, ...], tuple[float, ...]]
) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """Returns the heads and the log variances of a file, ({}, {}) if it holds an encoder alone.

    `statistics` are mean and std of its images; they are folded into the reconstruction head. Raises InputError if a
    head is missing or has another shape.
    """
    if "convTrans.weight" not in arrays:
        return {}, {}
    arrays = {name: np.asarray(array, np.float32) for name, array in arrays.items()}
    check_shapes(arrays, expected_heads(arrays))
    turned = {f"rot_head.{key}": arrays[f"rot_head.{key}"][ROTATIONS] for key in ("weight", "bias")}
    pixels = arrays["convTrans.weight"]  # [D, c, P, P]
    kernel = pixels.transpose(0, 2, 3, 1).reshape(len(pixels), -1)
    reconstruction = {"linear": {"kernel": kernel}, "bias": arrays["convTrans.bias"]}
    heads = {
        "reconstruction": fold_output(reconstruction, *map(np.asarray, statistics)),
        "rotation": dense_from_torch(turned, "rot_head"),
        "contrastive": dense_from_torch(arrays, "contrastive_head"),
    }
    log_var = {task: arrays[name].reshape(()) for task, name in LOG_VARS.items() if name in arrays}
    return as_float32(heads), log_var


def expected_heads(arrays: Arrays) -> dict[str, tuple[int, ...]]:
    """Returns the shapes of the heads beside an encoder of the authors; the width of the embedding is free."""
    width, _, side, _ = arrays["patch_embed.proj.weight"].shape
    embedding = len(arrays.get("contrastive_head.bias", ()))
    return {
        "rot_head.weight": (len(ROTATIONS), width),
        "rot_head.bias": (len(ROTATIONS),),
        "contrastive_head.weight": (embedding, width),
        "contrastive_head.bias": (embedding,),
        "convTrans.weight": (width, CHANNELS, side, side),
        "convTrans.bias": (CHANNELS,),
        **{name: (1,) for name in LOG_VARS.values() if name in arrays},
    }


def to_authors(encoder: dict, heads: dict[str, dict], log_var: dict[str, np.ndarray]) -> Arrays:
    """Returns a whole model under the authors' names, for images normalised by mean 0.5 and std 0.5."""
    arrays = {TOKENS.get(name, name): array for name, array in to_timm(encoder, CHANNELS).items()}
    kernel = np.asarray(heads["reconstruction"]["linear"]["kernel"])  # [D, P * P * c]
    side = round((kernel.shape[1] / CHANNELS) ** 0.5)
    arrays["convTrans.weight"] = kernel.reshape(-1, side, side, CHANNELS).transpose(0, 3, 1, 2)
    arrays["convTrans.bias"] = np.asarray(heads["reconstruction"]["bias"])
    arrays |= {f"rot_head.{key}": array[ROTATIONS] for key, array in dense_to_torch(heads["rotation"]).items()}
    arrays |= {f"contrastive_head.{key}": array for key, array in dense_to_torch(heads["contrastive"]).items()}
    arrays |= {name: np.asarray(log_var[task]).reshape(1) for task, name in LOG_VARS.items() if task in log_var}
    return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def as_float32(tree: dict) -> dict:
    """Returns a tree with float32 arrays, each in one piece."""
    return {
        name: as_float32(item) if isinstance(item, dict) else np.ascontiguousarray(item, np.float32)
        for name, item in tree.items()
    }

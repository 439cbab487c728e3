"""A folder for timm: two prefix tokens are exactly its distilled DeiT."""

import pathlib

import numpy as np

from sit_jax.exports.files import HALF, write_arrays, write_json
from sit_jax.exports.weights import Weights
from sit_jax.model.sizes import SIZES

ARCHITECTURE = "deit_base_distilled_patch16_224"  # the arguments below give it the size of any model


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes `model.safetensors` and `config.json`, which `timm.create_model("local-dir:FOLDER")` loads."""
    model = weights.config.model
    width, depth, mlp, heads = SIZES[model.size]
    classes = len(weights.class_names)
    cfg = {
        "input_size": [model.channels, model.image_size, model.image_size],
        "mean": [HALF] * model.channels,
        "std": [HALF] * model.channels,
        "interpolation": "bicubic",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "num_classes": classes,
        "first_conv": "patch_embed.proj",
        "classifier": ["head", "head_dist"],
    }
    arguments = {
        "img_size": model.image_size,
        "patch_size": model.patch_size,
        "in_chans": model.channels,
        "embed_dim": width,
        "depth": depth,
        "num_heads": heads,
        "mlp_ratio": mlp / width,
    }
    write_arrays(folder, weights.arrays)
    config = {"architecture": ARCHITECTURE, "num_classes": classes, "pretrained_cfg": cfg, "model_args": arguments}
    write_json(folder, "config.json", config | ({"label_names": list(weights.class_names)} if classes else {}))


def run(weights: Weights, folder: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the tokens, and the logits of a classifier, that timm computes from the folder."""
    import timm
    import torch

    module = timm.create_model(f"local-dir:{folder.absolute()}", pretrained=True).eval()
    inputs = torch.from_numpy((2 * images - 1).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        found = {"tokens": module.forward_features(inputs).numpy()}
        return found | ({"logits": module(inputs).numpy()} if weights.class_names else {})


CLASSIFYING = "logits = model(transform(image)[None])  # of label_names in config.json, in their order"
LOADING = """import timm
model = timm.create_model("local-dir:{folder}", pretrained=True)  # num_classes=0: the mean of both tokens
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))"""

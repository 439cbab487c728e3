"""A folder for Hugging Face transformers: its distilled DeiT, with the preprocessing."""

import pathlib
import re

import numpy as np

from sit_jax.exports.files import HALF, labels, write_arrays, write_json
from sit_jax.exports.weights import Weights
from sit_jax.model.sizes import SIZES
from sit_jax.weights.names import Arrays

# Of timm: a part of a name, and what replaces it.
NAMES = (
    (r"^cls_token", "embeddings.cls_token"),
    (r"^dist_token", "embeddings.distillation_token"),
    (r"^pos_embed", "embeddings.position_embeddings"),
    (r"^patch_embed\.proj", "embeddings.patch_embeddings.projection"),
    (r"^norm\.", "layernorm."),
    (r"^blocks\.", "encoder.layer."),
    (r"\.norm1\.", ".layernorm_before."),
    (r"\.norm2\.", ".layernorm_after."),
    (r"\.attn\.proj\.", ".attention.output.dense."),
    (r"\.mlp\.fc1\.", ".intermediate.dense."),
    (r"\.mlp\.fc2\.", ".output.dense."),
)
HEADS = {"head": "cls_classifier", "head_dist": "distillation_classifier"}


def write(weights: Weights, folder: pathlib.Path) -> None:
    """Writes a folder that `AutoModel` and `AutoImageProcessor` load."""
    model = weights.config.model
    width, depth, mlp, heads = SIZES[model.size]
    write_arrays(folder, renamed(weights.arrays))
    kind = "DeiTForImageClassificationWithTeacher" if weights.class_names else "DeiTModel"
    config = {
        "model_type": "deit",
        "architectures": [kind],
        "hidden_size": width,
        "num_hidden_layers": depth,
        "intermediate_size": mlp,
        "num_attention_heads": heads,
        "image_size": model.image_size,
        "patch_size": model.patch_size,
        "num_channels": model.channels,
        "encoder_stride": model.patch_size,
        "hidden_act": "gelu",
        "qkv_bias": True,
        "layer_norm_eps": weights.epsilon,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
    }
    write_json(folder, "config.json", config | labels(weights))
    write_json(folder, "preprocessor_config.json", preprocessing(model.image_size, model.channels))


def preprocessing(side: int, channels: int) -> dict:
    """Returns the configuration of CLIP's image processor, which resizes, crops the centre and normalises.

    An evaluation here crops a fraction of a pixel, and CLIP's processor whole pixels: pictures differ a little.
    """
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": channels == 3,
        "do_resize": True,
        "size": {"shortest_edge": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [HALF] * channels,
        "image_std": [HALF] * channels,
    }


def renamed(arrays: Arrays) -> Arrays:
    """Returns arrays under the names of Hugging Face; query, key and value are apart."""
    base = "deit." if "head.weight" in arrays else ""
    found: Arrays = {}
    for name, array in arrays.items():
        head, _, key = name.partition(".")
        if head in HEADS:
            found[f"{HEADS[head]}.{key}"] = array
            continue
        for pattern, new in NAMES:
            name = re.sub(pattern, new, name)
        if ".attn.qkv." in name:
            for part, piece in zip(("query", "key", "value"), np.split(array, 3), strict=True):
                found[base + name.replace("attn.qkv", f"attention.attention.{part}")] = np.ascontiguousarray(piece)
        else:
            found[base + name] = array
    return found


def run(weights: Weights, folder: pathlib.Path, images: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the tokens, and the logits of a classifier, that transformers computes from the folder."""
    import torch
    import transformers

    inputs = torch.from_numpy((2 * images - 1).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        module = transformers.AutoModel.from_pretrained(folder).eval()
        found = {"tokens": module(inputs).last_hidden_state.numpy()}
        if weights.class_names:
            classifier = transformers.DeiTForImageClassificationWithTeacher.from_pretrained(folder).eval()
            found["logits"] = classifier(inputs).logits.numpy()
    return found


CLASSIFYING = """from transformers import DeiTForImageClassificationWithTeacher
classifier = DeiTForImageClassificationWithTeacher.from_pretrained("{folder}")
logits = classifier(**processor(image, return_tensors="pt")).logits  # of id2label in config.json"""
LOADING = """from transformers import AutoImageProcessor, AutoModel
processor, model = AutoImageProcessor.from_pretrained("{folder}"), AutoModel.from_pretrained("{folder}")
tokens = model(**processor(image, return_tensors="pt")).last_hidden_state  # rotation, contrastive, patches"""

"""The layouts of public encoders: how to recognise each, and how to bring it under the names of a distilled DeiT."""

import math
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from sit_jax.common.errors import InputError
from sit_jax.weights.names import Arrays

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
# Names of a network around its encoder: classifiers, decoders, projection heads of other methods.
AROUND = (
    r"(head|head_dist|pre_logits|fc|classifier|cls_classifier|distillation_classifier|pooler|mask_token|decoder)\b.*"
)
AROUND += r"|decoder_.*|embeddings\.mask_token"
HEADS_OF_SIT = r"(rot_head|contrastive_head|convTrans)\.(weight|bias)|rot_w|contrastive_w|recons_w"


class Layout(NamedTuple):
    """A way to name the arrays of an encoder."""

    name: str
    mark: str  # a name that every file of the layout has
    rename: Callable[[Arrays], Arrays]  # to the names of timm
    statistics: tuple[
        tuple[float, ...], tuple[float, ...]
    ]  # mean and std of the images, unless a file beside says them
    epsilon: float  # of the layer norms, unless a file beside says it
    left: str = AROUND  # a pattern of the names that are left


class Refused(NamedTuple):
    """A network that is known and does not fit."""

    mark: str  # a pattern of a name that gives it away
    reason: str


def rename_nothing(arrays: Arrays) -> Arrays:
    """Returns the arrays as they are: they have the names of timm."""
    return dict(arrays)


def rename_sit(arrays: Arrays) -> Arrays:
    """Returns the encoder of the authors' SiT under the names of timm."""
    new = {"rot_token": "cls_token", "contrastive_token": "dist_token"}
    return {new.get(name, name): array for name, array in arrays.items()}


# Of Hugging Face: a part of a name, and what replaces it; in this order.
HUGGING_FACE = (
    (r"^embeddings\.cls_token", "cls_token"),
    (r"^embeddings\.distillation_token", "dist_token"),
    (r"^embeddings\.position_embeddings", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection", "patch_embed.proj"),
    (r"^(encoder\.layer|layers)\.", "blocks."),
    (r"\.attention\.o_proj\.", ".attn.proj."),  # in the memory of transformers 5; its files keep the former names
    (r"\.attention\.([qkv])_proj\.", r".attn.\1."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.attention\.attention\.([qkv])\w+\.", r".attn.\1."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layer_scale([12])\.lambda1", r".ls\1.gamma"),
    (r"^layernorm\.", "norm."),
)


def rename_hugging_face(arrays: Arrays) -> Arrays:
    """Returns a ViT, DeiT or DINOv2 of Hugging Face under the names of timm; joins query, key and value."""
    renamed = {}
    for name, array in arrays.items():
        for pattern, new in HUGGING_FACE:
            name = re.sub(pattern, new, name)
        renamed[name] = array
    for name in [name for name in renamed if ".attn.q." in name]:
        parts = [renamed.pop(name.replace(".q.", f".{part}."), None) for part in "qkv"]
        if any(part is None for part in parts):
            raise InputError(f"has a query without key or value ({name}); the file is incomplete or of another network")
        renamed[name.replace(".q.", ".qkv.")] = np.concatenate([part for part in parts if part is not None])
    return renamed


# The first whose mark is there. Epsilons and statistics are those with which the weights were published.
LAYOUTS = (
    Layout("SiT of its authors", "rot_token", rename_sit, IMAGENET, 1e-6, HEADS_OF_SIT),
    Layout("DINOv2 of Hugging Face", "encoder.layer.0.layer_scale1.lambda1", rename_hugging_face, IMAGENET, 1e-6),
    Layout("distilled DeiT of Hugging Face", "embeddings.distillation_token", rename_hugging_face, IMAGENET, 1e-12),
    Layout("MAE of Hugging Face", "decoder.decoder_embed.weight", rename_hugging_face, IMAGENET, 1e-12),
    Layout("ViT of Hugging Face", "embeddings.cls_token", rename_hugging_face, HALF, 1e-12),
    Layout("distilled DeiT", "dist_token", rename_nothing, IMAGENET, 1e-6),
    Layout("DINOv2", "blocks.0.ls1.gamma", rename_nothing, IMAGENET, 1e-6),
    Layout("ViT, DeiT, DINO or MAE", "cls_token", rename_nothing, IMAGENET, 1e-6),
)
REFUSED = (
    Refused(r"cls_token[12]", "is the SiT of June 2022, another network"),
    Refused(
        r"reg(ister)?_tokens?|embeddings\.register_tokens|storage_tokens",
        "has register tokens, as DINOv2 with registers and DINOv3; the DINOv2 files without registers fit",
    ),
    Refused(r".*rope.*|.*(rotary|freqs_cis).*", "has rotary positions, as DINOv3; learned positions are needed"),
    Refused(
        r".*mlp\.(w12|w3|weights_in|weights_out)\.weight|.*mlp\.fc1_g\.weight",
        "has a gated MLP, as DINOv2 g/14; the sizes S, B and L fit",
    ),
    Refused(
        r".*relative_position_bias_table", "has relative positions, as BEiT and Swin; learned positions are needed"
    ),
    Refused(r".*\.(lambda_1|gamma_1)", "scales its layers as BEiT and CaiT do, whose layers differ"),
    Refused(
        r"norm_pre\.weight|.*(visual|vision_model)\..*", "is the image encoder of CLIP, with a norm before its layers"
    ),
    Refused(r"fc_norm\.weight", "averages its patches before its norm (fc_norm) and has no norm of all tokens"),
    Refused(
        r"(stem|stages|layer1|features|downsample_layers)\.\d.*|conv1\.weight|layers\.\d+\.blocks.*",
        "is a convolutional or windowed network, not a ViT",
    ),
)


def recognise(arrays: Arrays) -> Layout:
    """Returns the layout of arrays; raises InputError with the reason if they do not fit or are not known."""
    for refused in REFUSED:
        if found := next((name for name in arrays if re.fullmatch(refused.mark, name)), ""):
            raise InputError(f"{refused.reason} (it has {found})")
    layout = next((layout for layout in LAYOUTS if layout.mark in arrays), None)
    if layout is None:
        names = ", ".join(list(arrays)[:3])
        known = ", ".join(dict.fromkeys(layout.name for layout in LAYOUTS))
        raise InputError(f"has no known layout (its arrays are {names}, ...); known are {known}")
    return layout


def with_both_tokens(arrays: Arrays) -> Arrays:
    """Returns arrays with timm's `dist_token`; without one, both tokens start as the class token, with its position."""
    if "dist_token" in arrays:
        return arrays
    position = arrays["pos_embed"]
    if math.isqrt(position.shape[1]) ** 2 == position.shape[1]:
        raise InputError("has no position for its class token, as DeiT III; it does not fit")
    both = np.concatenate([position[:, :1], position], axis=1)
    return arrays | {"dist_token": arrays["cls_token"], "pos_embed": both}


def with_layer_scale_folded(arrays: Arrays) -> Arrays:
    """Returns arrays without LayerScale: its factors multiply the outputs of linear layers, so they fold in exactly."""
    folded = {name: array for name, array in arrays.items() if not re.search(r"\.ls[12]\.gamma$", name)}
    for name in arrays.keys() - folded.keys():
        layer = name.replace("ls1.gamma", "attn.proj").replace("ls2.gamma", "mlp.fc2")
        if f"{layer}.weight" not in arrays or f"{layer}.bias" not in arrays:
            raise InputError(f"has {name} without the weight and bias of {layer}; the file is incomplete")
        gamma = np.asarray(arrays[name], np.float32)
        folded[f"{layer}.weight"] = arrays[f"{layer}.weight"] * gamma[:, None]
        folded[f"{layer}.bias"] = arrays[f"{layer}.bias"] * gamma
    return folded

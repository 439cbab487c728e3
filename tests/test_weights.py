"""Weights of other projects: layouts against an independent forward pass, files of torch without torch, faults."""

import argparse
import collections
import hashlib
import io
import json
import os
import pickle
import struct
import sys
import types
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import save_file
from vit_numpy import encode

from configs import digits
from sit_jax.common.errors import InputError
from sit_jax.config.resolve import resolve
from sit_jax.model.build import make_graphdefs
from sit_jax.weights import torch_file as torch_reader
from sit_jax.weights.authors import to_authors
from sit_jax.weights.files import read_weights
from sit_jax.weights.foreign import read_foreign
from sit_jax.weights.layouts import HALF, IMAGENET
from sit_jax.weights.names import from_timm, to_timm

pytestmark = pytest.mark.usefixtures("quick_compilation")
WIDTH, DEPTH, MLP, HEADS, PATCH, GRID = 32, 1, 128, 2, 4, 4  # the size mu
MAE_DECODER = {"decoder.decoder_embed.weight": np.zeros(2)}
MU = {"num_attention_heads": HEADS}  # 64 wide heads are the rule elsewhere
LAYER = {
    "norm1": (WIDTH,),
    "attn.qkv": (3 * WIDTH, WIDTH),
    "attn.proj": (WIDTH, WIDTH),
    "norm2": (WIDTH,),
    "mlp.fc1": (MLP, WIDTH),
    "mlp.fc2": (WIDTH, MLP),
}


def vit(tokens=1, layer_scale=False, seed=0):
    """A random ViT under the names of timm."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        return rng.normal(0, 0.3, shape).astype(np.float32)

    arrays = {
        "cls_token": array(1, 1, WIDTH),
        "pos_embed": array(1, tokens + GRID**2, WIDTH),
        "patch_embed.proj.weight": array(WIDTH, 3, PATCH, PATCH),
        "patch_embed.proj.bias": array(WIDTH),
        "norm.weight": 1 + array(WIDTH),
        "norm.bias": array(WIDTH),
    }
    if tokens == 2:
        arrays["dist_token"] = array(1, 1, WIDTH)
    for i in range(DEPTH):
        for name, shape in LAYER.items():
            arrays |= {f"blocks.{i}.{name}.weight": array(*shape), f"blocks.{i}.{name}.bias": array(shape[0])}
        if layer_scale:
            arrays |= {f"blocks.{i}.ls{k}.gamma": array(WIDTH) for k in (1, 2)}
    return arrays


def hugging_face(arrays, prefix):
    """The same under the names of Hugging Face."""
    renamed = {}
    for name, array in arrays.items():
        for old, new in {
            "cls_token": "embeddings.cls_token",
            "dist_token": "embeddings.distillation_token",
            "pos_embed": "embeddings.position_embeddings",
            "patch_embed.proj": "embeddings.patch_embeddings.projection",
        }.items():
            name = name.replace(old, new)
        dinov2 = any("ls1" in key for key in arrays)
        for old, new in {
            "blocks.": "encoder.layer.",
            "norm1": "norm1" if dinov2 else "layernorm_before",
            "norm2": "norm2" if dinov2 else "layernorm_after",
            "attn.proj": "attention.output.dense",
            "mlp.fc1": "mlp.fc1" if dinov2 else "intermediate.dense",
            "mlp.fc2": "mlp.fc2" if dinov2 else "output.dense",
            "ls1.gamma": "layer_scale1.lambda1",
            "ls2.gamma": "layer_scale2.lambda1",
        }.items():
            name = name.replace(old, new)
        name = "layernorm." + name.removeprefix("norm.") if name.startswith("norm.") else name
        if ".attn.qkv." in name:
            parts = np.split(array, 3)
            renamed |= {
                prefix + name.replace("attn.qkv", f"attention.attention.{part}"): piece
                for part, piece in zip(("query", "key", "value"), parts, strict=True)
            }
        else:
            renamed[prefix + name] = array
    return renamed


def sit(seed=0):
    """The layout of the authors' SiT, with its heads."""
    rng = np.random.default_rng(seed + 1)
    arrays = {{"cls_token": "rot_token", "dist_token": "contrastive_token"}.get(k, k): v for k, v in vit(2).items()}
    shapes = {
        **{"rot_head.weight": (4, WIDTH), "rot_head.bias": (4,)},
        **{"contrastive_head.weight": (512, WIDTH), "contrastive_head.bias": (512,)},
        **{"convTrans.weight": (WIDTH, 3, PATCH, PATCH), "convTrans.bias": (3,)},
        **{"rot_w": (1,), "contrastive_w": (1,), "recons_w": (1,)},
    }
    return arrays | {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def in_memory(arrays):
    """Names of Hugging Face's files as the names in the memory of transformers 5, which torch.save writes."""
    parts = {"attention.attention.query": "attention.q_proj", "attention.attention.key": "attention.k_proj"}
    parts |= {"attention.attention.value": "attention.v_proj", "attention.output.dense": "attention.o_proj"}
    parts |= {"intermediate.dense": "mlp.fc1", "output.dense": "mlp.fc2", "encoder.layer.": "layers."}
    renamed = {}
    for name, array in arrays.items():
        for old, new in parts.items():
            name = name.replace(old, new)
        renamed[name] = array
    return renamed


# By name: the arrays of a file, config.json beside it, the arrays for the reference, the epsilon.
FAMILIES = {
    "ViT": (vit(), MU, vit(), 1e-6),
    "with a classifier": (vit() | {"head.weight": np.zeros((3, WIDTH))}, MU, vit(), 1e-6),
    "distilled DeiT": (vit(2), MU, vit(2), 1e-6),
    "DINO in its training": ({f"module.backbone.{k}": v for k, v in vit().items()}, MU, vit(), 1e-6),
    "MAE with its decoder": (vit() | {"decoder_norm.bias": np.zeros(2), "mask_token": np.zeros(2)}, MU, vit(), 1e-6),
    "DINOv2": (vit(layer_scale=True), MU, vit(layer_scale=True), 1e-6),
    "ViT of Hugging Face": (hugging_face(vit(), "vit."), MU | {"layer_norm_eps": 1e-5}, vit(), 1e-5),
    "ViT in the memory of transformers": (in_memory(hugging_face(vit(), "vit.")), MU, vit(), 1e-12),
    "MAE of Hugging Face": (hugging_face(vit(), "vit.") | MAE_DECODER, MU, vit(), 1e-12),
    "distilled DeiT of Hugging Face": (hugging_face(vit(2), "deit."), MU, vit(2), 1e-12),
    "DINOv2 of Hugging Face": (hugging_face(vit(layer_scale=True), ""), MU, vit(layer_scale=True), 1e-6),
    "SiT": (sit(), MU, vit(2), 1e-6),
}


def write(folder, arrays, about=None):
    folder.mkdir(exist_ok=True)
    save_file(
        {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}, folder / "model.safetensors"
    )
    (folder / "config.json").write_text(json.dumps(about or {}))
    return folder


def mu_config(epsilon=1e-6):
    config = digits.get_config("runlocal")
    config.model.update(image_size=PATCH * GRID, patch_size=PATCH, norm_epsilon=epsilon)
    config.dtype = "float32"
    return resolve(config, 100)


def with_both_tokens(arrays):
    """A class token that stands for both tokens, with its position."""
    if "dist_token" in arrays:
        return arrays
    position = np.concatenate([arrays["pos_embed"][:, :1], arrays["pos_embed"]], axis=1)
    return arrays | {"dist_token": arrays["cls_token"], "pos_embed": position}


@pytest.mark.parametrize("family", FAMILIES)
def test_an_imported_encoder_gives_the_tokens_of_the_original(family, tmp_path):
    """Against an independent NumPy forward pass in float64, on images normalised as the original wants them: 1e-5."""
    arrays, about, reference, epsilon = FAMILIES[family]
    foreign = read_foreign(write(tmp_path / "weights", arrays, about))
    assert (foreign.size, foreign.patch_size, foreign.image_size) == ("mu", PATCH, PATCH * GRID)
    assert foreign.epsilon == epsilon
    images = np.random.default_rng(2).uniform(0, 1, (3, PATCH * GRID, PATCH * GRID, 3))
    mean, std = map(np.array, foreign.statistics)
    expected = encode(with_both_tokens(reference), (images - mean) / std, HEADS, epsilon)
    encoder = nnx.merge(make_graphdefs(mu_config(epsilon))["encoder"], jax.tree.map(jnp.asarray, foreign.encoder))
    found = np.asarray(encoder(jnp.asarray(2 * images - 1, jnp.float32)), np.float64)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_statistics_come_from_the_file_beside_the_weights(tmp_path):
    cfg = {"pretrained_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.2, 0.1]}}
    assert read_foreign(write(tmp_path / "a", vit(), MU | cfg)).statistics == ((0.5, 0.4, 0.3), (0.2, 0.2, 0.1))
    assert read_foreign(write(tmp_path / "b", vit(), MU)).statistics == IMAGENET
    raw = read_foreign(write(tmp_path / "c", vit(), MU | {"do_normalize": False}))
    assert raw.statistics == ((0, 0, 0), (1, 1, 1))


def test_the_line_on_what_was_read_says_the_statistics_that_are_folded(tmp_path):
    title = read_foreign(write(tmp_path / "weights", vit(), MU)).title()
    assert title.startswith(
        "ViT, DeiT, DINO or MAE, mu/4 at 16 px, for images normalised by mean (0.485, 0.456, 0.406)"
    )


def test_the_statistics_of_the_layouts_without_a_file_beside(tmp_path):
    """MAE of Hugging Face has those of ImageNet; its names without the decoder are those of a ViT, with 0.5."""
    mae = hugging_face(vit(), "vit.") | MAE_DECODER
    assert read_foreign(write(tmp_path / "mae", mae, MU)).statistics == IMAGENET
    assert read_foreign(write(tmp_path / "vit", hugging_face(vit(), "vit."), MU)).statistics == HALF


# By name: what config.json says, and a part of the line.
BESIDE = {
    "one mean": ({"image_mean": [0.5], "image_std": [0.5]}, "not three numbers each"),
    "words": ({"image_mean": "abc", "image_std": "abc"}, "not three numbers each"),
    "std 0": ({"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5, 0.5, 0]}}, "not three numbers each"),
    "epsilon": ({"layer_norm_eps": "small"}, "layer_norm_eps small in config.json"),
    "activation": ({"hidden_act": "quick_gelu"}, "activation quick_gelu"),
}


@pytest.mark.parametrize("name", BESIDE)
def test_a_file_beside_the_weights_that_does_not_fit_is_refused(name, tmp_path):
    about, expected = BESIDE[name]
    with pytest.raises(InputError, match=expected):
        read_foreign(write(tmp_path / "weights", vit(), MU | about))


def test_the_hash_of_a_file_is_that_of_sha256sum(tmp_path):
    folder = write(tmp_path / "weights", vit(), MU)
    expected = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert read_foreign(folder).sha256 == read_foreign(folder / "model.safetensors").sha256 == expected


def test_names_there_and_back_are_identical():
    arrays = vit(2)
    again = to_timm(from_timm(arrays), 3)
    assert again.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(again[name], array, err_msg=name)


def test_the_authors_weights_in_and_out_and_in_again(tmp_path):
    """Encoder and heads; the images are normalised as ours, so that nothing is folded and the arrays are identical."""
    statistics = {"pretrained_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}}
    arrays = sit()
    foreign = read_foreign(write(tmp_path / "first", arrays, MU | statistics))
    out = to_authors(foreign.encoder, foreign.heads, foreign.log_var)
    assert out.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(out[name], array, err_msg=name)
    again = read_foreign(write(tmp_path / "second", out, MU | statistics))
    jax.tree.map(np.testing.assert_array_equal, again.encoder, foreign.encoder)
    jax.tree.map(np.testing.assert_array_equal, again.heads, foreign.heads)


def test_the_authors_turn_clockwise(tmp_path):
    """Row 1 of their rotation head is a quarter turn clockwise, which is class 3 here."""
    arrays = sit()
    head = read_foreign(write(tmp_path / "weights", arrays, MU)).heads["rotation"]
    np.testing.assert_array_equal(head["kernel"][:, 3], arrays["rot_head.weight"][1])
    np.testing.assert_array_equal(head["bias"][[0, 1, 2, 3]], arrays["rot_head.bias"][[0, 3, 2, 1]])


def test_reconstructions_of_folded_weights_are_those_of_the_authors(tmp_path):
    """Their head gives normalised pixels; ours the same pixels in [-1, 1]: 1e-6 of the largest."""
    arrays = sit()
    foreign = read_foreign(write(tmp_path / "weights", arrays, MU))
    tokens = np.random.default_rng(5).normal(size=(7, WIDTH))
    theirs = (
        np.einsum("nd,dcij->nijc", tokens, arrays["convTrans.weight"].astype(np.float64)) + arrays["convTrans.bias"]
    )
    expected = 2 * (theirs * np.array(IMAGENET[1]) + np.array(IMAGENET[0])) - 1
    head = foreign.heads["reconstruction"]
    found = tokens @ head["linear"]["kernel"] + np.tile(head["bias"], PATCH * PATCH)
    np.testing.assert_allclose(found.reshape(expected.shape), expected, rtol=0, atol=1e-6 * np.abs(expected).max())


# Files of torch, written by hand.


def torch_file(path, content, protocol=2):
    """Writes arrays and other objects as torch.save does: tensors refer to raw files by persistent ids."""
    raw = []

    class Pickler(pickle._Pickler):
        def persistent_id(self, item):
            if isinstance(item, Storage):
                raw.append(item.array.ravel(order="K").tobytes())  # in the order of the memory
                kind = {"f": "FloatStorage", "i": "LongStorage"}[item.array.dtype.kind]
                return ("storage", getattr(torch, kind), str(len(raw) - 1), "cpu", item.array.size)
            return None

        def reducer_override(self, item):
            if isinstance(item, np.ndarray):
                strides = tuple(step // item.itemsize for step in item.strides)
                arguments = (Storage(item), 0, item.shape, strides, False, collections.OrderedDict())
                return torch_utils._rebuild_tensor_v2, arguments
            return NotImplemented

        def save(self, item, save_persistent_id=True):
            if isinstance(item, np.ndarray):
                return self.save_reduce(*self.reducer_override(item), obj=item)
            return super().save(item, save_persistent_id)

    buffer = io.BytesIO()
    Pickler(buffer, protocol).dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("weights/data.pkl", buffer.getvalue())
        for i, numbers in enumerate(raw):
            archive.writestr(f"weights/data/{i}", numbers)
    return path


class Storage:
    def __init__(self, array):
        self.array = array


def fake(module, *names):
    """A stand-in for a module of torch, so that the pickler can name its functions."""
    made = types.ModuleType(module)
    for name in names:
        function = types.FunctionType((lambda: None).__code__, {}, name)
        function.__qualname__, function.__module__ = name, module
        setattr(made, name, function)
    return made


torch = fake("torch", "FloatStorage", "LongStorage")
torch_utils = fake("torch._utils", "_rebuild_tensor_v2")


@pytest.fixture(autouse=True)
def torch_stands_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch._utils", torch_utils)


def test_a_file_of_torch_is_read_without_torch(tmp_path):
    arrays = sit()
    others = {"optimizer": {"lr": 0.1}, "epoch": 7, "args": argparse.Namespace(lr=1.0, name="x")}
    path = torch_file(tmp_path / "checkpoint.pth", {"model": collections.OrderedDict(arrays)} | others)
    read = read_weights(path)
    assert read.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(read.arrays[name], array, err_msg=name)
    transposed = torch_file(tmp_path / "transposed.pth", {"x": arrays["blocks.0.mlp.fc1.weight"].T})
    np.testing.assert_array_equal(read_weights(transposed).arrays["x"], arrays["blocks.0.mlp.fc1.weight"].T)


class Attack:
    """A pickle of this object would call a function of Python."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("function", [os.mkdir, eval, exec, getattr, print], ids=lambda function: function.__name__)
def test_a_malicious_file_is_refused_and_executes_nothing(function, tmp_path, capsys):
    mark = tmp_path / "executed"
    argument = str(mark) if function is os.mkdir else f"__import__('os').mkdir({str(mark)!r})"
    path = torch_file(
        tmp_path / "evil.pth", {"model": {"x": np.ones(3, np.float32)}, "args": Attack(function, argument)}
    )
    with pytest.raises(InputError, match=r"which weights do not need and which is not executed"):
        read_weights(path)
    assert not mark.exists() and not capsys.readouterr().out


def zipped(path, names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"x")


def beyond(path):
    """A tensor of ten numbers over a storage of two."""

    class Ten:
        def __reduce__(self):
            return torch_utils._rebuild_tensor_v2, (Storage(np.ones(2, np.float32)), 0, (10,), (1,), False, None)

    torch_file(path, {"x": Ten()})


def bomb(path):
    """A tensor of 10^12 numbers that repeats the one of its storage."""

    class Bomb:
        def __reduce__(self):
            return torch_utils._rebuild_tensor_v2, (Storage(np.ones(1, np.float32)), 0, (10**12,), (0,), False, None)

    torch_file(path, {"x": Bomb()})


def truncated(path):
    save_file(vit(), path)
    path.write_bytes(path.read_bytes()[:-100])


def sharded(path, places):
    path.mkdir()
    (path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def memo(path):
    """A pickle that asks for a memo of 300 million places: gigabytes for a few bytes."""
    pickled = b"\x80\x02}" + b"r" + struct.pack("<I", 300_000_000) + b"."
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", pickled)


def packed(path):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}.")
        archive.writestr("a/data/0", bytes(10**6))


def endless(path):
    """A dictionary that holds itself."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02}q\x00X\x05\x00\x00\x00modelh\x00s.")


# By name of a file: what writes it, and a part of the line.
DAMAGED = {
    "memo.pth": (memo, "its memo has impossible numbers"),
    "packed.pth": (packed, "is packed, and torch.save packs nothing"),
    "endless.pth": (endless, "holds no arrays by name"),
    "numbers.pth": (lambda path: torch_file(path, {0: np.ones(2, np.float32)}), "holds no arrays by name"),
    "weights.npz": (lambda path: np.savez(path, x=np.ones(2)), "the endings that are read are .safetensors, .pth"),
    "missing.pth": (lambda path: None, "there is no such file or folder"),
    "empty.pth": (lambda path: path.write_bytes(b""), "is no file of weights"),
    "text.pth": (lambda path: path.write_bytes(b"hello"), "is no file of weights"),
    "old.pth": (lambda path: path.write_bytes(b"\x80\x02\x8a"), "before version 1.6"),
    "cut.pth": (lambda path: path.write_bytes(b"PK\x03\x04abc"), "damaged or cut off"),
    "other.pth": (lambda path: zipped(path, ["a.txt"]), "a zip archive without weights"),
    "garbage.pth": (lambda path: zipped(path, ["a/data.pkl"]), "is damaged"),
    "beyond.pth": (beyond, "reaches beyond its storage"),
    "list.pth": (lambda path: torch_file(path, [1, 2]), "holds no arrays by name"),
    "cut.safetensors": (truncated, "is cut off"),
    "header.safetensors": (lambda path: path.write_bytes(struct.pack("<Q", 1 << 40)), "is no safetensors file"),
    "empty": (lambda path: path.mkdir(), "holds no weights"),
    "sharded": (
        *(
            lambda path: sharded(path, {"x": "model-1.safetensors"}),
            "names files that are missing: model-1.safetensors",
        ),
    ),
    "table": (lambda path: sharded(path, ["x"]), "has no table weight_map of names"),
    "bomb.pth": (bomb, "have more numbers than its storages"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_one_line(name, tmp_path):
    make, expected = DAMAGED[name]
    make(tmp_path / name)
    with pytest.raises(InputError, match=expected) as error:
        read_weights(tmp_path / name)
    assert "\n" not in str(error.value) and name in str(error.value)


def without(arrays, *parts):
    return {name: array for name, array in arrays.items() if not any(part in name for part in parts)}


# By name: the arrays, and a part of the line.
REFUSED = {
    "two encoders": (vit() | {f"backbone.{name}": array for name, array in vit().items()}, "holds two encoders"),
    "SiT of 2022": (vit() | {"cls_token1": np.zeros(1)}, "SiT of June 2022"),
    "registers": (vit() | {"register_tokens": np.zeros(1)}, "has register tokens"),
    "registers of timm": (vit() | {"reg_token": np.zeros(1)}, "has register tokens"),
    "DINOv3": (vit() | {"rope_embed.periods": np.zeros(1)}, "has rotary positions"),
    "gated MLP": (without(vit(), "mlp") | {"blocks.0.mlp.w12.weight": np.zeros(1)}, "has a gated MLP"),
    "no bias of qkv": (without(vit(), "qkv.bias"), "no bias for query, key and value"),
    "ResNet": ({"conv1.weight": np.zeros(1), "layer1.0.bn1.weight": np.zeros(1)}, "convolutional or windowed"),
    "nothing known": ({"a": np.zeros(1)}, "has no known layout"),
    "BEiT": (vit() | {"blocks.0.gamma_1": np.zeros(1)}, "scales its layers as BEiT and CaiT"),
    "DeiT III": (vit() | {"pos_embed": np.zeros((1, 16, WIDTH))}, "no position for its class token, as DeiT III"),
    "no positions": (without(vit(), "pos_embed"), "has no pos_embed of 3 dimensions"),
    "another shape": (vit() | {"blocks.0.attn.qkv.weight": np.zeros((2 * WIDTH, WIDTH))}, r"not \(96, 32\)"),
    "not a number": (vit() | {"norm.bias": np.full(WIDTH, np.nan)}, "values in norm.bias that are no numbers"),
    "LayerScale alone": (without(vit(layer_scale=True), "attn.proj"), "without the weight and bias of blocks.0.attn"),
    "a query alone": (without(hugging_face(vit(), ""), "value"), "has a query without key or value"),
    "SiT without a head": (without(sit(), "rot_head"), "lacks 2 arrays, such as rot_head.weight"),
    "SiT of ten turns": (sit() | {"rot_head.weight": np.zeros((10, WIDTH))}, r"not \(4, 32\)"),
    "a layer is missing": (without(vit(), "mlp.fc2"), "lacks 2 arrays"),
    "something unknown": (
        vit() | {"adapter.weight": np.zeros(1)},
        "has 1 arrays that are not known, such as adapter.weight",
    ),
    "five channels": (vit() | {"patch_embed.proj.weight": np.zeros((WIDTH, 5, 4, 4))}, "images of 5 channels"),
    "another width": (vit() | {"patch_embed.proj.weight": np.zeros((48, 3, 4, 4))}, "unlike the sizes here"),
    "no square": (vit() | {"pos_embed": np.zeros((1, 13, WIDTH))}, "which is no square"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_refused_with_the_reason(name, tmp_path):
    arrays, expected = REFUSED[name]
    with pytest.raises(InputError, match=expected) as error:
        read_foreign(write(tmp_path / "weights", arrays, MU))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


def test_a_pickle_changes_nothing_of_this_program(tmp_path):
    """What a pickle gets for the functions of torch is made for one file."""
    first, second = (torch_file(tmp_path / name, {"x": np.ones(2, np.float32)}) for name in ("a.pth", "b.pth"))
    assert read_weights(first).arrays["x"].tolist() == read_weights(second).arrays["x"].tolist() == [1, 1]
    with zipfile.ZipFile(tmp_path / "state.pth", "w") as archive:
        set_doc = b"ctorch._utils\n_rebuild_tensor_v2\n}X\x07\x00\x00\x00__doc__X\x05\x00\x00\x00ownedsb."
        archive.writestr("a/data.pkl", b"\x80\x02" + set_doc)
    with pytest.raises(InputError):
        read_weights(tmp_path / "state.pth")
    assert "owned" not in str(torch_reader.Rebuild.__doc__) and "owned" not in str(torch_reader.rebuild_tensor.__doc__)


def test_integers_are_refused(tmp_path):
    write(tmp_path / "weights", vit(), MU)
    arrays = vit() | {"norm.bias": np.zeros(WIDTH, np.int8)}
    save_file(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()},
        tmp_path / "weights" / "model.safetensors",
    )
    with pytest.raises(InputError, match=r"holds integers in norm\.bias"):
        read_foreign(tmp_path / "weights")


def test_a_file_among_others_does_not_take_their_configuration(tmp_path):
    write(tmp_path / "weights", vit(), {"num_attention_heads": 99, "image_mean": [0.1] * 3, "image_std": [0.1] * 3})
    (tmp_path / "weights" / "model.safetensors").rename(tmp_path / "weights" / "dino.safetensors")
    foreign = read_foreign(tmp_path / "weights" / "dino.safetensors")
    assert foreign.size == "mu" and foreign.statistics == IMAGENET


@pytest.mark.parametrize("about", [{}, {"model_args": {"num_heads": HEADS}}, MU])
def test_the_number_of_heads_follows_from_the_size(tmp_path, about):
    assert read_foreign(write(tmp_path / "weights", vit(), about)).size == "mu"
    with pytest.raises(InputError, match="and 3 heads, unlike the sizes here"):
        read_foreign(write(tmp_path / "other", vit(), {"num_attention_heads": 3}))


@pytest.mark.parametrize("about", [{"image_mean": [np.nan] * 3, "image_std": [1] * 3}, {"do_rescale": False}])
def test_impossible_statistics_are_refused(tmp_path, about):
    with pytest.raises(InputError, match=r"not three numbers each|do_rescale is false"):
        read_foreign(write(tmp_path / "weights", vit(), MU | about))

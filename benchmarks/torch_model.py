"""The model and the losses of sit_jax in PyTorch: the same shapes, the same initialisation, the same formulas."""

import functools
import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from sit_jax.model.heads import projector_sizes
from sit_jax.model.sizes import SIZES, TOKENS
from sit_jax.model.tasks import TASKS


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Linear:
    """Makes a dense layer with weights from N(0, 0.02^2) and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    normal(layer.weight)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer


def normal(x: Tensor) -> Tensor:
    """Fills `x` from N(0, 0.02^2)."""
    return nn.init.normal_(x, std=0.02)


class Block(nn.Module):
    """Pre-norm transformer layer with stochastic depth, [V, T, D] to [V, T, D]."""

    def __init__(self, width: int, mlp: int, heads: int, rate: float):
        super().__init__()
        self.heads, self.rate = heads, rate
        self.norm1, self.norm2 = nn.LayerNorm(width, eps=1e-6), nn.LayerNorm(width, eps=1e-6)
        self.qkv, self.out = linear(width, 3 * width), linear(width, width)
        self.mlp_in, self.mlp_out = linear(width, mlp), linear(mlp, width)

    def forward(self, x: Tensor, drop: Tensor | None) -> Tensor:
        """Runs the layer; `drop` [2, V] in [0, 1) decides which rows lose a branch and is None in evaluation."""
        x = x + self.drop_path(self.attention(self.norm1(x)), drop, 0)
        hidden = F.gelu(self.mlp_in(self.norm2(x)))
        return x + self.drop_path(self.mlp_out(hidden), drop, 1)

    def attention(self, x: Tensor) -> Tensor:
        """Lets every token attend to all tokens, [V, T, D] to [V, T, D]."""
        views, tokens, width = x.shape
        q, k, v = self.qkv(x).view(views, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v)
        return self.out(x.transpose(1, 2).reshape(views, tokens, width))

    def drop_path(self, x: Tensor, drop: Tensor | None, branch: int) -> Tensor:
        """Drops each row's branch with probability `rate`, else scales it by 1 / (1 - rate)."""
        if drop is None or not self.rate:
            return x
        keep = drop[branch] < 1 - self.rate
        return x * (keep / (1 - self.rate)).to(x.dtype)[:, None, None]


class SiT(nn.Module):
    """The encoder and its three heads; `config` is a resolved configuration of sit_jax as a dictionary."""

    def __init__(self, config: dict):
        super().__init__()
        model = config["model"]
        width, depth, mlp, heads = SIZES[model["size"]]
        pixels = model["patch_size"] ** 2 * 3
        self.patch_size, self.remat = model["patch_size"], model["remat"]
        self.patch_embedding = linear(pixels, width)
        self.tokens = nn.Parameter(normal(torch.empty(TOKENS, width)))
        patches = (model["image_size"] // model["patch_size"]) ** 2
        self.position_embedding = nn.Parameter(normal(torch.empty(TOKENS + patches, width)))
        rates = np.linspace(0, model["drop_path"], depth).tolist()
        self.blocks = nn.ModuleList(Block(width, mlp, heads, rate) for rate in rates)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.rotation = linear(width, 4)
        sizes = projector_sizes(width, model["projector_layers"], model["projector_width"], model["embedding_size"])
        self.contrastive = nn.ModuleList(linear(*pair) for pair in sizes)
        self.reconstruction = linear(width, pixels, bias=False)
        self.reconstruction_bias = nn.Parameter(torch.zeros(3))
        self.log_var = nn.Parameter(torch.full((len(TASKS),), float(config["loss"]["log_var_init"])))

    def forward(self, images: Tensor, drop: Tensor | None = None) -> dict[str, Tensor]:
        """Runs the encoder and the heads on [V, s, s, 3] in [-1, 1]; `drop` [depth, 2, V] turns stochastic depth on.

        Returns float32 `rotation` logits [V, 4], `embedding` [V, E] and `patches` [V, N, P * P * 3].
        """
        x = self.patch_embedding(patchify(images, self.patch_size))
        x = torch.cat([self.tokens.to(x.dtype).expand(len(x), -1, -1), x], dim=1) + self.position_embedding.to(x.dtype)
        for i, block in enumerate(self.blocks):
            branch_drop = None if drop is None else drop[i]
            x = checkpoint(block, x, branch_drop, use_reentrant=False) if self.remat else block(x, branch_drop)
        x = self.norm(x)
        patches = self.reconstruction(x[:, TOKENS:]).float()
        embedding = self.contrastive[0](x[:, 1])
        for layer in self.contrastive[1:]:
            embedding = layer(F.gelu(embedding))
        return {
            "rotation": self.rotation(x[:, 0]).float(),
            "embedding": embedding.float(),
            "patches": patches + self.reconstruction_bias.repeat(patches.shape[-1] // 3),
        }


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """Cuts [V, s, s, C] into patches [V, N, P * P * C] in row-major order; C is the number of channels."""
    views, size, _, channels = images.shape
    side = size // patch_size
    x = images.reshape(views, side, patch_size, side, patch_size, channels).transpose(2, 3)
    return x.reshape(views, side * side, patch_size * patch_size * channels)


def losses(out: dict[str, Tensor], views, log_var: Tensor, config: dict) -> dict[str, Tensor]:
    """Returns the three losses of a batch and their weighted sum `loss`, float32 [], from the model's outputs."""
    patch_size, temperature = config["model"]["patch_size"], config["loss"]["temperature"]
    # The distance is a mean over pixels, so cutting the target into patches avoids joining the rebuilt patches.
    distance = (out["patches"] - patchify(views.clean, patch_size)).abs()
    if config["loss"]["corrupted_only"]:
        mask = patchify(functools.reduce(torch.logical_or, views.masks.values())[..., None], patch_size)
        distance = distance.unflatten(-1, (-1, 3)).mean(-1) * mask
        reconstruction = distance.sum() / mask.sum().clamp(min=1)
    else:
        reconstruction = distance.mean()
    parts = {
        "reconstruction": reconstruction,
        "rotation": F.cross_entropy(out["rotation"], views.rotation),
        "contrastive": nt_xent(out["embedding"], temperature),
    }
    total = torch.zeros((), device=log_var.device)
    for i, task in enumerate(TASKS):
        weight = config["loss"]["weights"][task]
        if weight == "learned":
            total = total + torch.exp(-TASKS[task].likelihood_scale * log_var[i]) * parts[task] + 0.5 * log_var[i]
        else:
            total = total + float(weight) * parts[task]
    return {"loss": total, **parts}


def nt_xent(embedding: Tensor, temperature: float) -> Tensor:
    """Returns the NT-Xent loss of embeddings [2B, E]; rows 2i and 2i+1 are a positive pair."""
    rows = torch.arange(len(embedding), device=embedding.device)
    z = embedding * torch.rsqrt(embedding.square().sum(1, keepdim=True) + 1e-12)
    similarity = (z @ z.T / temperature).masked_fill(rows[:, None] == rows[None, :], -math.inf)
    return F.cross_entropy(similarity, rows ^ 1)


def parameter_count(model: SiT) -> int:
    """Returns the number of trained values, including the log variances of the losses."""
    return sum(p.numel() for p in model.parameters())


@torch.no_grad()
def load_jax_params(model: SiT, params: dict[str, np.ndarray]) -> None:
    """Copies the parameters of sit_jax, by path such as `model/encoder/tokens`, into the model.

    Raises ValueError if a parameter is missing, unused or of another shape.
    """
    left = dict(params)

    def copy(target: Tensor, path: str, index: int | None = None) -> None:
        value = left.pop(path) if index is None else left[path][index]
        value = value.T if path.endswith("kernel") else value
        if value.shape != tuple(target.shape):
            raise ValueError(f"{path} is {list(value.shape)}, the model has {list(target.shape)}")
        target.copy_(torch.from_numpy(np.array(value)))

    def copy_layer(layer: nn.Module, path: str, index: int | None = None) -> None:
        copy(layer.weight, f"{path}/{'scale' if isinstance(layer, nn.LayerNorm) else 'kernel'}", index)
        if layer.bias is not None:
            copy(layer.bias, f"{path}/bias", index)

    encoder = "model/encoder"
    copy(model.tokens, f"{encoder}/tokens")
    copy(model.position_embedding, f"{encoder}/position_embedding")
    copy_layer(model.patch_embedding, f"{encoder}/patch_embedding")
    copy_layer(model.norm, f"{encoder}/norm")
    names = ("norm1", "norm2", "attention/qkv", "attention/out", "mlp_in", "mlp_out")
    for i, block in enumerate(model.blocks):
        for name in names:
            copy_layer(getattr(block, name.split("/")[-1]), f"{encoder}/blocks/{name}", i)
    for path in [path for path in left if path.startswith(f"{encoder}/blocks/")]:
        if len(left.pop(path)) != len(model.blocks) or path.split("blocks/")[1].rpartition("/")[0] not in names:
            raise ValueError(f"{path} does not fit the {len(model.blocks)} layers of the model")
    copy_layer(model.rotation, "model/rotation")
    for i, layer in enumerate(model.contrastive):
        copy_layer(layer, f"model/contrastive/layer{i}" if len(model.contrastive) > 1 else "model/contrastive")
    copy_layer(model.reconstruction, "model/reconstruction/linear")
    copy(model.reconstruction_bias, "model/reconstruction/bias")
    for i, task in enumerate(TASKS):
        copy(model.log_var[i], f"log_var/{task}")
    if left:
        raise ValueError(f"the model has no {', '.join(left)}")

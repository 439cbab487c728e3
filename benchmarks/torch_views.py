"""The views and corruptions of sit_jax in PyTorch, all images of a batch at once and without a loop over them.

Inside, views are [V, h, 3, w]: crop and blur are then two batched matrix products each that copy nothing.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.torch_corrupt import OPERATIONS, between, candidates, grayscale, jitter, mask, wide


class Views(NamedTuple):
    """The two views of B images, rows 2i and 2i+1 from image i (V = 2B)."""

    clean: Tensor  # [V, s, s, 3] float32 in [-1, 1], rotated: the target of the reconstruction
    corrupted: Tensor  # [V, s, s, 3] float32: what the network sees
    rotation: Tensor  # [V] int64 in 0..3: quarter turns counter-clockwise
    masks: dict[str, Tensor]  # {operation: [V, s, s] bool}: the pixels that each corruption wrote


class Draws(NamedTuple):
    """All that is random in the views of a step, drawn in two calls."""

    uniform: Tensor  # [V, K] in [0, 1)
    noise: Tensor | None  # [V, s, 3, s] from N(0, 1), where dropped blocks are filled with noise


def make_views(images: Tensor, config: dict, generator: torch.Generator) -> Views:
    """Makes the training input of one step from `images` [B, H, W, 3] uint8 on any device."""
    return build_views(images, draw(2 * len(images), config, generator), config)


def draw(views: int, config: dict, generator: torch.Generator) -> Draws:
    """Draws what `build_views` needs for so many views, on the device of the generator."""
    device, size = generator.device, config["model"]["image_size"]
    uniform = torch.rand(views, sum(widths(config).values()), generator=generator, device=device)
    noise = None
    if config["corrupt"]["drop"]["fill"] == "noise":
        noise = torch.randn(views, size, 3, size, generator=generator, device=device)
    return Draws(uniform, noise)


def widths(config: dict) -> dict[str, int]:
    """Returns how many uniform numbers a view needs, by purpose."""
    numbers = {"area": 1, "ratio": 1, "y": 1, "x": 1, "flip": 1, "jitter": 4, "gray": 1, "quarters": 1}
    for name in OPERATIONS:
        section = config["corrupt"][name]
        if "fraction" in section:
            count, tiles, _ = candidates(config["model"]["image_size"], section)
            numbers |= {f"{name}/share": 1, f"{name}/sides": 2 * count, f"{name}/start": 2 * count}
            numbers |= {f"{name}/tiles": tiles**2}
        else:
            numbers |= {f"{name}/use": 1, f"{name}/sides": 2, f"{name}/start": 2}
    return numbers | {"sigma": 1, "radius": 1, "recolour": 4, "shift": 1, "donor": 1}


def build_views(images: Tensor, draws: Draws, config: dict) -> Views:
    """Makes the views of `images` [B, H, W, 3] uint8 from the numbers drawn; to be compiled."""
    size, purposes = config["model"]["image_size"], widths(config)
    u = dict(zip(purposes, draws.uniform.split(list(purposes.values()), dim=1), strict=True))
    quarters = (u["quarters"][:, 0] * 4).long()
    view = crop(images, size, u, quarters, config["views"])
    view = jitter(view, u["jitter"], config["views"])
    if config["views"]["grayscale"]:
        view = torch.where(wide(u["gray"] < config["views"]["grayscale"]), grayscale(view), view)
    # The flips of a quarter turn are in the crop; what is left of it is to swap the axes.
    clean = torch.where(wide(quarters % 2 == 1), view.transpose(1, 3), view) * 2 - 1
    masks, out = {}, clean
    for name, operation in OPERATIONS.items():
        section = config["corrupt"][name]
        masks[name] = mask(u, name, size, section)
        changed = operation(out, clean, u, section, draws.noise)
        out = torch.where(masks[name][:, :, None], changed, out)
    return Views(clean.transpose(2, 3), out.transpose(2, 3), quarters, masks)


def crop(images: Tensor, size: int, u: dict[str, Tensor], quarters: Tensor, config: dict) -> Tensor:
    """Crops a random box of each image twice and resizes it, bicubic and antialiased, to [V, size, 3, size] in [0, 1].

    Mirrors it too, at random and as the first half of the quarter turns.
    """
    batch, height, width, _ = images.shape
    share = between(u["area"], *config["area"])
    aspect = torch.exp(between(u["ratio"], *map(math.log, config["ratio"])))
    mirror_x = (u["flip"][:, 0] < config["flip"]) ^ (quarters == 1) ^ (quarters == 2)
    mirror_y = (quarters == 2) | (quarters == 3)
    rows = resize_matrix(height, size, (share / aspect).sqrt(), u["y"], mirror_y)
    columns = resize_matrix(width, size, (share * aspect).sqrt(), u["x"], mirror_x)
    planes = images.transpose(2, 3).float().reshape(batch, height, 3 * width) / 255
    # 25 ms for 32 views of 96 to 224 px on 2 cores; F.grid_sample (not antialiased) 61 ms, kornia 0.9 71 ms.
    view = torch.bmm(rows.reshape(batch, 2 * size, height), planes).reshape(2 * batch, size * 3, width)
    view = torch.bmm(view, columns.transpose(1, 2)).reshape(2 * batch, size, 3, size)
    return view.clamp(0, 1)


def resize_matrix(old: int, new: int, side: Tensor, start: Tensor, mirror: Tensor) -> Tensor:
    """Returns the matrix [V, new, old] that resizes a part of an axis; side, start [V, 1] are shares, mirror [V]."""
    side = side.clamp(max=1)
    place = torch.arange(new, device=side.device).expand(len(side), new)
    place = torch.where(mirror[:, None], new - 1 - place, place)
    step = side * old / new
    centre = (place + 0.5) * step + start * (1 - side) * old - 0.5
    distance = (centre[:, :, None] - torch.arange(old, device=side.device)).abs() / step[:, :, None].clamp(min=1)
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weight = torch.where(distance < 1, near, torch.where(distance < 2, far, 0.0))
    return weight / weight.sum(dim=2, keepdim=True)

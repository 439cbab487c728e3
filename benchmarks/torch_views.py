"""The views and corruptions of sit_jax in PyTorch, for all images of a batch at once, without a loop over images.

Internally, views are [V, h, 3, w], so that crop and blur are two batched matrix products each, without copies.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks.torch_corrupt import OPERATIONS, between, candidates, grayscale, jitter, mask, wide


class Views(NamedTuple):
    """The two views of B images, rows 2i and 2i+1 from image i (V = 2B)."""

    clean: Tensor  # [V, s, s, 3] float32 in [-1, 1], rotated: the target of the reconstruction
    corrupted: Tensor  # [V, s, s, 3] float32: the input of the network
    rotation: Tensor  # [V] int64 in 0..3: quarter turns counter-clockwise
    masks: dict[str, Tensor]  # {operation: [V, s, s] bool}: the pixels that each corruption wrote


class Draws(NamedTuple):
    """All random numbers for the views of a step, drawn in two calls."""

    uniform: Tensor  # [V, sum of `widths`] in [0, 1)
    noise: Tensor | None  # [V, s, 3, s] from N(0, 1), if dropped blocks are filled with noise


def make_views(images: Tensor, config: dict, generator: torch.Generator) -> Views:
    """Makes the training input of one step from `images` [B, H, W, 3] uint8 on any device."""
    return build_views(images, draw(2 * len(images), config, generator), config)


def draw(views: int, config: dict, generator: torch.Generator) -> Draws:
    """Draws the random numbers that `build_views` needs for `views` views, on the device of the generator."""
    device, size = generator.device, config["model"]["image_size"]
    uniform = torch.rand(views, sum(widths(config).values()), generator=generator, device=device)
    noise = None
    if config["corrupt"]["drop"]["fill"] == "noise":
        noise = torch.randn(views, size, 3, size, generator=generator, device=device)
    return Draws(uniform, noise)


def widths(config: dict) -> dict[str, int]:
    """Returns the number of uniform numbers that a view needs, by purpose."""
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
    """Makes the views of `images` [B, H, W, 3] uint8 from the drawn numbers; ready to be compiled."""
    size, purposes = config["model"]["image_size"], widths(config)
    u = dict(zip(purposes, draws.uniform.split(list(purposes.values()), dim=1), strict=True))
    quarters = (u["quarters"][:, 0] * 4).long()
    view = crop(images, size, u, quarters, config["views"])
    view = jitter(view, u["jitter"], config["views"])
    if config["views"]["grayscale"]:
        view = torch.where(wide(u["gray"] < config["views"]["grayscale"]), grayscale(view), view)
    # The crop includes the flips of a quarter turn. The axes are swapped here.
    clean = torch.where(wide(quarters % 2 == 1), view.transpose(1, 3), view) * 2 - 1
    masks, out = {}, clean
    for name, operation in OPERATIONS.items():
        section = config["corrupt"][name]
        masks[name] = mask(u, name, size, section)
        changed = operation(out, clean, u, section, draws.noise)
        out = torch.where(masks[name][:, :, None], changed, out)
    return Views(clean.transpose(2, 3), out.transpose(2, 3), quarters, masks)


def crop(images: Tensor, size: int, u: dict[str, Tensor], quarters: Tensor, config: dict) -> Tensor:
    """Crops a random box of each image twice and resizes it to [V, size, 3, size] in [0, 1], bicubic and antialiased.

    Also flips it: at random, and as the first half of the quarter turns.
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
    """Returns the matrix [V, new, old] that resizes a part of an axis; side, start [V, 1] are shares, mirror is [V]."""
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

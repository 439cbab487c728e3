"""The corruptions and the colour jitter of sit_jax in PyTorch, on all views at once; views are [V, h, 3, w] here."""

import math

import torch
from torch import Tensor

from sit_jax.views.blocks import MAX_RANDOM_BLOCKS, grid_side
from sit_jax.views.color import LUMA, RGB_TO_YIQ, YIQ_TO_RGB
from sit_jax.views.corrupt import group_size


def wide(x: Tensor) -> Tensor:
    """Reshapes one number per view, [V] or [V, 1], to broadcast with [V, h, 3, w]."""
    return x.reshape(-1, 1, 1, 1)


def between(u: Tensor, low: float, high: float) -> Tensor:
    """Maps [0, 1) to [low, high)."""
    return low + u * (high - low)


def grayscale(x: Tensor) -> Tensor:
    """Converts [V, h, 3, w] to grayscale."""
    red, green, blue = x.unbind(2)
    return (LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue)[:, :, None].expand_as(x)


def jitter(x: Tensor, u: Tensor, config: dict) -> Tensor:
    """Jitters brightness, contrast, saturation and hue of [V, h, 3, w] in [0, 1]; `u` [V, 4] are uniform numbers."""

    # 7 ms compiled for 32 views of 224 px on 2 cores; the ColorJitter of kornia 0.9 takes 46 ms.
    def blend(other: Tensor | float, i: int, strength: float) -> Tensor:
        weight = wide(between(u[:, i], max(0.0, 1 - strength), 1 + strength))
        return (other + weight * (x - other)).clamp(0, 1)

    if config["brightness"]:
        x = blend(0.0, 0, config["brightness"])
    if config["contrast"]:
        x = blend(grayscale(x)[:, :, :1].mean(dim=(1, 2, 3), keepdim=True), 1, config["contrast"])
    if config["saturation"]:
        x = blend(grayscale(x), 2, config["saturation"])
    if config["hue"]:
        x = rotate_hue(x, between(u[:, 3], -config["hue"], config["hue"])).clamp(0, 1)
    return x


def rotate_hue(x: Tensor, turn: Tensor) -> Tensor:
    """Rotates the hue of [V, h, 3, w] by `turn` [V] full circles and keeps the luma."""
    to_yiq = torch.tensor(RGB_TO_YIQ, dtype=x.dtype, device=x.device)
    from_yiq = torch.tensor(YIQ_TO_RGB, dtype=x.dtype, device=x.device)
    cos, sin = torch.cos(2 * math.pi * turn), torch.sin(2 * math.pi * turn)
    one, zero = torch.ones_like(cos), torch.zeros_like(cos)
    rotation = torch.stack([one, zero, zero, zero, cos, -sin, zero, sin, cos], dim=1).reshape(-1, 3, 3)
    matrix = from_yiq @ rotation @ to_yiq
    channels = x.unbind(2)
    mixed = [sum(matrix[:, i, j, None, None] * channels[j] for j in range(3)) for i in range(3)]
    return torch.stack(mixed, dim=2)


def candidates(size: int, section: dict) -> tuple[int, int, int]:
    """Returns (random blocks, tiles per side, cells per tile) of a mask of several blocks; see sit_jax.views.blocks."""
    block, fraction, cells = section["block"], section["fraction"], grid_side(size)
    mean_area = ((block[0] + block[1]) / 2) ** 2
    count = min(math.ceil(1.5 * -math.log1p(-min(fraction[1], 0.95)) / mean_area) + 1, MAX_RANDOM_BLOCKS)
    tile = min(cells, max(1, int(block[1] * cells)))
    return count, math.ceil(cells / tile), tile


def mask(u: dict[str, Tensor], name: str, size: int, section: dict) -> Tensor:
    """Returns the mask of an operation, [V, size, size] bool: one block, or blocks up to a share of the image."""
    sides = between(u[f"{name}/sides"].unflatten(1, (2, -1)), *section["block"])
    start = u[f"{name}/start"].unflatten(1, (2, -1))
    if "fraction" in section:
        share = between(u[f"{name}/share"], *section["fraction"])
        return many_blocks(share, sides, start, u[f"{name}/tiles"], size, section)
    sides = (sides * size).round().clamp(1, size)
    rows, columns = inside((start * (size - sides + 1)).floor(), sides, size)
    used = u[f"{name}/use"] < section["probability"]
    return (rows & columns)[:, 0] & used[:, :, None]


def many_blocks(share: Tensor, sides: Tensor, start: Tensor, order: Tensor, size: int, section: dict) -> Tensor:
    """Returns the mask [V, size, size] of blocks that cover a share of the image, to within one block.

    `sides` and `start` [V, 2, count] define the random blocks. Tiles follow them, in the random order `order` [V, n].
    """
    count, tiles, tile = candidates(size, section)
    cells = grid_side(size)
    sides = (sides * cells).round().clamp(1, cells)
    reach = (sides / 2).floor()
    rows, columns = inside((start * (cells - sides + 2 * reach + 1)).floor() - reach, sides, cells)
    number = torch.arange(count, device=share.device)[:, None, None]
    first = torch.where(rows & columns, number, MAX_RANDOM_BLOCKS + tiles**2).amin(dim=1)
    place = torch.arange(cells, device=share.device) // tile
    rank = order.argsort(dim=1)[:, place[:, None] * tiles + place[None, :]]
    first = torch.minimum(first, count + rank)
    # There are few blocks, so counting the cells that each block adds is faster than sorting the cells.
    added = torch.zeros(len(share), count + tiles**2, device=share.device)
    added = added.scatter_add(1, first.flatten(1), torch.ones_like(first, dtype=torch.float32).flatten(1))
    wanted = (share * cells * cells).ceil()
    last = (added.cumsum(dim=1) < wanted).sum(dim=1)
    small = (first <= last[:, None, None]) & (wanted > 0)[:, :, None]
    repeat = size // cells
    return small[:, :, None, :, None].expand(-1, -1, repeat, -1, repeat).reshape(-1, size, size)


def inside(start: Tensor, sides: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Returns the rows, bool [V, n, size, 1], and columns, [V, n, 1, size], of n blocks; start, sides are [V, 2, n]."""
    place = torch.arange(size, device=start.device)
    within = (place >= start[..., None]) & (place < (start + sides)[..., None])
    return within[:, 0, :, :, None], within[:, 1, :, None, :]


def blur(x: Tensor, clean: Tensor, u: dict[str, Tensor], section: dict, noise: Tensor | None) -> Tensor:
    """Blurs each view with its own Gaussian, truncated and renormalised at the border."""
    views, size = len(x), x.shape[1]
    place = torch.arange(size, device=x.device)
    distance = (place[:, None] - place[None, :]).abs()
    low, high = (side // 2 for side in section["kernel"])
    sigma = between(u["sigma"], *section["sigma"])[:, :, None]
    radius = low + (u["radius"] * (high - low + 1)).floor()[:, :, None]
    weight = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance <= radius)
    matrix = weight / weight.sum(dim=2, keepdim=True)
    rows = torch.bmm(matrix, x.reshape(views, size, 3 * size)).reshape(views, size * 3, size)
    return torch.bmm(rows, matrix.transpose(1, 2)).reshape(x.shape)


def recolour(x: Tensor, clean: Tensor, u: dict[str, Tensor], section: dict, noise: Tensor | None) -> Tensor:
    """Jitters the colours."""
    return jitter(((x + 1) / 2).clamp(0, 1), u["recolour"], section) * 2 - 1


def drop(x: Tensor, clean: Tensor, u: dict[str, Tensor], section: dict, noise: Tensor | None) -> Tensor:
    """Returns the content of dropped blocks: noise, zeros, or the mean colour of the view."""
    if noise is not None:
        return section["noise_std"] * noise
    return torch.zeros_like(x) if section["fill"] == "zeros" else x.mean(dim=(1, 3), keepdim=True).expand_as(x)


def replace(x: Tensor, clean: Tensor, u: dict[str, Tensor], section: dict, noise: Tensor | None) -> Tensor:
    """Returns, for each view, the clean view of another image in its group."""
    group = group_size(len(x) // 2)
    row = torch.arange(len(x), device=x.device)
    shift = 1 + (u["shift"][:, 0] * (max(group, 2) - 1)).long()
    donor = (row % (2 * group) // 2 + shift) % group * 2 + (u["donor"][:, 0] * 2).long()
    return clean[row // (2 * group) * 2 * group + donor]


def to_gray(x: Tensor, clean: Tensor, u: dict[str, Tensor], section: dict, noise: Tensor | None) -> Tensor:
    """Converts to grayscale."""
    return grayscale(x)


OPERATIONS = {"grayscale": to_gray, "blur": blur, "recolour": recolour, "drop": drop, "replace": replace}

"""Random masks of rectangular blocks: connected areas of the image, not single pixels (SiT, section 3)."""

import math

import jax
import jax.numpy as jnp

MAX_CELLS = 64  # masks of several blocks are drawn on at most 64 x 64 cells, then enlarged
MAX_RANDOM_BLOCKS = 128


def one_block(key: jax.Array, size: int, block: tuple, probability: float) -> jax.Array:
    """Draws the mask of one block, [s, s] bool, with s = `size`.

    Each side of the block is a share of s from U(*block), at least one pixel. With probability 1 - `probability` the
    mask is empty.
    """
    use_key, side_key, start_key = jax.random.split(key, 3)
    sides = jnp.round(jax.random.uniform(side_key, (2,), minval=block[0], maxval=block[1]) * size)
    sides = jnp.clip(sides, 1, size)
    start = jnp.floor(jax.random.uniform(start_key, (2,)) * (size - sides + 1))
    inside = _inside(start, sides, size)
    return inside[0][:, None] & inside[1][None, :] & jax.random.bernoulli(use_key, probability)


def many_blocks(key: jax.Array, size: int, fraction: tuple, block: tuple) -> jax.Array:
    """Draws a mask of blocks, [s, s] bool with s = `size`, that covers a random share of the image to within one block.

    The share is from U(*fraction); each side of a block is a share of s from U(*block). All candidate blocks are drawn
    at once, and each cell stores the first block that covers it. The mask is the shortest prefix of the blocks that
    covers enough, with static shapes and without a loop. Tiles of a grid in random order follow the random blocks, so
    that any share can be reached.
    """
    share_key, side_key, start_key, tile_key = jax.random.split(key, 4)
    share = jax.random.uniform(share_key, minval=fraction[0], maxval=fraction[1])
    cells = grid_side(size)
    first = jnp.minimum(
        _first_random_block(side_key, start_key, cells, fraction, block),
        MAX_RANDOM_BLOCKS + _random_tiles(tile_key, cells, block),
    )
    wanted = jnp.ceil(share * cells * cells).astype(jnp.int32)
    last = jnp.sort(first.ravel())[jnp.maximum(wanted, 1) - 1]
    mask = (first <= last) & (wanted > 0)
    return jnp.repeat(jnp.repeat(mask, size // cells, axis=0), size // cells, axis=1)


def _inside(start: jax.Array, length: jax.Array, size: int) -> jax.Array:
    position = jnp.arange(size)
    return (position >= start[..., None]) & (position < (start + length)[..., None])


def grid_side(size: int) -> int:
    """Returns the cells per side: the largest divisor of `size` up to MAX_CELLS, or `size` if that is too coarse."""
    divisor = max(d for d in range(1, min(size, MAX_CELLS) + 1) if size % d == 0)
    return divisor if divisor >= min(size, MAX_CELLS // 2) else size


def _first_random_block(
    side_key: jax.Array, start_key: jax.Array, cells: int, fraction: tuple, block: tuple
) -> jax.Array:
    """Returns the index of the first random block on each cell, [cells, cells] int32; the maximum if none."""
    mean_area = ((block[0] + block[1]) / 2) ** 2
    # Blocks overlap: the expected share of n blocks is 1 - (1 - mean_area)^n. The factor 1.5 covers unlucky draws.
    count = math.ceil(1.5 * -math.log1p(-min(fraction[1], 0.95)) / mean_area) + 1
    count = min(count, MAX_RANDOM_BLOCKS)
    sides = jnp.round(jax.random.uniform(side_key, (count, 2), minval=block[0], maxval=block[1]) * cells)
    sides = jnp.clip(sides, 1, cells)
    # Up to half of a block may lie outside the image; otherwise corners would rarely be covered.
    reach = jnp.floor(sides / 2)
    start = jnp.floor(jax.random.uniform(start_key, (count, 2)) * (cells - sides + 2 * reach + 1)) - reach
    inside = _inside(start, sides, cells)
    covers = inside[:, 0, :, None] & inside[:, 1, None, :]
    index = jnp.arange(count)[:, None, None]
    return jnp.min(jnp.where(covers, index, jnp.iinfo(jnp.int32).max), axis=0)


def _random_tiles(key: jax.Array, cells: int, block: tuple) -> jax.Array:
    """Returns the random rank of each cell's tile, [cells, cells] int32; a tile has the side of the largest block."""
    side = min(cells, max(1, int(block[1] * cells)))
    tiles = math.ceil(cells / side)
    rank = jax.random.permutation(key, tiles * tiles).reshape(tiles, tiles)
    tile = jnp.arange(cells) // side
    return rank[tile[:, None], tile[None, :]]

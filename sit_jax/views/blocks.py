"""Random masks made of rectangular blocks: connected patches of the image, never single pixels (SiT, section 3)."""

import math

import jax
import jax.numpy as jnp

MAX_CELLS = 64  # a mask of several blocks is drawn on a grid of at most 64 x 64 cells, then enlarged
MAX_RANDOM_BLOCKS = 128


def one_block(key: jax.Array, size: int, block: tuple, probability: float) -> jax.Array:
    """Draws the mask of one block, [size, size] bool.

    Each side is a share of the image from U(*block), at least one pixel. With 1 - `probability` the mask is empty.
    """
    use_key, side_key, start_key = jax.random.split(key, 3)
    sides = jnp.round(jax.random.uniform(side_key, (2,), minval=block[0], maxval=block[1]) * size)
    sides = jnp.clip(sides, 1, size)
    start = jnp.floor(jax.random.uniform(start_key, (2,)) * (size - sides + 1))
    inside = _inside(start, sides, size)
    return inside[0][:, None] & inside[1][None, :] & jax.random.bernoulli(use_key, probability)


def many_blocks(key: jax.Array, size: int, fraction: tuple, block: tuple) -> jax.Array:
    """Draws blocks until they cover the share of the image that was asked for, to within one block; [size, size] bool.

    The share is drawn from U(*fraction), each side of a block from U(*block) of the image. All candidates are drawn at
    once, a cell remembers the first that covers it, and the mask takes the shortest prefix that covers enough: static
    shapes, no loop. After the random blocks come the tiles of a grid in random order, so that any share can be met.
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
    """Returns the side of the drawing grid: the largest divisor up to MAX_CELLS, or single pixels if that is coarse."""
    divisor = max(d for d in range(1, min(size, MAX_CELLS) + 1) if size % d == 0)
    return divisor if divisor >= min(size, MAX_CELLS // 2) else size


def _first_random_block(
    side_key: jax.Array, start_key: jax.Array, cells: int, fraction: tuple, block: tuple
) -> jax.Array:
    """Returns the index of the first random block over each cell, [cells, cells] int32 (large where there is none)."""
    mean_area = ((block[0] + block[1]) / 2) ** 2
    # Blocks overlap, so the expected cover after n is 1 - (1 - mean_area)^n; the margin covers unlucky draws.
    count = math.ceil(1.5 * -math.log1p(-min(fraction[1], 0.95)) / mean_area) + 1
    count = min(count, MAX_RANDOM_BLOCKS)
    sides = jnp.round(jax.random.uniform(side_key, (count, 2), minval=block[0], maxval=block[1]) * cells)
    sides = jnp.clip(sides, 1, cells)
    # Blocks may reach over the border by up to a half: otherwise corners would hardly ever be covered.
    reach = jnp.floor(sides / 2)
    start = jnp.floor(jax.random.uniform(start_key, (count, 2)) * (cells - sides + 2 * reach + 1)) - reach
    inside = _inside(start, sides, cells)
    covers = inside[:, 0, :, None] & inside[:, 1, None, :]
    index = jnp.arange(count)[:, None, None]
    return jnp.min(jnp.where(covers, index, jnp.iinfo(jnp.int32).max), axis=0)


def _random_tiles(key: jax.Array, cells: int, block: tuple) -> jax.Array:
    """Returns the rank of the tile of each cell in a random order of the largest blocks, [cells, cells] int32."""
    side = min(cells, max(1, int(block[1] * cells)))
    tiles = math.ceil(cells / side)
    rank = jax.random.permutation(key, tiles * tiles).reshape(tiles, tiles)
    tile = jnp.arange(cells) // side
    return rank[tile[:, None], tile[None, :]]

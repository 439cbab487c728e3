"""Checksums of arrays, computed where the arrays are; equal for every mesh."""

import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P


def checksums(tree: dict) -> dict[str, int]:
    """Returns a 32-bit checksum of each array of 4-byte numbers, by its joined name such as "params/log_var/rotation".

    The checksum is the sum, modulo 2**32, of each element's bits times an odd weight of its position: any change of a
    single element changes it. All hosts must call this; all get the same result.
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    arrays = [leaf for _, leaf in leaves]
    mesh = next((leaf.sharding.mesh for leaf in arrays if isinstance(leaf.sharding, NamedSharding)), None)
    whole = None if mesh is None else NamedSharding(mesh, P())
    sums = jax.device_get(jax.jit(_checksums, out_shardings=whole)(arrays))
    return dict(zip(names, map(int, sums), strict=True))


def _checksums(arrays: list[jax.Array]) -> jax.Array:
    return jnp.stack([_checksum(x) for x in arrays])


def _checksum(x: jax.Array) -> jax.Array:
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    place, stride = jnp.zeros(x.shape, jnp.uint32), 1
    for axis in reversed(range(x.ndim)):
        place += jax.lax.broadcasted_iota(jnp.uint32, x.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= x.shape[axis]
    return jnp.sum(bits * (2 * place + 1), dtype=jnp.uint32)
